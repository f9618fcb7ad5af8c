"""Rules for what commands and documents name: files, options, outputs, values, objects. Each returns its problems."""

import functools
import json
import pathlib
import re
import subprocess

import yaml

from gate import chart, cluster, documents, names, terraform, workflows

# The first part of a path in the repository, as commands and documents write it.
DIRECTORIES = (".ci", ".github", "aws", "bench", "docs", "fuzz", "helm", "infrastructure", "ingest-lambda", "local-s3")
DIRECTORIES += ("local-stack", "movie-file", "rest-api", "schema", "scripts")
# `terraform init` writes the first; an operator writes the second, in a repository of their own.
GENERATED = (".terraform.lock.hcl", "helm/production.yaml")


def _module(directory):
    plans = terraform.plans(directory)
    return plans[next(iter(plans))]["configuration"]["root_module"]


def check_terraform_commands():
    problems = []
    for command in documents.commands():
        if command.program != "terraform":
            continue
        directories = command.values("-chdir")
        for directory in directories:
            path = pathlib.Path(directory)
            if path.name not in terraform.PLANS or not path.is_dir():
                problems.append(f"{command}: no directory {directory}")
                continue
            module, words = _module(path.name), list(command.words)
            for value in command.values("-var"):
                name = value.partition("=")[0]
                if name not in module["variables"]:
                    problems.append(f"{command}: {path.name} has no variable {name}")
            if "output" in words:
                for name in words[words.index("output") + 1 :]:
                    if not name.startswith("-") and name not in module["outputs"]:
                        problems.append(f"{command}: {path.name} has no output {name}")
        if not directories and {"apply", "destroy", "output", "plan"} & set(command.words) and len(command.words) > 2:
            problems.append(f"{command}: without -chdir it finds no configuration")
    declared = set().union(*(_module(directory)["variables"] for directory in terraform.PLANS))
    for place, found in names.everywhere(r"\bTF_VAR_(\w+)").items():
        problems += [f"{place}: no directory has the variable {name}" for name in sorted(found - declared)]
    return problems


def _exists(path):
    path = path.rstrip("/:,.")
    return path.endswith(GENERATED) or bool(list(pathlib.Path().glob(path)))


def check_files():
    """Paths of the repository in commands, in code and in links exist."""
    problems = []
    pattern = re.compile(rf"(?:\./)?(?:{'|'.join(map(re.escape, DIRECTORIES))})/[\w./*-]+")
    for command in documents.commands():
        for word in command.words:
            for value in {word, word.partition("=")[2]}:
                if pattern.fullmatch(value) and not _exists(value):
                    problems.append(f"{command}: no file {value}")
    for file in documents.files():
        if file.name == "CHANGELOG.md":
            continue
        for _, text in documents.code(file):
            if (
                pattern.fullmatch(text)
                and "NNNN" not in text
                and not _exists(text)
                and not (file.parent / text).exists()
            ):
                problems.append(f"{file}: no file {text}")
        for target in documents.links(file):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            linked = file.parent / path if path else file
            if not linked.exists():
                problems.append(f"{file}: the link to {target} leads nowhere")
            elif anchor and linked.suffix == ".md" and anchor not in documents.anchors(linked):
                problems.append(f"{file}: no heading for the link to {target}")
    for directory in {name for job in _calls() for name in [job["with"]["directory"]]}:
        if directory not in terraform.PLANS:
            problems.append(f"workflows: no directory infrastructure/{directory}")
    return problems


def _calls():
    for file in workflows.files():
        for job in workflows.load(file).get("jobs", {}).values():
            if "directory" in job.get("with", {}):
                yield job


@functools.cache
def _help(script):
    return subprocess.run([script, "--help"], check=False, capture_output=True, text=True).stdout


