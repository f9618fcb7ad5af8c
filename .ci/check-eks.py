#!/usr/bin/env python3
"""Checks infrastructure/1-eks/config.yml, or the named file: eksctl's schema, then what the schema does not cover."""

import datetime
import pathlib
import re
import subprocess
import sys

import yaml

CONFIG = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "infrastructure/1-eks/config.yml")
# Of eksctl 0.231, one version newer than scripts/install-eksctl installs. CONFIG uses nothing that 0.231 added.
SCHEMA = pathlib.Path("../shared/infra/eksctl-clusterconfig.schema.json")
# End of EKS standard support by Kubernetes version. Every other version is refused.
STANDARD_SUPPORT_ENDS = {"1.35": "2027-03-27", "1.36": "2027-08-02"}
ZONES = ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
BUCKET = "arn:aws:s3:::movies-r-us-${aws:PrincipalAccount}"
TOPIC = "arn:aws:sns:eu-west-1:*:movies-r-us-results"
TOKEN = "arn:aws:secretsmanager:eu-west-1:*:secret:movies-r-us/api-token-??????"
DATABASE_LOGIN = "arn:aws:secretsmanager:eu-west-1:*:secret:movies-r-us/database-service-??????"
JWT_KEY = "arn:aws:secretsmanager:eu-west-1:*:secret:movies-r-us/jwt-key-??????"
TMDB_TOKEN = "arn:aws:secretsmanager:eu-west-1:*:secret:movies-r-us/tmdb-token-??????"
LOGS = "amazon-cloudwatch-observability"
POD_LOGS = "arn:aws:logs:eu-west-1:*:log-group:/aws/containerinsights/movies-r-us-cluster/*"
POD_PERMISSIONS = {
    ("s3:GetObject", BUCKET + "/*"),
    ("s3:GetObjectVersion", BUCKET + "/*"),
    ("s3:ListBucket", BUCKET),
    ("s3:ListBucketVersions", BUCKET),
    ("s3:GetBucketVersioning", BUCKET),
    ("secretsmanager:GetSecretValue", TOKEN),
    ("secretsmanager:GetSecretValue", DATABASE_LOGIN),
    ("secretsmanager:GetSecretValue", JWT_KEY),
    ("secretsmanager:GetSecretValue", TMDB_TOKEN),
    ("sns:Publish", TOPIC),
}
failures = []


def check(what, holds):
    if not holds:
        failures.append(what)


def as_list(value):
    return value if isinstance(value, list) else [value]


def permissions(policy):
    """Returns the (action, resource) pairs of a policy document."""
    pairs = set()
    for statement in policy["Statement"]:
        check(
            "every statement is an Allow with Action and Resource only",
            statement.keys() <= {"Sid", "Effect", "Action", "Resource"} and statement["Effect"] == "Allow",
        )
        pairs |= {(a, r) for a in as_list(statement.get("Action")) for r in as_list(statement.get("Resource"))}
    return pairs


def check_cluster(config):
    metadata, vpc = config["metadata"], config.get("vpc", {})
    check("the name is movies-r-us-cluster", metadata["name"] == "movies-r-us-cluster")
    check("the region is eu-west-1", metadata["region"] == "eu-west-1")
    check("the availability zones are eu-west-1a, b and c", sorted(config.get("availabilityZones", [])) == ZONES)
    check("a NAT gateway in every zone", vpc.get("nat", {}).get("gateway") == "HighlyAvailable")
    logging = config.get("cloudWatch", {}).get("clusterLogging", {})
    check(
        "all five control-plane logs",
        set(logging.get("enableTypes", [])) == {"api", "audit", "authenticator", "controllerManager", "scheduler"},
    )
    check("control-plane logs are kept 30 days or more", logging.get("logRetentionInDays", 0) >= 30)

    version = metadata.get("version")
    known = ", ".join(STANDARD_SUPPORT_ENDS)
    check(f"version {version!r} is in EKS standard support ({known})", version in STANDARD_SUPPORT_ENDS)
    ends = STANDARD_SUPPORT_ENDS.get(version, "9999-12-31")
    if datetime.date.today().isoformat() >= ends:
        # A warning: the date alone must not break the build of a release.
        print(f"check-eks: warning: standard support of {version} ended on {ends}", file=sys.stderr)


