"""Values of the workflows and the image that are valid, and yet wrong. Each assertion says why."""

import itertools
import re

import yaml

from gate import documents, image, shell, terraform, workflows

# A role of AWS may only be assumed in its environment, whose protection rules decide who may.
ENVIRONMENTS = {
    "AWS_DEPLOY_ROLE_ARN": "production",
    "AWS_PLAN_ROLE_ARN": "plan",
    "AWS_RELEASE_ROLE_ARN": "release",
}
TRIGGERS = {
    "advisories": {"schedule", "workflow_dispatch"},
    "deploy": {"workflow_dispatch"},
    "destroy": {"workflow_dispatch"},
    "release": {"push"},
    "test": {"push", "pull_request", "workflow_call"},
}
# Jobs in the order in which they must run.
ORDER = {
    "deploy": ["cluster", "database", "service", "events"],
    "destroy": ["ready", "events", "service", "database", "cluster"],
    "release": ["test", "image", "publish", "release"],
}


def workflow_values(require):
    effects = workflows.effects()
    for name, effect in effects.items():
        if name in TRIGGERS:
            require(set(effect["on"]) == TRIGGERS[name], f"{name}.yml: it may be started by {TRIGGERS[name]} only")
        require(effect.get("permissions") == {}, f"{name}.yml: jobs get no permissions that they do not name")
        for job_name, job in effect["jobs"].items():
            _job(require, f"{name}.yml, {job_name}", job)
    require(effects["release"]["on"]["push"] == {"tags": ["v*"]}, "release.yml: only a tag v* is a release")
    for name in ("deploy", "destroy"):
        require(
            effects[name]["concurrency"] == {"group": "production", "cancel-in-progress": False},
            f"{name}.yml: deploy and destroy must wait for each other, and never be cancelled midway",
        )
    require(
        effects["release"]["concurrency"]["cancel-in-progress"] is False, "release.yml: a release must not be cancelled"
    )
    for file in workflows.files():
        if file.stem in ORDER:
            _order(require, file)
    _plans(require, effects)
    _steps(require, effects)


def _changes(command):
    """Tells whether a command changes an installation."""
    words = command.words
    return (
        (command.program == "terraform" and {"apply", "destroy", "import"} & set(words))
        or (command.program == "helm" and {"upgrade", "install", "uninstall", "rollback"} & set(words[:2]))
        or (command.program == "eksctl" and {"create", "delete", "upgrade", "scale"} & set(words[:2]))
        or (command.program == "kubectl" and {"apply", "create", "delete", "label"} & set(words))
        or command.program == "install-controllers"
    )


def _job(require, where, job):
    environment = job.get("environment")
    for step in job["steps"]:
        role = re.search(r"vars\.(\w+)", step.get("with", {}).get("role-to-assume", ""))
        if role:
            require(
                environment == ENVIRONMENTS.get(role[1]),
                f"{where}: {role[1]} belongs to the environment {ENVIRONMENTS.get(role[1])}, not {environment}",
            )
            duration = int(step["with"].get("role-duration-seconds", 3600))
            require(
                duration >= 60 * job["timeout-minutes"],
                f"{where}: the credentials end after {duration} s, before the job's {job['timeout-minutes']} minutes",
            )
        for command in shell.commands(step.get("run", ""), where):
            if _changes(command):
                require(environment == "production", f"{command}: it needs the approval of `production`")
    require("timeout-minutes" in job, f"{where}: a job that hangs would run for six hours")
    writes = {key for key, value in job["permissions"].items() if value == "write"}
    scripts = [step.get("run", "") for step in job["steps"]]
    assumes = any("role-to-assume" in step.get("with", {}) for step in job["steps"])
    signs = any("actions/attest" in step.get("uses", "") for step in job["steps"])
    allowed = {"id-token"} if assumes or signs else set()
    allowed |= ({"attestations"} if signs else set()) | ({"contents"} if "gh release create" in str(scripts) else set())
    require(writes <= allowed, f"{where}: it needs no permission to write {sorted(writes - allowed)}")
    require(not assumes or "id-token" in writes, f"{where}: without id-token: write it gets no credentials of AWS")
    fetches = any("gh release download" in step.get("run", "") for step in job["steps"])
    verifies = any("gh attestation verify" in step.get("run", "") for step in job["steps"])
    require(not fetches or verifies, f"{where}: it uses a package without verifying who built it")
    for step in job["steps"]:
        text = step.get("run", "")
        # Commands that only show something may fail.
        lines = text.replace("\\\n", " ")
        hidden = re.search(r"\b(terraform|eksctl|gh|aws|helm (upgrade|rollback|test))\b.*\|\| true", lines)
        require(not hidden and "continue-on-error" not in step, f"{where}: it hides a failure")
        require("-auto-approve" not in text, f"{where}: nobody has read what -auto-approve applies")
        if "gh attestation verify" in text:
            require(
                text.count("gh attestation verify") == text.count(".github/workflows/release.yml"),
                f"{where}: only the workflow `release` may have signed it",
            )