def check_scripts():
    """Scripts get options that they have; .ci/run gets steps that it has, and the workflow `test` runs all."""
    problems = []
    text = pathlib.Path(".ci/run").read_text()
    steps, named = (re.search(rf"^{name}=\((.*)\)", text, re.MULTILINE)[1].split() for name in ("STEPS", "NAMED_STEPS"))
    run = set()
    for command in documents.commands():
        script = command.words[0]
        if script == ".ci/run":
            given = [word for word in command.words[1:] if not word.startswith("-")]
            problems += [f"{command}: no step {word}" for word in given if word not in steps + named]
            run |= set(given) if command.place.startswith("test.yml") else set()
        elif script.startswith("scripts/") and pathlib.Path(script).exists():
            words = command.words[1:]
            for word in words[: words.index("--")] if "--" in words else words:
                if word.startswith("--") and word.partition("=")[0] not in _help(script):
                    problems.append(f"{command}: {script} has no option {word}")
    problems += [f"test.yml does not run the step {step} of .ci/run" for step in steps if step not in run]
    return problems


def _has_value(path, values):
    node = values
    for part in re.sub(r"\[\d+\]", "", path).split("."):
        if not isinstance(node, dict) or part not in node:
            # A map of the user's own, such as annotations, may have any key.
            return node == {}
        node = node[part]
    return True


def check_chart_values():
    problems, defaults = [], chart.defaults()
    for command in documents.commands():
        if command.program == "helm" and str(chart.CHART) not in command.words:
            continue
        given = command.values("--set", "--set-string", unknown=True)
        for value in given if command.program in ("helm", "--set") else ():
            for part in re.split(r"(?<!\\),", value):
                path = part.partition("=")[0]
                if not _has_value(path, defaults):
                    problems.append(f"{command}: the chart has no value {path}")
    for file in documents.files():
        for language, text in documents.code(file):
            dotted = re.fullmatch(r"([a-zA-Z]+)(\.[a-zA-Z]+)+", text) if language is None else None
            # A name of a file, or of a host, has dots as well.
            other = text.endswith((".rs", ".js", ".md", ".tf", ".yaml", ".org"))
            is_value = dotted and dotted[1] in defaults and not other
            if is_value and not _has_value(text, defaults):
                problems.append(f"{file}: the chart has no value {text}")
        found = re.findall(r"[Cc]hart's values? `(\w+)`", file.read_text())
        problems += [f"{file}: the chart has no value {name}" for name in found if not _has_value(name, defaults)]
    for row in documents.table(chart.CHART / "README.md", "value"):
        for name in documents.names(row[0]):
            if not _has_value(name, defaults):
                problems.append(f"{chart.CHART}/README.md: the chart has no value {name}")
    # What the script prints must be values of the chart, and what it reads must be outputs.
    text = pathlib.Path("scripts/database-values").read_text()
    outputs = _module("2-rds")["outputs"]
    for name, output in re.findall(r"^ +(\w+): \(?\.(\w+)\.value", text, re.MULTILINE):
        if name not in defaults["database"]:
            problems.append(f"scripts/database-values: the chart has no value database.{name}")
        if output not in outputs:
            problems.append(f"scripts/database-values: 2-rds has no output {output}")
    return problems


