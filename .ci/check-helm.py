#!/usr/bin/env python3
"""Checks the chart: helm lint, Kubernetes' schemas, assertions on the manifests, invalid values.

Needs helm, kubernetes-validate and PyYAML. Renders each values file in helm/movies-r-us/ci/ to
target/rendered-chart/, which the policy scan reads.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import yaml

CHART = pathlib.Path("helm/movies-r-us")
OUT = pathlib.Path("target/rendered-chart")
CLUSTER = pathlib.Path("infrastructure/1-eks/config.yml")

# Contracts of the service and of RDS.
PROBES = {"/healthz", "/readyz"}
MAX_DRAIN_SECONDS = 20  # from SIGTERM to exit
MAX_RESPONSE_SECONDS = 45
MAX_FAILOVER_SECONDS = 120  # of RDS
PRIVATE = ["/notify", "/notify/", "/metrics", "/healthz", "/readyz"]
PUBLIC = [
    "/",
    "/movies",
    "/movies/1",
    "/movies/1/details",
    "/movies/1/history",
    "/validate",
    "/ingests",
    "/ingests/1",
    "/ingests/1/retry",
    "/genres",
    "/events",
    "/uploads",
    "/suggest",
    "/schema/movies.json",
    "/docs",
    "/docs/start.js",
    "/page/version/app.js",
    "/openapi.json",
    "/auth/me",
    "/.well-known/jwks.json",
    "/users",
    "/users/1",
]
PRIVATE_RANGES = {"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"}
POD_IDENTITY_AGENT = "169.254.170.23/32"

# Invalid values: an override of ci/aws.yaml, and a substring of the expected error message.
INVALID_VALUES = [
    ("database: {password: hunter2}", "'/database': additional properties 'password' not allowed"),
    ("password: hunter2", "additional properties 'password' not allowed"),
    ("podAnnotations: {example.com/Password: hunter2}", "invalid propertyName 'example.com/Password'"),
    ("apiToken: {token: hunter2}", "'/apiToken': additional properties 'token' not allowed"),
    ("aws: {env: [{name: AWS_SECRET_ACCESS_KEY, value: hunter2}]}", "missing property 'valueFrom'"),
    ("aws: {env: [{name: AWS_ENDPOINT_URL_S3, value: 'http://me:hunter2@example.com'}]}", "'/aws/env/0/value'"),
    ("aws: {env: [{name: MRU_DB_PASS, value: hunter2}]}", "'/aws/env/0/name'"),
    ("aws: {region: Ireland}", "'/aws/region'"),
    ("bucket: 's3://movies'", "'/bucket'"),
    ("bucket: ''", "'/bucket'"),
    ("snapshots: {prefixes: 's3://movies/daily/'}", "'/snapshots/prefixes'"),
    ("snapshots: {prefixes: movies-r-us-111122223333}", "'/snapshots/prefixes'"),
    ("uploadPrefix: 'in*/'", "'/uploadPrefix'"),
    ("trustedProxies: -1", "'/trustedProxies'"),
    ("snapshots: {maxWithdraw: 200%}", "'/snapshots/maxWithdraw'"),
    ("service: {port: 99999}", "'/service/port': maximum: got 99,999, want 65,535"),
    ("service: {port: 0}", "'/service/port': minimum: got 0, want 1"),
    ("database: {port: '5432'}", "'/database/port': got string, want integer"),
    ("databse: {host: db.example.com}", "additional properties 'databse' not allowed"),
    ("ingress: {public: {certificateARN: x}}", "additional properties 'certificateARN' not allowed"),
    ("database: {existingSecret: db}", "'/database': 'oneOf' failed"),
    ("database: {secretArn: ''}", "'/database': 'oneOf' failed, none matched"),
    ("apiToken: {existingSecret: token}", "'/apiToken': 'oneOf' failed"),
    ("apiToken: {secretArn: ''}", "'/apiToken': 'oneOf' failed, none matched"),
    ("database: {secretArn: 'arn:aws:s3:::movies'}", "'/database/secretArn'"),
    ("database: {secretArn: movies-r-us/database}", "'/database/secretArn'"),
    ("jwtKey: {key: hunter2}", "'/jwtKey': additional properties 'key' not allowed"),
    ("jwtKey: {secretArn: key, existingSecret: key}", "'/jwtKey': 'anyOf' failed"),
    ("jwtKey: {secretArn: 'arn:aws:s3:::movies'}", "'/jwtKey/secretArn'"),
    ("tmdb: {token: hunter2}", "'/tmdb': additional properties 'token' not allowed"),
    ("tmdb: {secretArn: token, existingSecret: token}", "'/tmdb': 'anyOf' failed"),
    ("tmdb: {secretArn: token, url: 'http://tmdb.example.com'}", "'/tmdb/url'"),
    ("oidc: {issuer: 'http://id.example.com', audience: movies}", "'/oidc/issuer'"),
    ("oidc: {issuer: 'https://id.example.com'}", "'/oidc/audience'"),
    ("tracing: {endpoint: 'otel-collector:4318'}", "'/tracing/endpoint'"),
    ("tracing: {endpoint: 'http://me:hunter2@collector.example.com'}", "'/tracing/endpoint'"),
    ("tracing: {endpoint: 'http://collector.example.com:99999'}", "the port of tracing.endpoint is above 65535"),
    ("tracing: {endpoint: 'http://collector.example.com:0'}", "'/tracing/endpoint'"),
    ("tracing: {sampleRatio: 10}", "'/tracing/sampleRatio': maximum"),
    ("publicLedger: 'false'", "'/publicLedger'"),
    ("images: 'on'", "'/images'"),
    ("apiToken: {secretArn: 'arn:aws:s3:::movies'}", "'/apiToken/secretArn'"),
    ("results: {topicArn: movies-r-us-results}", "'/results/topicArn'"),
    ("results: {topicArn: 'arn:aws:sns:eu-west-1:111122223333:results.fifo'}", "'/results/topicArn'"),
    ("ingress: {public: {certificateArn: 'arn:aws:iam::111122223333:server-certificate/x'}}", "/certificateArn'"),
    ("ingress: {public: {wafAclArn: movies}}", "'/ingress/public/wafAclArn'"),
    ("ingress: {public: {scheme: private}}", "'/ingress/public/scheme'"),
    ("ingress: {public: {host: 'https://movies.example.com'}}", "'/ingress/public/host'"),
    ("ingress: {internal: {host: ''}}", "'/ingress/internal/host'"),
    ("ingress: {public: {sslPolicy: ELBSecurityPolicy-2016-08}}", "'/ingress/public/sslPolicy'"),
    (
        "ingress: {internal: {annotations: {alb.ingress.kubernetes.io/scheme: internet-facing}}}",
        "'/ingress/internal/annotations'",
    ),
    (
        "ingress: {public: {annotations: {alb.ingress.kubernetes.io/listener-attributes.HTTP-80: x=y}}}",
        "'/ingress/public/annotations'",
    ),
    ("ingress: {public: {groupName: one}, internal: {groupName: one}}", "must differ"),
    ("vpcCidrs: [0.0.0.0/0]", "'/vpcCidrs/0'"),
    ("vpcCidrs: []", "'/vpcCidrs': minItems"),
    ("replicas: -1", "'/replicas': minimum"),
    ("autoscaling: {minReplicas: 1}", "'/autoscaling/minReplicas': minimum: got 1, want 3"),
    ("autoscaling: {minReplicas: 9, maxReplicas: 3}", "minReplicas is greater"),
    ("autoscaling: {targetCPUUtilization: 170}", "'/autoscaling/targetCPUUtilization': maximum"),
    ("resources: {limits: {memory: 256}}", "'/resources/limits/memory'"),
    ("resources: {requests: {cpu: lots}}", "'/resources/requests/cpu'"),
    ("resources: {requests: {memory: 128MB}}", "'/resources/requests/memory'"),
    ("log: {format: xml}", "'/log/format'"),
    ("image: {tag: latest}", "'/image/tag'"),
    ("image: {digest: 'sha256:123'}", "'/image/digest'"),
    ("image: {pullPolicy: Sometimes}", "'/image/pullPolicy'"),
    ("preStopSeconds: 0", "'/preStopSeconds': minimum"),
    ("commonLabels: {app.kubernetes.io/name: other}", "invalid propertyName 'app.kubernetes.io/name'"),
    ("commonLabels: {team: 'films and series'}", "'/commonLabels/team'"),
    ("podLabels: {app.kubernetes.io/component: other}", "invalid propertyName 'app.kubernetes.io/component'"),
    ("commonAnnotations: {helm.sh/hook: test}", "invalid propertyName 'helm.sh/hook'"),
    ("podAnnotations: {checksum/config: none}", "invalid propertyName 'checksum/config'"),
    ("imagePullSecrets: [registry]", "'/imagePullSecrets/0': got string, want object"),
    ("fullnameOverride: Movies", "'/fullnameOverride'"),
    ("ingress: {className: ''}", "'/ingress/className'"),
    ("autoscaling: {behavior: {up: {}}}", "additional properties 'up' not allowed"),
    ("resources: {limits: {ephemeral-storage: 1G}}", "'/resources/limits/ephemeral-storage'"),
    ("tolerations: [{key: x, effect: Never}]", "'/tolerations/0/effect'"),
    ("affinity: {zoneAffinity: {}}", "additional properties 'zoneAffinity' not allowed"),
    ("extraEnv: [{name: MRU_DB_HOST, value: db.example.com}]", "'/extraEnv/0/name'"),
    ("extraEnv: [{name: EXAMPLE_PASSWORD, value: hunter2}]", "missing property 'valueFrom'"),
    ("extraVolumes: [{name: host, hostPath: {path: /}}]", "'/extraVolumes/0'"),
    ("extraVolumeMounts: [{name: x}]", "missing property 'mountPath'"),
    ("migration: {serviceAccountAnnotations: {role: 1}}", "'/migration/serviceAccountAnnotations/role'"),
    ("rollingUpdate: {maxSurge: 0}", "'/rollingUpdate': 'anyOf' failed"),
    ("rollingUpdate: {maxSurge: 25%}", "'/rollingUpdate/maxSurge': got string, want integer"),
    ("topologySpread: {whenUnsatisfiable: Maybe}", "'/topologySpread/whenUnsatisfiable'"),
    ("reconcile: {schedule: daily}", "'/reconcile/schedule'"),
    ("reconcile: {deadlineSeconds: 0}", "'/reconcile/deadlineSeconds': minimum"),
    ("prometheusRule: {enabled: true}", "'/serviceMonitor/enabled'"),
    ("prometheusRule: {labels: {release: 'the first'}}", "'/prometheusRule/labels'"),
    ("grafanaDashboard: {labels: {grafana_dashboard: 1}}", "'/grafanaDashboard/labels/grafana_dashboard': got number"),
    ("networkPolicy: {extraEgress: [{ports: [{port: 70000}]}]}", "'/networkPolicy/extraEgress/0'"),
]

problems = []


def check(holds, where, message):
    if not holds:
        problems.append(f"{where}: {message}")


def run(*command, stdin=None):
    done = subprocess.run(command, check=False, input=stdin, text=True, capture_output=True)
    return done.returncode, done.stdout, done.stderr


def helm(verb, *arguments, stdin=None):
    return run("helm", verb, *arguments, "--namespace", "movies-r-us", "--kube-version", KUBERNETES + ".0", stdin=stdin)


def report(group):
    if problems:
        sys.exit("\n".join([f"FAILED {group}", *(f"  {problem}" for problem in problems)]))
    print(f"ok      {group}")


def walk(node, path=""):
    """Yields every (path, key, value) of a manifest."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield path, key, value
        yield from walk(value, f"{path}/{key}")


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()


