"""The chart: its default values, its schema, and what helm renders."""

import functools
import json
import pathlib
import re
import subprocess

import yaml

CHART = pathlib.Path("helm/movies-r-us")
CLUSTER = pathlib.Path("infrastructure/1-eks/config.yml")
RELEASE = "movies-r-us"


def values_files():
    """Returns the values files of the checks. aws.yaml sets only what has no default."""
    return sorted(CHART.glob("ci/*.yaml"))


def defaults():
    return yaml.safe_load((CHART / "values.yaml").read_text())


def schema():
    return json.loads((CHART / "values.schema.json").read_text())


def _helm(*arguments):
    done = subprocess.run(["helm", *arguments, "--namespace", RELEASE], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"gate: helm {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@functools.cache
def manifests(values):
    """Returns the objects that helm renders for a values file."""
    version = yaml.safe_load(CLUSTER.read_text())["metadata"]["version"]
    text = _helm("template", RELEASE, str(CHART), "--values", str(values), "--kube-version", f"{version}.0")
    return [manifest for manifest in yaml.load_all(text, Loader=yaml.CSafeLoader) if manifest]


@functools.cache
def notes(values):
    """Returns what helm prints after an installation."""
    text = _helm("install", RELEASE, str(CHART), "--dry-run=client", "--values", str(values))
    return text.partition("\nNOTES:\n")[2]


def without_noise(manifest):
    """Returns a manifest without hashes and versions, which differ in every object when one value differs."""
    text = yaml.safe_dump(manifest, width=1000)
    for pattern, replacement in (
        (r"(checksum/\S+: )[0-9a-f]{64}", r"\1HASH"),
        (r"(-migrate-\d+-)[0-9a-f]{8}\b", r"\1HASH"),
        (r"(app.kubernetes.io/version: ).*", r"\1VERSION"),
        (r"(helm.sh/chart: [a-z-]+-).*", r"\1VERSION"),
    ):
        text = re.sub(pattern, replacement, text)
    return yaml.safe_load(text)


def flat_schema(node, path="", definitions=None):
    """Yields a line for each constraint of the schema, with references resolved."""
    definitions = node.get("definitions", {}) if definitions is None else definitions
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **{k: v for k, v in node.items() if k != "$ref"}}
    for key, value in node.items():
        if key in ("$schema", "title", "description", "definitions"):
            continue
        if key in ("properties", "patternProperties"):
            for name, child in value.items():
                yield from flat_schema(child, f"{path}.{name}".strip("."), definitions)
        elif isinstance(value, dict) and key in ("items", "additionalProperties", "propertyNames"):
            yield from flat_schema(value, f"{path}[{key}]", definitions)
        elif isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            children = value if isinstance(value, list) else [value]
            for number, child in enumerate(children):
                yield from flat_schema(child, f"{path}<{key} {number}>", definitions)
        else:
            yield f"{path or '.'} {key}: {json.dumps(value)}"


def pod_of(manifest):
    """Returns the specification of the pods that an object creates, or None."""
    if manifest["kind"] == "Pod":
        return manifest["spec"]
    if manifest["kind"] == "CronJob":
        return manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return manifest.get("spec", {}).get("template", {}).get("spec") if manifest["kind"] != "Ingress" else None