def check_objects():
    """Commands name objects, labels and releases that exist, in their namespace."""
    problems = []
    manifests = [manifest for file in chart.values_files() for manifest in chart.manifests(file)]
    existing = {f"{m['kind'].lower()}/{m['metadata']['name']}" for m in manifests}
    existing |= {name.replace("deployment/", "deploy/") for name in existing}
    specs = [manifest.get("spec", {}) for manifest in manifests]
    specs = [spec.get("jobTemplate", {}).get("spec", spec) for spec in specs]
    labels = [spec["template"]["metadata"]["labels"] for spec in specs if "template" in spec]
    identities = {(i["namespace"], i["serviceAccountName"]) for i in cluster.config()["iam"]["podIdentityAssociations"]}
    for command in documents.commands():
        if command.has("eksctl", "create", "podidentityassociation"):
            identities |= set(zip(command.values("--namespace"), command.values("--service-account-name"), strict=True))
    namespaces = {namespace for namespace, _ in identities}
    for command in documents.commands():
        words = command.words
        if command.program == "kubectl":
            named = [word for word in words if re.fullmatch(r"(deploy|deployment|job|service|configmap)/[\w-]+", word)]
            problems += [f"{command}: the chart creates no {word}" for word in named if word not in existing]
            used = command.values("-n", "--namespace")
            if named and not used:
                problems.append(f"{command}: without -n it looks into the namespace default")
            problems += [f"{command}: no namespace {name}" for name in used if name not in namespaces]
            for selector in command.values("-l", "--selector"):
                wanted = dict(part.split("=", 1) for part in selector.split(","))
                if not any(wanted.items() <= found.items() for found in labels):
                    problems.append(f"{command}: no pods have the labels {selector}")
        elif command.program == "helm" and {"test", "rollback", "uninstall"} & set(words[1:2]) and len(words) > 2:
            if words[2] not in {name for _, name in identities}:
                problems.append(f"{command}: no release {words[2]}")
            if not command.values("--namespace", "-n"):
                problems.append(f"{command}: without --namespace it looks into the namespace default")
        elif command.program == "helm" and command.has("upgrade", "--install"):
            release = words[words.index("--install") + 1]
            given = [value.partition("serviceAccount.name=")[2] for value in command.values("--set")]
            account = [value for value in given if value] or [release]
            for namespace in command.values("--namespace"):
                if (namespace, account[0]) not in identities:
                    problems.append(f"{command}: 1-eks has no pod identity for {namespace}/{account[0]}")
    return problems


def check_names():
    """Every name that begins with movies-r-us is one that a file defines."""
    problems, known = [], names.known()
    for file in set(names.files()) - set(chart.values_files()):
        text = names.without_account(file.read_text())
        for name in sorted(set(names.NAME.findall(text))):
            # The beginning of a name may stand for all that begin so.
            if name not in known and not any(other.startswith(name + "-") for other in known):
                problems.append(f"{file}: nothing has the name {name}")
    queues = {
        resource["name"]
        for plan in terraform.plans("3-s3-lambda").values()
        for address, resource in terraform.resources(plan).items()
        if address.startswith("aws_sqs_queue.")
    }
    buckets = {name for name in known if name.endswith("ACCOUNT")}
    for command in documents.commands():
        for value in command.values("--queue", "--queue-name", "--queue-url"):
            if value and value.rpartition("/")[2] not in queues:
                problems.append(f"{command}: no queue {value}")
        if "http://127.0.0.1" in str(command) or command.place == "README.md":
            continue
        for word in command.words:
            for value in re.findall(r"s3://([\w-]+)", word) + (command.values("--bucket") if "s3api" in word else []):
                if names.without_account(value) not in buckets:
                    problems.append(f"{command}: no bucket {value}")
    return problems


def check_packages():
    """Commands of cargo name packages and groups of tests that exist."""
    problems = []
    members = {file.parent.name for file in pathlib.Path().glob("*/Cargo.toml")}
    for command in documents.commands():
        if command.program != "cargo":
            continue
        for package in command.values("-p", "--package"):
            if package not in members:
                problems.append(f"{command}: no package {package}")
        for word in command.words:
            if re.fullmatch(r"\w+::.*", word):
                group = pathlib.Path("rest-api/tests/it", word.partition("::")[0])
                if not group.is_dir() and not group.with_suffix(".rs").exists():
                    problems.append(f"{command}: no group of tests {word}")
    return problems


def _differences(place, what, documented, existing):
    missing, unknown = sorted(existing - documented), sorted(documented - existing)
    return [f"{place} does not have the {what} {name}" for name in missing] + [
        f"{place}: there is no {what} {name}" for name in unknown
    ]


