"""The workflows as GitHub runs them: called workflows, inputs and matrices expanded, environments merged."""

import copy
import functools
import pathlib
import re

import yaml

GITHUB = pathlib.Path(".github")


def files():
    return sorted((GITHUB / "workflows").glob("*.yml"))


@functools.cache
def load(file):
    document = yaml.load(file.read_text(), Loader=yaml.CSafeLoader)
    # YAML 1.1 reads the key `on` as true.
    document["on"] = document.pop(True, {})
    return document


def substitute(node, context, values):
    """Replaces ${{ context.name }}, and context.name inside of conditions."""
    if isinstance(node, dict):
        return {
            key: _in_condition(value, context, values) if key == "if" else substitute(value, context, values)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [substitute(inner, context, values) for inner in node]
    if isinstance(node, str):
        for name, value in values.items():
            node = re.sub(rf"\$\{{\{{ *{context}\.{name} *\}}\}}", lambda _, value=value: _text(value), node)
    return node


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def _in_condition(text, context, values):
    for name, value in values.items():
        text = re.sub(rf"\b{context}\.{name}\b", f"'{_text(value)}'", str(text))
    return text


def expanded_jobs(document):
    """Returns every job by its name, with those of called workflows as `caller / job`."""
    found = {}
    for name, written in document.get("jobs", {}).items():
        job = copy.deepcopy(written)
        if "uses" in job:
            called = load(pathlib.Path(job["uses"]))
            declared = (called["on"].get("workflow_call") or {}).get("inputs") or {}
            inputs = {key: spec.get("default", "") for key, spec in declared.items()} | job.get("with", {})
            for inner_name, inner in expanded_jobs(substitute(called, "inputs", inputs)).items():
                inner["caller"] = {key: job[key] for key in ("needs", "if", "permissions", "with") if key in job}
                found[f"{name} / {inner_name}"] = inner
            continue
        job["env"] = {**document.get("env", {}), **job.get("env", {})}
        job.setdefault("permissions", document.get("permissions", {}))
        for label, copy_of_job in _matrix(job):
            found[f"{name}{label}"] = copy_of_job
    return found


def _matrix(job):
    """Yields a label and a job for each entry of a matrix; the workflows use `include` alone."""
    matrix = job.get("strategy", {}).get("matrix")
    if not matrix:
        yield "", job
        return
    if set(matrix) != {"include"}:
        raise SystemExit("gate: a matrix has other keys than include: teach .ci/gate/workflows.py")
    for entry in matrix["include"]:
        yield f" ({', '.join(map(str, entry.values()))})", substitute(job, "matrix", entry)


@functools.cache
def effects():
    """Returns by name what each workflow does that is not only called."""
    found = {}
    for file in files():
        document = load(file)
        if set(document["on"]) == {"workflow_call"}:
            continue
        settings = {key: value for key, value in document.items() if key not in ("jobs", "env", "name")}
        found[file.stem] = {**settings, "jobs": expanded_jobs(document)}
    return found
