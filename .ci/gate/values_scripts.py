"""Values of the scripts that are valid, and yet wrong. Each assertion says why."""

import json
import os
import pathlib
import re
import subprocess
import tempfile

from gate import cluster, documents, terraform


def script_values(require):
    function = terraform.resources(terraform.plans("3-s3-lambda")["direct"])["aws_lambda_function.ingest"]
    for script in documents.scripts():
        require("set -euo pipefail" in script.read_text(), f"{script}: it would go on after a failure")
    redrive = pathlib.Path("scripts/redrive-failures").read_text()
    invisible = int(re.search(r"receive-message .*?--visibility-timeout (\d+)", redrive, re.DOTALL)[1])
    waits = int(re.search(r"--cli-read-timeout (\d+)", redrive)[1])
    require(
        invisible > waits > function["timeout"],
        f"scripts/redrive-failures: the message must stay invisible ({invisible} s) for longer than the call waits "
        f"({waits} s), and that for longer than the function runs ({function['timeout']} s)",
    )
    require(
        "--max-number-of-messages 1 " in redrive,
        "scripts/redrive-failures: of several messages it would handle the first, and hide the others",
    )
    hours = re.search(r"park_seconds=\$\(\((\d+) \* 3600\)\)", redrive)
    require(hours and 1 <= int(hours[1]) < 12, "scripts/redrive-failures: SQS allows 12 hours of invisibility")
    require(
        re.search(r"PermanentFault.*\n +refuse", redrive), "scripts/redrive-failures: only a permanent fault is parked"
    )
    package = pathlib.Path("scripts/package-lambda").read_text()
    require(
        "--locked --release" in package,
        "scripts/package-lambda: the build must use the versions of Cargo.lock, and be optimised",
    )
    require(
        '"$target.2.34"' in package and function["runtime"] == "provided.al2023",
        "scripts/package-lambda: Amazon Linux 2023 has glibc 2.34; a binary for a newer one does not start there",
    )
    require(
        f'ZipInfo("{function["handler"]}"' in package, "scripts/package-lambda: the package must contain the handler"
    )
    _controllers(require, pathlib.Path("scripts/install-controllers").read_text())
    _load_balancers(require)
    eksctl = pathlib.Path("scripts/install-eksctl").read_text()
    digests = dict(re.findall(r"^digest_(\w+)=([0-9a-f]{64})$", eksctl, re.MULTILINE))
    require(
        digests.keys() == {"amd64", "arm64"} and len(set(digests.values())) == 2,
        "scripts/install-eksctl: each architecture has the digest of its archive, in the script",
    )
    require(
        all(f"arch={arch} digest=$digest_{arch} " in eksctl for arch in digests)
        and 'sha256sum --check --strict --quiet - <<<"$digest  eksctl.tar.gz" || fail' in eksctl
        and "curl --fail" in eksctl
        and "url=https://" in eksctl,
        "scripts/install-eksctl: what is downloaded must be verified before it runs with an administrator's role",
    )
    build = pathlib.Path("scripts/build-image").read_text()
    require("--format docker" in build, "scripts/build-image: buildah's other format has no health check")
    values = pathlib.Path("scripts/database-values").read_text()
    require("jq -e" in values, "scripts/database-values: missing outputs must fail, not install a chart without them")
    for command in documents.commands():
        if command.has("aws", "ecr", "create-repository"):
            require(
                command.values("--image-tag-mutability") == ["IMMUTABLE"],
                f"{command}: a tag that can be moved could replace a release",
            )
        if command.has("aws", "s3api", "put-bucket-versioning"):
            require("Status=Enabled" in command.words, f"{command}: a state without versions cannot be recovered")


def _controllers(require, script):
    where = "scripts/install-controllers"
    identities = {i["serviceAccountName"] for i in cluster.config()["iam"]["podIdentityAssociations"]}
    for name in re.findall(r"serviceAccount\.name=([\w-]+)", script):
        require(name in identities, f"{where}: the service account {name} has no role in 1-eks")
    require(
        "policy=sync," in script, f"{where}: with another policy records of load balancers that are gone would stay"
    )
    require("sha256sum --check --strict " in script, f"{where}: a digest that is not one must fail")
    days = int(re.search(r"--retention-in-days (\d+)", script)[1])
    require(
        30 <= days <= 365, f"{where}: logs of pods for {days} days do not cover a month, or cost more than they tell"
    )


def _load_balancers(require):
    """Runs the script with an AWS CLI that knows one load balancer."""
    answer = {
        "ResourceTagMappingList": [
            {
                "ResourceARN": "arn:aws:elasticloadbalancing:eu-west-1:111122223333:loadbalancer/app/k8s-public/0a",
                "Tags": [{"Key": "ingress.k8s.aws/stack", "Value": "movies-r-us/movies-r-us-public"}],
            }
        ]
    }
    with tempfile.TemporaryDirectory() as directory:
        asked = pathlib.Path(directory, "asked")
        program = pathlib.Path(directory, "aws")
        program.write_text(f"#!/bin/sh\necho \"$@\" >{asked}\necho '{json.dumps(answer)}'\n")
        program.chmod(0o755)
        environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"}
        done = subprocess.run(["scripts/load-balancers"], check=False, capture_output=True, text=True, env=environment)
        require(
            done.stdout == '{"movies-r-us-public":"app/k8s-public/0a"}\n',
            f"scripts/load-balancers: metrics name another part of the ARN than {done.stdout!r}",
        )
        name = cluster.config()["metadata"]["name"]
        require(
            f"Key=elbv2.k8s.aws/cluster,Values={name}\n" in asked.read_text().replace(" ", "\n"),
            f"scripts/load-balancers: it asks for load balancers of another cluster than {name}",
        )