def _order(require, file):
    jobs = workflows.load(file)["jobs"]
    order = ORDER[file.stem]
    for first, then in itertools.pairwise(order):
        needs = jobs.get(then, {}).get("needs", [])
        needs = [needs] if isinstance(needs, str) else needs
        require(first in needs, f"{file.name}: {then} must wait for {first}")


def _plans(require, effects):
    for name in ("deploy", "destroy"):
        jobs = effects[name]["jobs"].values()
        directories = {job["caller"]["with"].get("directory") for job in jobs if "with" in job.get("caller", {})}
        require(
            directories == set(terraform.PLANS), f"{name}.yml: it runs {directories}, not every terraform directory"
        )
    for name, effect in effects.items():
        for job_name, job in effect["jobs"].items():
            if "caller" not in job or "directory" not in job["caller"].get("with", {}):
                continue
            where, given = f"{name}.yml, {job_name}", job["caller"]["with"]
            require(
                bool(given.get("destroy")) == (name == "destroy"), f"{where}: only the workflow destroy may destroy"
            )
            script = "\n".join(step.get("run", "") for step in job["steps"])
            for command in shell.commands(script, where):
                if command.program == "terraform" and "init" in command.words:
                    require("-lockfile=readonly" in command.words, f"{command}: it may install other providers")
                if command.program == "terraform" and "apply" in command.words:
                    require(
                        command.words[-1].endswith("planned/plan"), f"{command}: only the approved plan may be applied"
                    )
                    require("-lock=false" not in command.words, f"{command}: two applies at once destroy the state")
                if command.program == "terraform" and "plan" in command.words:
                    require("-lock=false" in command.words, f"{command}: its role may not write a lock")
                    require(
                        any(word.startswith("-out=") for word in command.words)
                        and "-detailed-exitcode" in command.words,
                        f"{command}: the plan must be kept, and an empty one recognised",
                    )
                    destroys = given.get("destroy") or "-destroy" not in command.words
                    require(destroys, f"{command}: it plans the end of what it should create")
            if job_name.endswith("/ apply"):
                require(
                    job.get("needs") == "plan" and "needs.plan.outputs.plan" in job.get("if", ""),
                    f"{where}: it must apply what the job plan has planned",
                )
                require(job["timeout-minutes"] >= 60, f"{where}: a Multi-AZ database takes up to 30 minutes, twice")