def covers(rule, path):
    if rule["pathType"] == "Exact":
        return rule["path"] == path
    if rule["pathType"] == "Prefix":
        prefix = rule["path"].rstrip("/")
        return path == prefix or path.startswith(prefix + "/")
    return True  # ImplementationSpecific is undefined: assume that it covers the path


def check_ports(where, manifests, ports):
    for manifest in manifests:
        for path, key, value in walk(manifest):
            if key in ("port", "targetPort", "containerPort", "hostPort", "nodePort") and not isinstance(value, dict):
                if isinstance(value, int):
                    check(1 <= value <= 65535, where, f"{manifest['kind']}{path}/{key}: {value} is not a valid port")
                else:
                    check(
                        value in ports, where, f"{manifest['kind']}{path}/{key}: no container port has the name {value}"
                    )


def check_pods(where, pods):
    """Checks the restricted Pod Security Standard, resources and image tags."""
    for name, pod in pods.items():
        spec, at = pod["spec"], f"{where}, {name}"
        security = spec.get("securityContext", {})
        check(security.get("runAsNonRoot") is True and security.get("runAsUser", 0) > 0, at, "runs as root")
        check(security.get("seccompProfile") == {"type": "RuntimeDefault"}, at, "no seccomp profile RuntimeDefault")
        check(spec.get("automountServiceAccountToken") is False, at, "mounts a Kubernetes API token")
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            check(not spec.get(key), at, f"{key} is set")
        for volume in spec.get("volumes", []):
            check("hostPath" not in volume, at, f"volume {volume['name']} is a hostPath")
        for container in spec.get("initContainers", []) + spec["containers"]:
            security = container.get("securityContext", {})
            check(security.get("allowPrivilegeEscalation") is False, at, "allowPrivilegeEscalation is not false")
            check(security.get("readOnlyRootFilesystem") is True, at, "readOnlyRootFilesystem is not true")
            check(security.get("capabilities") == {"drop": ["ALL"]}, at, "capabilities are not dropped")
            check(not security.get("privileged"), at, "is privileged")
            resources = container.get("resources", {})
            check("cpu" in resources.get("requests", {}), at, "no CPU request; autoscaling needs one")
            check("memory" in resources.get("limits", {}), at, "no memory limit")
            image = container["image"]
            check(
                re.search(r"(:[\w.-]+|@sha256:[0-9a-f]{64})$", image) and not image.endswith(":latest"),
                at,
                f"image {image} is not pinned",
            )


