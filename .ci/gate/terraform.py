"""The plans of infrastructure/2-rds and 3-s3-lambda, which terraform makes with a stand-in for AWS."""

import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import hcl2

from gate import provider

INFRASTRUCTURE = pathlib.Path("infrastructure")
# The same file as for `terraform validate` where the registry cannot be reached. Elsewhere terraform fetches it.
OFFLINE_SCHEMA = pathlib.Path("../shared/infra/aws-provider-6.62.0.schema.json")
FETCHED_SCHEMA = pathlib.Path("target/ci-tools/aws-provider.schema.json")
KEPT = pathlib.Path("target/plans")

NOTIFY = {"movies_r_us_notify_api_url": "https://notify.movies.example.com/notify", "lambda_package": "package.zip"}
NETWORK = {"vpc_id": "vpc-0123456789abcdef0", "subnet_ids": '["subnet-0a", "subnet-0b", "subnet-0c"]'}
# Each directory is planned with these variables. The first plan is that of the defaults. Together they set each
# variable once.
PLANS = {
    "2-rds": {
        "defaults": {},
        "reader": {"reader": "true"},
        "given": {
            **NETWORK,
            "migration_role_name": "movies-r-us-migrate",
            "pod_role_name": "movies-r-us-api",
            "pods_read_owner_secret": "true",
            "instance_class": "db.t4g.medium",
            "allocated_storage": "100",
            "max_allocated_storage": "1000",
            "final_snapshot_identifier": "movies-r-us-final",
        },
    },
    "3-s3-lambda": {
        "direct": NOTIFY,
        "sqs": {**NOTIFY, "event_source": "sqs"},
        "eventbridge": {**NOTIFY, "event_source": "eventbridge", "alarm_email": "operators@example.com"},
        "given": {
            **NOTIFY,
            **NETWORK,
            "event_source": "sqs",
            "previous_event_source": "direct",
            "reserved_concurrency": "-1",
            "noncurrent_days": "60",
            "api_token_secret_name": "movies-r-us/api-token",
        },
        "load-balancers": {
            **NOTIFY,
            "load_balancers": '{"movies-r-us-public"="app/k8s-public/0a","movies-r-us-internal"="app/k8s-internal/0b"}',
        },
        "uploads": {
            **NOTIFY,
            "upload_prefix": "incoming/",
            "page_origins": '["https://movies.example.com"]',
        },
        "tracing": {**NOTIFY, "tracing_endpoint": "http://otel.example.internal:4318", "tracing_sample_ratio": "0.1"},
    },
}


