"""Rules for what the files ask of the programs: variables, subcommands, routes, metrics, annotations.

Each yields its problems.
"""

import json
import re

from gate import annotations, chart, documents, image, names, program, terraform

# The variables of the OpenTelemetry SDK that chart and terraform set.
OPENTELEMETRY = {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"}


def _manifests():
    """Yields every rendered object, and where it is from."""
    for file in chart.values_files():
        for manifest in chart.manifests(file):
            yield f"chart with {file.name}, {manifest['kind']}", manifest


def _containers():
    for where, manifest in _manifests():
        for container in (chart.pod_of(manifest) or {}).get("containers", []):
            yield where, container


def check_variables():
    known = program.variables(program.ALL)
    for place, found in names.everywhere(r"\bMRU_[A-Z0-9_]*[A-Z0-9]\b").items():
        for name in sorted(found - known):
            # The beginning of a name stands for a family, such as MRU_DB_*.
            if not any(other.startswith(name + "_") for other in known):
                yield f"{place}: no program reads {name}"
    service, function = program.variables(program.SERVICE), program.variables(program.FUNCTION)
    # A container may have variables of the user's own.
    given = [
        (where, entry["name"])
        for where, container in _containers()
        for entry in container.get("env", [])
        if entry["name"].startswith("MRU_")
    ]
    for where, manifest in _manifests():
        if manifest["kind"] == "ConfigMap" and "MRU_LISTEN" in manifest["data"]:
            given += [(where, name) for name in manifest["data"]]
    given += [("Dockerfile", value.partition("=")[0]) for name, value in image.instructions() if name == "ENV"]
    for where, name in given:
        # Others are of the AWS SDK.
        if name not in service | OPENTELEMETRY and not name.startswith("AWS_"):
            yield f"{where}: rest-api does not read {name}"
    for plan, found in terraform.plans("3-s3-lambda").items():
        environment = terraform.resources(found)["aws_lambda_function.ingest"]["environment"][0]["variables"]
        for name in sorted(set(environment) - function - OPENTELEMETRY):
            yield f"3-s3-lambda ({plan}): the function does not read {name}"


def _calls():
    """Yields the words behind rest-api wherever it is called, and where."""
    for where, container in _containers():
        yield where, container["args"]
    yield "Dockerfile, CMD", json.loads(image.value_of("CMD"))
    yield "Dockerfile, HEALTHCHECK", json.loads(image.value_of("HEALTHCHECK").partition("CMD ")[2])[1:]
    for command in documents.commands():
        words = list(command.words)
        if command.program == "cargo" and "run" in words and "rest-api" in words and "--" in words:
            yield str(command), words[words.index("--") + 1 :]
        elif "/rest-api" in words:
            yield str(command), words[words.index("/rest-api") + 1 :]
        elif command.program == "rest-api":
            yield str(command), words[1:]


def check_subcommands():
    known = program.subcommands()
    groups = {name.split()[0] for name in known} - known.keys()
    for where, given in _calls():
        words = [word for word in given if word not in ("--help", "...")]
        if not words or (len(words) == 1 and words[0] in groups):
            continue
        subcommand = next((s for count in (2, 1) if (s := " ".join(words[:count])) in known), None)
        if subcommand is None:
            yield f"{where}: rest-api has no subcommand {words[0]}"
            continue
        for word in words:
            option = word.partition("=")[0]
            if option.startswith("--") and option not in known[subcommand]:
                yield f"{where}: rest-api {subcommand} has no option {option}"
    health = json.loads(image.value_of("HEALTHCHECK").partition("CMD ")[2])[:1]
    entry, copied = json.loads(image.value_of("ENTRYPOINT")), [image.value_of("COPY").split()[-1]]
    if not health == entry == copied:
        yield f"Dockerfile: {health}, {entry} and {copied} must be the same program"


def check_annotations():
    for where, manifest in _manifests():
        for key in manifest["metadata"].get("annotations", {}):
            if not annotations.is_known(key):
                yield f"{where}: no controller knows the annotation {key}"
    for command in documents.commands():
        if command.program == "kubectl" and command.has("label", "namespace"):
            for word in command.words:
                key, equals, value = word.partition("=")
                if equals and "/" in key and value not in annotations.NAMESPACE_LABELS.get(key, set()):
                    yield f"{command}: no label of a namespace is {word}"


def check_routes():
    """Every path that something asks for is one of the program."""
    asked = []
    for where, container in _containers():
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked.append((where, container.get(probe, {}).get("httpGet", {}).get("path", "/")))
    for where, manifest in _manifests():
        found = manifest["metadata"].get("annotations", {})
        asked.append((where, found.get("alb.ingress.kubernetes.io/healthcheck-path", "/")))
        for rule in manifest["spec"]["rules"] if manifest["kind"] == "Ingress" else ():
            for entry in rule["http"]["paths"]:
                below = any(route.startswith(entry["path"].rstrip("/") + "/") for route in program.routes())
                if entry["pathType"] != "Prefix" or not below:
                    asked.append((where, entry["path"]))
    for command in documents.commands():
        for url in command.words[1:] if command.program == "curl" else ():
            match = re.fullmatch(r"https?://(?:movies\.|notify\.|127\.0\.0\.1)[^/]*(/[^?]*)(\?.*)?", url)
            if match and "$" not in match[1]:
                asked.append((str(command), re.sub(r"/ID\b", "/1", match[1])))
    for where, path in asked:
        if not program.serves(path):
            yield f"{where}: no route {path}"


def check_metrics():
    for place, found in names.everywhere(r"\bmru_[a-z_]*[a-z]\b").items():
        for name in sorted(found):
            if not program.has_metric(name):
                yield f"{place}: the service has no metric {name}"


RULES = (check_variables, check_subcommands, check_annotations, check_routes, check_metrics)