def check_environment(where, config, pods):
    for name, value in config.items():
        check(
            not re.search("PASS|USER$|_KEY(?!S$|_SECRET_ARN$)|_TOKEN$|SECRET(?!_ARN$)", name),
            where,
            f"{name} is a secret and must not be in a ConfigMap",
        )
        check(isinstance(value, str), where, f"{name} in the ConfigMap is not a string")
    for name, pod in pods.items():
        if name == "test":
            continue
        container = pod["spec"]["containers"][0]
        check(container.get("envFrom"), where, f"{name} does not read the ConfigMap")
        references = {variable["name"] for variable in container.get("env", []) if "valueFrom" in variable}
        for variable in container.get("env", []):
            check(
                # The name of a secret is none.
                "valueFrom" in variable or variable["name"].startswith("AWS_") or variable["name"].endswith("_ARN"),
                where,
                f"{name}: {variable['name']} is a literal value",
            )
        check(
            ("MRU_DB_SECRET_ARN" in config) != ({"MRU_DB_USER", "MRU_DB_PASS"} <= references),
            where,
            f"{name}: not exactly one source of database credentials",
        )
        check(
            ("MRU_API_TOKEN_SECRET_ARN" in config) != ("MRU_API_TOKEN" in references),
            where,
            f"{name}: not exactly one source of the API token",
        )
        check(
            not ("MRU_JWT_KEY_SECRET_ARN" in config and "MRU_JWT_KEY" in references),
            where,
            f"{name}: two sources of the signing key",
        )
        check(
            not ("MRU_TMDB_TOKEN_SECRET_ARN" in config and "MRU_TMDB_TOKEN" in references),
            where,
            f"{name}: two sources of the token for TMDB",
        )
        for required in ("AWS_REGION", "MRU_DB_HOST", "MRU_DB_NAME"):
            check(config.get(required), where, f"{required} is not set")