def _terraform(directory, *arguments, **variables):
    done = subprocess.run(
        ["terraform", f"-chdir={directory}", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_IN_AUTOMATION": "1", "TF_CLI_CONFIG_FILE": os.devnull, **variables},
    )
    if done.returncode:
        raise SystemExit(f"gate: terraform {arguments[0]} in {pathlib.Path(directory).name}: {done.stderr.strip()}")
    return done.stdout


def _fetch_schema():
    with tempfile.TemporaryDirectory() as work:
        shutil.copy(INFRASTRUCTURE / "2-rds/versions.tf", work)
        _terraform(work, "init", "-backend=false", "-input=false")
        FETCHED_SCHEMA.parent.mkdir(parents=True, exist_ok=True)
        FETCHED_SCHEMA.write_text(_terraform(work, "providers", "schema", "-json"))


def _schema(text):
    """Returns the provider's schema of what the files use; that of all is large."""
    file = OFFLINE_SCHEMA
    if not file.exists():
        file = FETCHED_SCHEMA
        if not file.exists():
            _fetch_schema()
    whole = json.loads(file.read_text())["provider_schemas"][provider.ADDRESS]
    used = set(re.findall(r'"(aws_\w+)"', text))
    return {
        "provider": whole["provider"],
        **{
            kind: {name: spec for name, spec in whole[kind].items() if name in used}
            for kind in ("resource_schemas", "data_source_schemas")
        },
    }


def sources(directory):
    return sorted((INFRASTRUCTURE / directory).glob("*.tf"))


@functools.cache
def plans(directory):
    """Returns `terraform show -json` of each plan of a directory. Several checks need it: it is kept in target."""
    inputs = [*sources(directory), *sorted(pathlib.Path(__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in inputs)).hexdigest()
    kept = KEPT / f"{directory}-{digest[:16]}.json"
    if not kept.exists():
        found = _plan(directory)
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=KEPT, delete=False) as file:
            json.dump(found, file)
        pathlib.Path(file.name).rename(kept)
    return json.loads(kept.read_text())


def _plan(directory):
    text = "".join(file.read_text() for file in sources(directory))
    with tempfile.TemporaryDirectory() as work, provider.serve(_schema(text)) as variables:
        variables["TF_DATA_DIR"] = f"{work}/.data"
        for file in sources(directory):
            shutil.copy(file, work)
        # The real backend needs an account; an override file replaces it.
        pathlib.Path(work, "gate_override.tf").write_text('terraform {\n  backend "local" {}\n}\n')
        pathlib.Path(work, "package.zip").write_text("")
        _terraform(work, "init", "-input=false", "-no-color", **variables)
        found = {}
        for name, values in PLANS[directory].items():
            given = [f"-var={key}={value}" for key, value in values.items()]
            _terraform(
                work, "plan", "-input=false", "-no-color", "-lock=false", f"-out={work}/plan", *given, **variables
            )
            found[name] = json.loads(_terraform(work, "show", "-json", f"{work}/plan", **variables))
        return found


def resources(plan):
    """Returns the planned values by address: what the configuration sets, with policies as objects."""
    found = plan["planned_values"]["root_module"]["resources"]
    data = plan.get("prior_state", {}).get("values", {}).get("root_module", {}).get("resources", [])
    return {
        resource["address"]: {
            name: value
            for name, raw in resource["values"].items()
            if not _is_empty(value := _readable(raw, resource["type"], name))
        }
        for resource in found + data
    }


def _is_empty(value):
    return value is None or value in ("", [], {})


def _readable(value, kind, attribute):
    """Leaves out what the stand-in has filled (None), and what is not set."""
    if isinstance(value, dict):
        cleaned = {name: _readable(inner, kind, attribute) for name, inner in value.items()}
        kept = {name: inner for name, inner in cleaned.items() if not _is_empty(inner)}
        # An empty block such as `filter {}` means something; an object of filled attributes does not.
        return kept if kept or not any(isinstance(inner, str) for inner in value.values()) else None
    if isinstance(value, list):
        cleaned = [_readable(inner, kind, attribute) for inner in value]
        return [inner for inner in cleaned if inner is not None]
    if isinstance(value, str):
        if re.match(rf"{{(data\.)?{kind}\.", value) and re.search(rf"\.{attribute}(\.\w+)*}}$", value):
            return None
        if value.startswith('{"'):
            return json.loads(value)
    return value


def references(plan):
    """Returns by address which attribute refers to what, and what each resource waits for."""
    found = {}
    for resource in plan["configuration"]["root_module"]["resources"]:
        entry = {name: list(_referred(value)) for name, value in resource.get("expressions", {}).items()}
        for name in ("count_expression", "for_each_expression"):
            entry[name.removesuffix("_expression")] = list(_referred(resource.get(name, {})))
        entry["depends_on"] = resource.get("depends_on", [])
        found[resource["address"]] = {name: sorted(set(value)) for name, value in entry.items() if value}
    return found


def _referred(expression):
    """Yields the references of an expression; terraform lists a.b.c as well as a.b."""
    if isinstance(expression, list):
        for inner in expression:
            yield from _referred(inner)
    elif isinstance(expression, dict):
        listed = expression.get("references")
        if not isinstance(listed, list):
            for inner in expression.values():
                yield from _referred(inner)
            return
        for name in listed:
            if not any(other.startswith((f"{name}.", f"{name}[")) for other in listed):
                yield name


@functools.cache
def _written(directory):
    return [_plain(hcl2.loads(file.read_text())) for file in sources(directory)]


def blocks(directory, kind):
    """Returns the blocks of one kind as they are written: what a plan does not show."""
    return [block for file in _written(directory) for block in file.get(kind, [])]


def locked(directory):
    """Returns the providers that the lock file has, by address; none if there is no file yet."""
    file = INFRASTRUCTURE / directory / ".terraform.lock.hcl"
    written = _plain(hcl2.loads(file.read_text())).get("provider", []) if file.exists() else []
    return {address: body for block in written for address, body in block.items()}


def _plain(node):
    """Returns what python-hcl2 has read without its marks, and without the quotes of literals."""
    if isinstance(node, dict):
        return {_plain(k): _plain(v) for k, v in node.items() if not k.startswith("__")}
    if isinstance(node, list):
        return [_plain(inner) for inner in node]
    if isinstance(node, str) and len(node) > 1 and node[0] == node[-1] == '"':
        return node[1:-1]
    return node


def lifecycles(directory):
    """Returns the lifecycle block of each resource that has one."""
    found = {}
    for block in blocks(directory, "resource"):
        for kind, named in block.items():
            for name, body in named.items():
                if "lifecycle" in body:
                    found[f"{kind}.{name}"] = body["lifecycle"]
    return found
