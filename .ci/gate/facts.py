"""What the files say, in the form in which the table of .ci/check-agreement.py compares it."""

import pathlib
import re

from gate import chart, cluster, documents, image, names, terraform, workflows
from gate import options as cloudformation

CLUSTER = cluster.config()
NODES = CLUSTER["managedNodeGroups"]
IDENTITIES = {(i["namespace"], i["serviceAccountName"]): i for i in CLUSTER["iam"]["podIdentityAssociations"]}
SERVICE = next(i for i in IDENTITIES.values() if i["roleName"].endswith("-api"))
MIGRATION = next(i for i in IDENTITIES.values() if i["roleName"].endswith("-migrate"))
DEFAULTS = chart.defaults()
RENDERED = {file.stem: chart.manifests(file) for file in chart.values_files()}
AWS = {manifest["kind"]: manifest for manifest in RENDERED["aws"]}
POD = AWS["Deployment"]["spec"]["template"]["spec"]
CONFIG = AWS["ConfigMap"]["data"]
PLANS = {directory: terraform.plans(directory) for directory in terraform.PLANS}
RESOURCES = {
    directory: {name: terraform.resources(plan) for name, plan in plans.items()} for directory, plans in PLANS.items()
}
DATABASE, READER = (RESOURCES["2-rds"][name] for name in ("defaults", "reader"))
DIRECT = RESOURCES["3-s3-lambda"]["direct"]
FUNCTION = DIRECT["aws_lambda_function.ingest"]
TEMPLATES = cloudformation.templates()
JOBS = {
    f"{file.name}, {name}": job
    for file in workflows.files()
    for name, job in workflows.expanded_jobs(workflows.load(file)).items()
}


def variable(directory, name):
    declared = PLANS[directory][next(iter(PLANS[directory]))]["configuration"]["root_module"]["variables"]
    return declared.get(name, {}).get("default")


def backend(directory):
    return terraform.blocks(directory, "terraform")[0]["backend"][0]["s3"]


def provider(directory):
    return terraform.blocks(directory, "provider")[0]["aws"]


def text(file, pattern):
    """Returns what the groups of a pattern match in a file."""
    return set(re.findall(pattern, pathlib.Path(file).read_text(), re.MULTILINE))


def options(label, chosen, *options, key=None, then=None):
    """Returns the values of an option by place, for the commands that are chosen.

    `key` picks one of several settings, such as those of --set. `then` changes a value, or leaves it out (None).
    """
    found = {}
    for command in documents.commands():
        values = command.values(*options) if chosen(command) else []
        if key:
            settings = [setting for value in values for setting in value.split(",")]
            values = [setting.partition("=")[2] for setting in settings if setting.startswith(f"{key}=")]
        values = [value for value in values if value and "$" not in value]
        if then:
            values = [changed for value in values if (changed := then(value))]
        if values:
            found.setdefault(f"{command.place}, {label}", set()).update(values)
    return found


def job_values(pick):
    """Returns a value by job, where the job has it."""
    return {name: value for name, job in JOBS.items() if (value := pick(job))}


def steps_with(action, key):
    return job_values(
        lambda job: {step["with"][key] for step in job["steps"] if action in step.get("uses", "") and "with" in step}
    )


def policy_resource(sid):
    statement = next(s for s in SERVICE["permissionPolicy"]["Statement"] if s["Sid"] == sid)
    return names.without_account(statement["Resource"])


def docker(argument):
    return dict(value.split("=", 1) for name, value in image.instructions() if name == "ARG")[argument]


def of_service(command):
    """Tells whether a command is about the release, or one of its objects."""
    return command.program in ("helm", "kubectl") and any(
        re.fullmatch(r"((deploy|deployment|service|job)/)?movies-r-us", word) for word in command.words[1:]
    )


def of(program):
    return lambda command: command.program == program


def of_aws(*words):
    return lambda command: command.has("aws", *words)


def last(separator):
    """Returns what takes the last part of a name, such as that of an ARN."""
    return lambda value: value.rpartition(separator)[2]


def step_values(key):
    """Returns the values of a variable of steps by job, without the account."""
    return job_values(
        lambda job: {names.without_account(env[key]) for step in job["steps"] if key in (env := step.get("env", {}))}
    )