def check_deployment(where, deployment, autoscaler, budget):
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    for probe, limit in (("startupProbe", 30), ("livenessProbe", 15), ("readinessProbe", MAX_FAILOVER_SECONDS)):
        get = container.get(probe, {}).get("httpGet", {})
        check(get.get("path") in PROBES, where, f"{probe}: {get.get('path')} is not a probe route of the service")
        check(get.get("port") == "probes", where, f"{probe} needs a place among the connections of clients")
        seconds = container.get(probe, {}).get("periodSeconds", 10) * container.get(probe, {}).get(
            "failureThreshold", 3
        )
        check(seconds >= limit, where, f"{probe} fails after {seconds} s, less than {limit} s")
    check(
        container.get("livenessProbe", {}).get("httpGet", {}).get("path") == "/healthz",
        where,
        "livenessProbe must be /healthz, which does not query the database",
    )
    sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    grace = pod.get("terminationGracePeriodSeconds", 30)
    check(sleep > 0, where, "no preStop sleep")
    check(
        grace > sleep + MAX_DRAIN_SECONDS,
        where,
        f"grace period {grace} s is not longer than preStop {sleep} s + drain {MAX_DRAIN_SECONDS} s",
    )
    check(
        spec["strategy"].get("rollingUpdate") == {"maxUnavailable": 0, "maxSurge": 1} or where == "kind.yaml",
        where,
        "an update must start a pod before it stops one",
    )
    spread = {constraint["topologyKey"]: constraint for constraint in pod.get("topologySpreadConstraints", [])}
    check(
        {"topology.kubernetes.io/zone", "kubernetes.io/hostname"} <= spread.keys(),
        where,
        "pods are not spread over zones and nodes",
    )
    for constraint in spread.values():
        check(
            selects(constraint["labelSelector"]["matchLabels"], spec["template"]["metadata"]["labels"]),
            where,
            f"the spread over {constraint['topologyKey']} selects other pods",
        )
    check(
        "checksum/config" in spec["template"]["metadata"].get("annotations", {}),
        where,
        "a changed ConfigMap does not restart the pods",
    )
    check(budget["spec"].get("maxUnavailable") == 1, where, "the disruption budget must allow one unavailable pod")
    if autoscaler:
        bounds = autoscaler["spec"]
        check("replicas" not in spec, where, "both replicas and autoscaling")
        check(
            3 <= bounds["minReplicas"] <= bounds["maxReplicas"], where, "autoscaling allows fewer than one pod per zone"
        )
        check(
            bounds["scaleTargetRef"]
            == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]},
            where,
            "the autoscaler targets another object",
        )
    else:
        check(spec.get("replicas", 0) >= 1, where, "neither replicas nor autoscaling")
    return sleep