def _steps(require, effects):
    deploy, destroy = effects["deploy"]["jobs"], effects["destroy"]["jobs"]
    require(
        "github.ref_type != 'tag'" in str(deploy["cluster"]["steps"][0].get("if")),
        "deploy.yml: the first step must refuse what is no release",
    )
    ready = " ".join(step.get("run", "") for step in destroy["ready"]["steps"])
    for needed, why in (
        ('[ "$CONFIRM" = "$CLUSTER" ]', "somebody must have typed the cluster's name"),
        ('[ "$GITHUB_REF_TYPE" = tag ]', "the files of the installed release must be used"),
        ('[ "$remaining" = 0 ]', "a bucket with files must stop it"),
        ("*True*)", "a protected database must stop it"),
    ):
        require(needed in ready, f"destroy.yml: {why}: {needed} is missing")
    for command in documents.commands():
        if command.place.startswith("deploy.yml, service") and command.has("upgrade", "movies-r-us"):
            rollback = any("helm rollback movies-r-us" in step.get("run", "") for step in deploy["service"]["steps"])
            require("--atomic" in command.words or rollback, f"{command}: a failed upgrade must be rolled back")
            digest = any("image.digest=" in value for value in command.words)
            require(digest, f"{command}: the verified digest must be deployed, not a tag")
    release = effects["release"]["jobs"]
    version = " ".join(step.get("run", "") for step in release["version"]["steps"])
    for file in ("Cargo.toml", "helm/movies-r-us/Chart.yaml"):
        require(
            re.search(rf"grep -qxF .*{re.escape(file)} \|\| \{{ .*exit 1", version),
            f"release.yml: a tag that is not the version of {file} must fail",
        )
    require(
        "infrastructure/$directory/.terraform.lock.hcl" in version and f"in {' '.join(terraform.PLANS)};" in version,
        "release.yml: without the lock files a deployment installs whatever provider is the newest",
    )
    for name in ("image (amd64, ubuntu-24.04)", "image (arm64, ubuntu-24.04-arm)"):
        require(name in release, f"release.yml: {name} is missing: nodes or developers could not run the image")
    push = " ".join(
        step.get("run", "") for name, job in release.items() if name.startswith("image") for step in job["steps"]
    )
    require(
        '--attest "type=sbom' in push and "type=provenance,mode=max" in push,
        "release.yml: an image comes with its SBOM and provenance",
    )
    for name in ("publish", "release"):
        require(
            any("actions/attest@" in step.get("uses", "") for step in release[name]["steps"]),
            f"release.yml, {name}: what is not signed cannot be verified by deploy",
        )
    for name in ("image", "lambda"):
        for job_name, job in release.items():
            if job_name.startswith(name):
                require(set(job["needs"]) == {"test", "version"}, f"release.yml, {job_name}: tests come first")
    minutes = effects["test"]["jobs"]["test"]["timeout-minutes"]
    require(
        45 <= minutes <= 180, f"test.yml: {minutes} minutes do not suffice to build and run the tests without a cache"
    )
    _namespaces(require)
    updates = yaml.safe_load((workflows.GITHUB / "dependabot.yml").read_text())["updates"]
    for update in updates:
        require(
            update["schedule"]["interval"] in ("daily", "weekly") and update["cooldown"]["default-days"] <= 14,
            f"dependabot.yml: {update['package-ecosystem']} with a known fault must be raised within weeks",
        )
    kinds = {update["package-ecosystem"] for update in updates}
    require(
        kinds >= {"cargo", "github-actions"}, f"dependabot.yml: crates and actions must be raised, not only {kinds}"
    )


def _namespaces(require):
    """Wherever the namespace is created, it gets both labels."""
    places = {}
    for command in documents.commands():
        if command.program == "kubectl" and "namespace" in command.words:
            places.setdefault(command.place, set()).update(command.words)
    for place, words in places.items():
        for label, why in (
            ("elbv2.k8s.aws/pod-readiness-gate-inject=enabled", "a pod would be ready before its load balancer"),
            ("pod-security.kubernetes.io/enforce=restricted", "any pod could run as root there"),
        ):
            require(label in words, f"{place}: without {label} {why}")


def image_values(require):
    instructions = image.instructions()
    builds = [value for name, value in instructions if name == "RUN" and "cargo build" in value]
    require(
        builds and all("--locked" in build and "--release" in build for build in builds),
        "Dockerfile: the build must use the versions of Cargo.lock, and be optimised",
    )
    require(image.value_of("CMD") == '["serve"]', "Dockerfile: the image serves by default")
    add = image.value_of("ADD")
    require(
        add.startswith("--chmod=0444 https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem"),
        "Dockerfile: the certificates of RDS come from AWS by HTTPS, readable by every user",
    )
    require(
        "distroless" in [value for name, value in instructions if name == "FROM"][-1],
        "Dockerfile: the image has no shell and no package manager",
    )
    health = image.value_of("HEALTHCHECK")
    interval, timeout = (int(re.search(rf"--{name}=(\d+)s", health)[1]) for name in ("interval", "timeout"))
    require(
        timeout < interval <= 60, "Dockerfile: the health check must end before the next, once a minute or more often"
    )
    copied = [value for name, value in instructions if name == "COPY"]
    require(copied[-1] == "--from=build /usr/local/bin/rest-api /rest-api", "Dockerfile: only the program is copied")
    for path in ("/.git", "/target", "/infrastructure", "/data"):
        require(path in image.ignored(), f".dockerignore: {path} does not belong into a build")