def check_tables():
    """Tables of the documents list what exists, and all of it."""
    problems = []
    for directory in terraform.PLANS:
        file, module = terraform.INFRASTRUCTURE / directory / "README.md", _module(directory)
        rows = documents.table(file, "variable")
        documented = {name for row in rows for name in documents.names(row[0])}
        problems += _differences(file, "variable", documented, set(module["variables"]))
        for row in rows:
            defaults = re.split(r", ", row[1].replace("`", "").replace(" GiB", ""))
            variables = documents.names(row[0])
            for name, said in zip(variables, defaults, strict=False):
                default = module["variables"][name].get("default") if name in module["variables"] else None
                if default not in (None, {}, []) and len(variables) == len(defaults) and " " not in said:
                    written = json.dumps(default).strip('"')
                    if written != said:
                        problems.append(f"{file}: the default of {name} is {written}, not {said}")
        text = file.read_text().partition("## Outputs")[2].partition("## ")[0]
        documented = {name for name in documents.names(text) if re.fullmatch(r"[a-z_]+", name)}
        problems += _differences(file, "output", documented, set(module["outputs"]))
    operations = pathlib.Path("docs/operations.md")
    cells = [row[0] for row in documents.table(operations, "alarm")]
    documented = {name for cell in cells for name in documents.names(cell)} - set(terraform.PLANS["3-s3-lambda"])
    planned = {
        resource["alarm_name"]
        for directory in terraform.PLANS
        for plan in terraform.plans(directory).values()
        for address, resource in terraform.resources(plan).items()
        if address.startswith("aws_cloudwatch_metric_alarm.")
    }
    # A document may leave out the beginning of a name.
    known = {name for name in documented if any(f"-{alarm}".endswith(f"-{name.lstrip('-')}") for alarm in planned)}
    listed = {alarm for alarm in planned if any(f"-{alarm}".endswith(f"-{name.lstrip('-')}") for name in documented)}
    problems += [f"{operations}: there is no alarm {name}" for name in sorted(documented - known)]
    problems += [f"{operations} does not have the alarm {alarm}" for alarm in sorted(planned - listed)]
    rows = documents.table(operations, "alert")
    documented = {name for row in rows for name in documents.names(row[0])}
    problems += _differences(operations, "alert", documented, _alerts())
    return problems + _workflow_tables()


def _alerts():
    """Returns the alerts of the chart; which there are depends on its values."""
    manifests = [manifest for file in chart.values_files() for manifest in chart.manifests(file)]
    rules = [manifest["spec"] for manifest in manifests if manifest["kind"] == "PrometheusRule"]
    return {rule["alert"] for spec in rules for group in spec["groups"] for rule in group["rules"]}


def _workflow_tables():
    problems = []
    readme = workflows.GITHUB / "workflows/README.md"
    used = set().union(*(re.findall(r"\bvars\.([A-Z_]+)", file.read_text()) for file in workflows.files()))
    documented = {text for _, text in documents.code(readme) if re.fullmatch(r"[A-Z][A-Z_]+", text)}
    problems += _differences(readme, "variable", documented, used)
    environments = {
        job["environment"]
        for effect in workflows.effects().values()
        for job in effect["jobs"].values()
        if "environment" in job
    }
    documented = {name for row in documents.table(readme, "environment") for name in documents.names(row[0])}
    problems += _differences(readme, "environment", documented, environments)
    installation = pathlib.Path("docs/installation.md")
    documented = {name for row in documents.table(installation, "workflow") for name in documents.names(row[0])}
    problems += _differences(installation, "workflow", documented, set(workflows.effects()))
    names_of_workflows = {file.stem: yaml.safe_load(file.read_text())["name"] for file in workflows.files()}
    problems += [f"{stem}.yml has the name {name}" for stem, name in names_of_workflows.items() if stem != name]
    return problems


RULES = (
    check_terraform_commands,
    check_files,
    check_scripts,
    check_chart_values,
    check_objects,
    check_names,
    check_packages,
    check_tables,
)