def check_ingress(where, ingress, service, sleep, probe_port):
    at = f"{where}, {ingress['metadata']['name']}"
    annotations = ingress["metadata"]["annotations"]
    alb = {key.removeprefix("alb.ingress.kubernetes.io/"): value for key, value in annotations.items()}
    internal = ingress["metadata"]["name"].endswith("-internal")
    check(all(isinstance(value, str) for value in annotations.values()), at, "an annotation is not a string")
    check(
        ingress["spec"].get("ingressClassName") == ("alb-shared" if where == "conventions.yaml" else "alb"),
        at,
        "the ingress class is not alb",
    )
    private = internal or where == "conventions.yaml"
    check(alb.get("scheme") == ("internal" if private else "internet-facing"), at, f"scheme is {alb.get('scheme')}")
    check(alb.get("target-type") == "ip", at, "a ClusterIP service needs target-type ip")
    check(
        alb.get("healthcheck-path") in PROBES, at, f"{alb.get('healthcheck-path')} is not a probe route of the service"
    )
    check(alb.get("healthcheck-port") == str(probe_port), at, "health checks must use the port of the probes")
    check(
        alb.get("target-group-attributes") == f"deregistration_delay.timeout_seconds={sleep}",
        at,
        "the deregistration delay differs from the preStop sleep",
    )
    listen = json.loads(alb.get("listen-ports", "[]"))
    check(
        listen == [{"HTTPS": 443}] and "ssl-redirect" not in alb,
        at,
        "a listener other than HTTPS 443 would accept the token unencrypted",
    )
    attributes = alb.get("listener-attributes.HTTPS-443", "")
    hsts = re.fullmatch(
        r"routing[.]http[.]response[.]strict_transport_security[.]header_value=max-age=\d{8,}", attributes
    )
    check(bool(hsts) != internal, at, f"HSTS must be set on the public host only: {attributes!r}")
    check(not private or alb.get("inbound-cidrs", "0.0.0.0/0") != "0.0.0.0/0", at, "open to every address")
    check(
        re.match("ELBSecurityPolicy-TLS13-1-[23]-", alb.get("ssl-policy", "")),
        at,
        "the SSL policy allows TLS below 1.2",
    )
    for rule in ingress["spec"]["rules"]:
        check(
            annotations.get("external-dns.alpha.kubernetes.io/hostname") == rule.get("host"),
            at,
            "the external-dns host name differs from the rule's host",
        )
        paths = rule["http"]["paths"]
        for path in paths:
            backend = path["backend"]["service"]
            check(
                backend["name"] == service["metadata"]["name"] and backend["port"].get("name") == "http",
                at,
                f"{path['path']}: the backend is not the port http of the service",
            )
        if internal:
            check(
                [(path["path"], path["pathType"]) for path in paths] == [("/notify", "Exact")],
                at,
                "must expose /notify only",
            )
        else:
            for path in PRIVATE:
                check(not any(covers(rule, path) for rule in paths), at, f"{path} is exposed")
            for path in PUBLIC:
                check(any(covers(rule, path) for rule in paths), at, f"{path} is not exposed")