def check_addons(config):
    addons = {addon["name"]: addon for addon in config.get("addons", [])}
    for name in ("eks-pod-identity-agent", "vpc-cni", "coredns", "kube-proxy", "metrics-server", LOGS):
        check(f"the addon {name}", name in addons)
    logs = addons.get(LOGS, {})
    values = yaml.safe_load(logs.get("configurationValues") or "{}")
    check("no metrics of containers in CloudWatch", values.get("containerInsights") == {"enabled": False})
    accounts = {a["serviceAccountName"]: a for a in logs.get("podIdentityAssociations", [])}
    check("one pod identity for the addon of logs, cloudwatch-agent", accounts.keys() == {"cloudwatch-agent"})
    granted = permissions(accounts.get("cloudwatch-agent", {}).get("permissionPolicy", {"Statement": []}))
    actions = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
    check("the addon of logs writes logs of pods only", granted == {(f"logs:{action}", POD_LOGS) for action in actions})
    values = yaml.safe_load(addons.get("vpc-cni", {}).get("configurationValues") or "{}")
    check("vpc-cni enforces NetworkPolicies", values.get("enableNetworkPolicy") == "true")


def check_nodes(config):
    check("only managed node groups", config.get("managedNodeGroups") and not config.get("nodeGroups"))
    zones = set()
    for group in config.get("managedNodeGroups") or []:
        in_group = f"node group {group['name']}: "
        zones |= set(group.get("availabilityZones", config.get("availabilityZones", [])))
        check(in_group + "private networking", group.get("privateNetworking") is True)
        check(in_group + "IMDSv2 only", group.get("disableIMDSv1") is True)
        check(in_group + "no IMDS access for pods", group.get("disablePodIMDS") is True)
        check(in_group + "encrypted volumes", group.get("volumeEncrypted") is True)
        check(in_group + "no SSH", not group.get("ssh", {}).get("allow"))
        # Graviton families end in g, gd or gn.
        check(
            in_group + "a Graviton instance type such as c7g.large",
            re.fullmatch(r"[a-z]+[0-9]+g[dn]*\.(medium|large|[0-9]*xlarge)", group.get("instanceType", "")),
        )
        least, wanted, most = (group.get(key, 0) for key in ("minSize", "desiredCapacity", "maxSize"))
        check(
            in_group + f"3 <= minSize {least} <= desiredCapacity {wanted} <= maxSize {most}",
            3 <= least <= wanted <= most,
        )
        check(in_group + "no additional IAM permissions", not group.get("iam"))
    check("nodes in all three zones", sorted(zones) == ZONES)


def check_pods(config):
    associations = {
        (a["namespace"], a["serviceAccountName"]): a for a in config.get("iam", {}).get("podIdentityAssociations", [])
    }
    for pods in (("kube-system", "aws-load-balancer-controller"), ("external-dns", "external-dns")):
        check("a pod identity for " + "/".join(pods), pods in associations)
    api = associations.pop(("movies-r-us", "movies-r-us"), {})
    check("a pod identity for movies-r-us/movies-r-us, role movies-r-us-api", api.get("roleName") == "movies-r-us-api")
    granted = permissions(api.get("permissionPolicy", {"Statement": []}))
    for action, resource in sorted(granted - POD_PERMISSIONS):
        check(f"pods must not be allowed {action} on {resource}", False)
    for action, resource in sorted(POD_PERMISSIONS - granted):
        check(f"pods must be allowed {action} on {resource}", False)
    check(
        "no additional policy for movies-r-us",
        not {"permissionPolicyARNs", "wellKnownPolicies", "roleARN"} & api.keys(),
    )
    migrate = associations.pop(("movies-r-us", "movies-r-us-migrate"), {})
    check("the role movies-r-us-migrate of the migration", migrate.get("roleName") == "movies-r-us-migrate")
    check(
        "the migration is allowed to read the login of the service only",
        permissions(migrate.get("permissionPolicy", {"Statement": []}))
        == {("secretsmanager:GetSecretValue", DATABASE_LOGIN)},
    )
    for pods, association in associations.items():
        check(
            f"only well-known policies for {'/'.join(pods)}",
            not {"permissionPolicy", "permissionPolicyARNs", "roleARN"} & association.keys(),
        )


def main():
    if SCHEMA.exists():
        print(f"check-eks: {CONFIG}: eksctl's schema", flush=True)
        if subprocess.run(["check-jsonschema", "--schemafile", SCHEMA, CONFIG], check=False).returncode:
            sys.exit(1)
    else:
        print(f"check-eks: {SCHEMA} not found: schema validation skipped")
    print(f"check-eks: {CONFIG}: cluster, addons, nodes, pod permissions")
    config = yaml.safe_load(CONFIG.read_text())
    for check_section in (check_cluster, check_addons, check_nodes, check_pods):
        check_section(config)
    if failures:
        sys.exit("\n".join(f"check-eks: failed: {failure}" for failure in failures))


main()