def check_network(where, policy, pods, ports, database_port):
    spec = policy["spec"]
    for name, pod in pods.items():
        check(
            selects(spec["podSelector"]["matchLabels"], pod["metadata"]["labels"]),
            where,
            f"the network policy does not cover the pods of {name}",
        )
    check(set(spec["policyTypes"]) == {"Ingress", "Egress"}, where, "the network policy must cover ingress and egress")
    for rule in spec["ingress"]:
        check(rule.get("from"), where, "the network policy allows ingress from everywhere")
        check(
            [port["port"] for port in rule["ports"]] == list(ports.values()),
            where,
            "the network policy allows ingress to ports other than the service's",
        )
    out = [
        (peer.get("ipBlock", {}).get("cidr"), port["port"])
        for rule in spec["egress"]
        for port in rule["ports"]
        for peer in rule.get("to", [{}])
    ]
    for port in (53, 443, database_port):
        check(any(port == other for _, other in out), where, f"the network policy does not allow egress to port {port}")
    for rule in spec["egress"]:
        check(rule.get("to"), where, "the network policy allows egress to everywhere")
        for peer in rule.get("to", []):
            block = peer.get("ipBlock", {})
            check(
                block.get("cidr") != "0.0.0.0/0" or set(block.get("except", [])) >= PRIVATE_RANGES,
                where,
                "the network policy allows egress to private networks",
            )
    check((POD_IDENTITY_AGENT, 80) in out, where, "the network policy does not allow egress to the pod identity agent")


def check_manifests(where, text):
    manifests = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    by_kind = {}
    for manifest in manifests:
        by_kind.setdefault(manifest["kind"], []).append(manifest)
        check(manifest["metadata"].get("namespace"), where, f"{manifest['kind']} without a namespace")
        for label in ("name", "instance", "version", "component", "part-of", "managed-by"):
            check(
                f"app.kubernetes.io/{label}" in manifest["metadata"].get("labels", {}),
                where,
                f"{manifest['kind']} without the label app.kubernetes.io/{label}",
            )
    check("Secret" not in by_kind, where, "the chart must reference secrets, not create them")
    named = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    check(len(named) == len(manifests), where, "two objects have the same kind and name")

    def only(kind):
        found = by_kind.get(kind, [None])
        check(len(found) == 1, where, f"{len(found)} objects of kind {kind}, expected 1")
        return found[0]

    dashboards = [m for m in by_kind["ConfigMap"] if m["metadata"]["name"].endswith("-dashboard")]
    by_kind["ConfigMap"] = [m for m in by_kind["ConfigMap"] if m not in dashboards]
    deployment, job, service, config = only("Deployment"), only("Job"), only("Service"), only("ConfigMap")
    budget, autoscaler, policy = only("PodDisruptionBudget"), only("HorizontalPodAutoscaler"), only("NetworkPolicy")
    test, monitor = only("Pod"), only("ServiceMonitor")
    pods = {"api": deployment["spec"]["template"], "migrate": job["spec"]["template"], "test": test}
    reconcile = only("CronJob")
    if reconcile:
        pods["reconcile"] = reconcile["spec"]["jobTemplate"]["spec"]["template"]
        check(reconcile["spec"]["concurrencyPolicy"] == "Forbid", where, "two runs of reconcile could overlap")
    ports = {
        port["name"]: port["containerPort"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    }

    check_ports(where, manifests, ports)
    check_pods(where, pods)
    check_environment(where, config["data"], pods)
    for variable, port in (("MRU_LISTEN", "http"), ("MRU_PROBE_LISTEN", "probes")):
        check(
            config["data"][variable] == f"0.0.0.0:{ports[port]}",
            where,
            f"{variable} is not the container port {port}",
        )
    check(config["data"].get("MRU_BUCKETS"), where, "without MRU_BUCKETS a notification can name any bucket")
    check(
        [port["name"] for port in service["spec"]["ports"]] == (["http", "probes"] if monitor else ["http"]),
        where,
        "the service must expose the port http, and the port of the probes for Prometheus only",
    )
    sleep = check_deployment(where, deployment, autoscaler, budget)
    check(
        sleep >= MAX_RESPONSE_SECONDS or "Ingress" not in by_kind,
        where,
        f"preStop {sleep} s is shorter than the slowest response",
    )

    selectors = {
        "Service": service["spec"]["selector"],
        "Deployment": deployment["spec"]["selector"]["matchLabels"],
        "PodDisruptionBudget": budget["spec"]["selector"]["matchLabels"],
    }
    for kind, selector in selectors.items():
        for name, pod in pods.items():
            check(
                selects(selector, pod["metadata"]["labels"]) == (name == "api"),
                where,
                f"the selector of {kind} {'misses' if name == 'api' else 'also selects'} the pods of {name}",
            )
    if monitor:
        check(
            selects(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"]),
            where,
            "the ServiceMonitor does not select the service",
        )
        for endpoint in monitor["spec"]["endpoints"]:
            check(
                endpoint["path"] == "/metrics" and endpoint["port"] == "probes",
                where,
                "the ServiceMonitor scrapes an unknown port or path",
            )
    accounts = {account["metadata"]["name"] for account in by_kind.get("ServiceAccount", [])} or {"catalogue"}
    used = {name: pod["spec"]["serviceAccountName"] for name, pod in pods.items()}
    check(set(used.values()) == accounts, where, "the pods use other service accounts than the chart creates")
    check(
        len({account for name, account in used.items() if name != "migrate"}) == 1,
        where,
        "pods that do not migrate use different service accounts",
    )
    check(
        len({pod["spec"]["containers"][0]["image"] for pod in pods.values()}) == 1,
        where,
        "the pods use different images",
    )

    for ingress in by_kind.get("Ingress", []):
        check_ingress(where, ingress, service, sleep, ports["probes"])
    if policy:
        check_network(where, policy, pods, ports, int(config["data"]["MRU_DB_PORT"]))
        check(
            not monitor or any("ipBlock" in peer for rule in policy["spec"]["ingress"] for peer in rule["from"]),
            where,
            "the network policy does not allow Prometheus, whose pods are outside the release",
        )
    check(
        "helm.sh/hook" not in job["metadata"].get("annotations", {}),
        where,
        "the migration must not be a hook: it needs the service account, and the pods wait for it",
    )
    address = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/"
    check(
        all(
            container["args"][:2] == ["healthcheck", "--url"] and container["args"][2].startswith(address)
            for container in test["spec"]["containers"]
        ),
        where,
        f"the test does not request {address}",
    )


def check_conventions(where, text):
    """Checks that what ci/conventions.yaml sets reaches every object and every pod."""
    values = yaml.safe_load((CHART / "ci" / where).read_text())
    for manifest in filter(None, yaml.safe_load_all(text)):
        at = f"{where}, {manifest['kind']}"
        spec = manifest.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template", {})
        pod = manifest["spec"] if manifest["kind"] == "Pod" else template.get("spec", {})
        for metadata in (manifest["metadata"], *([template["metadata"]] if template else [])):
            for key, common in (("labels", "commonLabels"), ("annotations", "commonAnnotations")):
                check(values[common].items() <= metadata.get(key, {}).items(), at, f"{common} are missing")
        check(manifest["metadata"]["name"].startswith("catalogue"), at, "fullnameOverride does not hold")
        if manifest["kind"] == "HorizontalPodAutoscaler":
            check(manifest["spec"].get("behavior") == values["autoscaling"]["behavior"], at, "behavior is missing")
        if not pod:
            continue
        for key in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
            check(pod.get(key) == values[key], at, f"{key} is missing")
        container = pod["containers"][0]
        check(container["resources"] == values["resources"], at, "resources differ")
        if manifest["kind"] != "Pod":
            for key, extra in (("env", "extraEnv"), ("volumeMounts", "extraVolumeMounts")):
                check(all(item in container[key] for item in values[extra]), at, f"{extra} is missing")
            check(all(item in pod["volumes"] for item in values["extraVolumes"]), at, "extraVolumes is missing")
        if manifest["kind"] == "Deployment":
            for key, own in (("labels", "podLabels"), ("annotations", "podAnnotations")):
                check(values[own].items() <= template["metadata"][key].items(), at, f"{own} are missing")


# The checks run for the cluster's Kubernetes version and the oldest version that the chart supports.
KUBERNETES = str(yaml.safe_load(CLUSTER.read_text())["metadata"]["version"])
OLDEST = re.search(r"kubeVersion: .>=([0-9]+[.][0-9]+)", (CHART / "Chart.yaml").read_text())[1]
files = sorted(CHART.glob("ci/*.yaml"))
check(len(files) >= 4, str(CHART / "ci"), "values files are missing")

for file in files:
    code, out, err = run(
        "helm", "lint", "--strict", str(CHART), "--values", str(file), "--kube-version", KUBERNETES + ".0"
    )
    check(code == 0, file.name, (out + err).strip())
report(f"helm lint --strict, {len(files)} values files")

shutil.rmtree(OUT, ignore_errors=True)
OUT.mkdir(parents=True)
rendered = {}
for file in files:
    code, out, err = helm("template", "movies-r-us", str(CHART), "--values", str(file))
    check(code == 0, file.name, err.strip())
    rendered[file.name] = out
    (OUT / file.name).write_text(out)
report("helm template")

for version in (KUBERNETES, OLDEST):
    code, out, err = run(
        "kubernetes-validate", "--strict", "--kubernetes-version", version, *(str(OUT / name) for name in rendered)
    )
    for line in (out + err).splitlines():
        # kubernetes-validate only warns about an unknown kind, so a removed API version would pass.
        known = line.startswith("INFO") or re.search(
            "kind (ServiceMonitor|PrometheusRule) with api version monitoring.coreos.com/v1", line
        )
        check(known, "kubernetes-validate", line)
    check(code == 0, "kubernetes-validate", f"exit code {code}")
report(f"schemas of Kubernetes {KUBERNETES} and {OLDEST}, strict (except ServiceMonitor and PrometheusRule)")

for name, text in rendered.items():
    try:
        check_manifests(name, text)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        check(False, name, f"a required field is missing: {error!r}")
check_conventions("conventions.yaml", rendered["conventions.yaml"])
report("ports, probes, selectors, pod security, secrets, shutdown, spread, ingresses, network policy")

routes = pathlib.Path("rest-api/src/http/routes.rs").read_text()
for path in PROBES | {"/notify", "/metrics"}:
    check(f'"{path}",' in routes, "rest-api", f"route {path} not found")
for directory, pattern, text in (
    ("2-rds", r"\.(database_\w+)\.value", pathlib.Path("scripts/database-values").read_text()),
    ("3-s3-lambda", r"-var (\w+)=", (CHART / "templates/NOTES.txt").read_text()),
):
    declared = "".join(file.read_text() for file in pathlib.Path("infrastructure", directory).glob("*.tf"))
    for name in set(re.findall(pattern, text)):
        check(f'"{name}"' in declared, f"infrastructure/{directory}", f"{name} is not declared")
code, out, err = run(
    "helm", "install", "movies-r-us", str(CHART), "--dry-run=client", "--values", str(CHART / "ci/aws.yaml")
)
check(
    "movies_r_us_notify_api_url=https://notify.movies.example.com/notify" in out,
    "NOTES.txt",
    "the terraform command is missing: " + err,
)
report("routes, terraform outputs and variables that the chart uses; NOTES.txt")


def render_aws(release, override):
    """Returns what helm makes of the values of ci/aws.yaml with `override`: exit code, manifests, errors."""
    values = ("--values", str(CHART / "ci/aws.yaml"), "--values", "-")
    return helm("template", release, str(CHART), *values, stdin=json.dumps(override))


names = set()
for override in ({}, {"workers": 3}, {"image": {"tag": "0.9.0"}}):
    code, out, err = render_aws("m" * 53, override)
    check(code == 0, "migration", err.strip())
    names |= set(re.findall(r"name: (\S+-migrate-\S+)", out))
check(len(names) == 3, "migration", f"each release must get its own Job name: {names}")
check(all(len(name) <= 63 for name in names), "migration", "the Job's name is too long for a label")
report("migration: one Job name per release, also with helm template")

# The values of an earlier release, as --reuse-values has them, lack what is null here. They mean the same as defaults.
EARLIER = {
    "database": {"service": None},
    "ingress": {"public": {"scheme": None}},
    "migration": {"serviceAccountName": None, "serviceAccountAnnotations": None},
    "tracing": None,
}
SAME = {"database": {"service": {"secretArn": ""}}, "migration": {"serviceAccountName": ""}}
renders = []
for override in ({"migration": {"serviceAccountName": "movies-r-us"}}, EARLIER, SAME):
    code, out, err = render_aws("movies-r-us", override)
    check(code == 0, str(override), err.strip())
    if code == 0:
        check_manifests(str(override), out)
    # The name of the Job has a digest of the values.
    renders.append(re.sub(r"(-migrate-1)-\w+", r"\1", out))
check(renders[1] == renders[2], str(EARLIER), "the manifests are others than those of the defaults")
report("one service account; values of an earlier release")

for override, message in INVALID_VALUES:
    code, out, err = helm(
        "template", "movies-r-us", str(CHART), "--values", str(CHART / "ci/aws.yaml"), "--values", "-", stdin=override
    )
    check(code != 0, override, "accepted")
    check(code == 0 or message in err, override, f"the error does not contain {message!r}: {err.strip()}")
code, out, err = helm("template", "movies-r-us", str(CHART))
for missing in (
    "/image/repository",
    "/database/host",
    "/database/secretArn",
    "/ingress/public/host",
    "/ingress/internal/host",
):
    check(missing in err, "no values", f"no error about the missing {missing}")
report(f"{len(INVALID_VALUES)} invalid values and missing values are refused")
