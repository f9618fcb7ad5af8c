"""Values of the chart and the cluster that are valid, and yet wrong. Each assertion says why.

.ci/check-helm.py and .ci/check-eks.py have those that concern the form of the objects.
"""

import re
import urllib.parse

import yaml

from gate import chart, cluster, documents, program, terraform

ROUTES, SERVER = "rest-api/src/http/routes.rs", "rest-api/src/http/server/"
# The idle timeout of an Application Load Balancer that no attribute sets.
ALB_IDLE_SECONDS = 60
# What kubelet and system reserve, and the pods of the cluster itself: of 2 vCPU and 4 GiB remain about these.
NODE_SIZES = {"c7g.large": (1500, 2800), "m7g.large": (1500, 6400), "c7g.xlarge": (3400, 6000)}
# Memory of database classes in GiB. RDS's default of max_connections is memory / 9531392.
DATABASE_MEMORY = {"db.m7g.large": 8, "db.m6gd.large": 8, "db.t4g.micro": 1, "db.t4g.small": 2, "db.t4g.medium": 4}
DAY = 24 * 3600
MIB = {"Mi": 1, "Gi": 1024}


def _milli(quantity):
    return int(quantity[:-1]) if quantity.endswith("m") else int(float(quantity) * 1000)


def _mib(quantity):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()
    return int(number) * MIB[unit]


def _attributes(text):
    return dict(part.partition("=")[::2] for part in text.split(",") if part)


def chart_values(require):
    for file in chart.values_files():
        manifests = {}
        for manifest in chart.manifests(file):
            manifests.setdefault(manifest["kind"], []).append(manifest)
        _pods(require, f"chart with {file.name}", manifests)
        values = yaml.safe_load(file.read_text())
        _logins(require, f"chart with {file.name}", manifests, values)
        for job in manifests.get("CronJob", []):
            _reconcile(require, f"chart with {file.name}", job["spec"], values["bucket"].split(","))
        for policy in manifests.get("NetworkPolicy", []):
            _network(require, f"chart with {file.name}", policy["spec"])
            _collector(require, f"chart with {file.name}", policy["spec"], manifests["ConfigMap"])
        for ingress in manifests.get("Ingress", []):
            _load_balancer(require, f"chart with {file.name}, {ingress['metadata']['name']}", ingress)
        for autoscaler in manifests.get("HorizontalPodAutoscaler", []):
            metrics = [metric["resource"]["name"] for metric in autoscaler["spec"]["metrics"]]
            require(
                metrics == ["cpu"], f"chart with {file.name}: a pod's memory does not fall, so only cpu can scale down"
            )
        policy = {**chart.defaults()["image"], **yaml.safe_load(file.read_text())["image"]}["pullPolicy"]
        for pod in filter(None, map(chart.pod_of, chart.manifests(file))):
            require(
                pod["containers"][0]["imagePullPolicy"] == policy,
                f"chart with {file.name}: a pod must start while the registry is down, unless image.pullPolicy says so",
            )
        for service in manifests["Service"]:
            targets = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
            require(
                all(name == target for name, target in targets.items()),
                f"chart with {file.name}: a port of the service leads to another of the pods: {targets}",
            )
            require(
                service["spec"]["type"] == "ClusterIP",
                f"chart with {file.name}: another type of service opens a way around the load balancers",
            )
        _effects(require, file, [text for found in manifests.values() for text in _scalars(found)])
    _checksums(require)
    _defaults(require)


def _scalars(node):
    """Yields every number and text of a tree, as text."""
    if isinstance(node, dict):
        for value in node.values():
            yield from _scalars(value)
    elif isinstance(node, list):
        for value in node:
            yield from _scalars(value)
    elif node is not None and not isinstance(node, bool):
        yield str(node)


def _effects(require, file, rendered):
    """What a values file sets appears in what it renders; otherwise a template has a value of its own."""
    values = yaml.safe_load(file.read_text())
    if values["image"].get("digest"):
        values["image"].pop("tag", None)  # the digest takes precedence
    for value in filter(None, _scalars(values)):
        # A short number may be a part of another by chance.
        whole = re.compile(rf"(?<![\w.]){re.escape(value)}(?![\w.])")
        require(
            any(whole.search(text) for text in rendered),
            f"chart with {file.name}: {value!r} has no effect: a template does not use the value",
        )


def _checksums(require):
    """Pods with another configuration have another checksum, so that a change of it replaces them."""
    by_checksum = {}
    for file in chart.values_files():
        objects = {manifest["kind"]: manifest for manifest in chart.manifests(file)}
        checksum = objects["Deployment"]["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        by_checksum.setdefault(checksum, []).append(objects["ConfigMap"]["data"])
    for configurations in by_checksum.values():
        require(
            all(configuration == configurations[0] for configuration in configurations),
            "chart: checksum/config is not that of the ConfigMap: pods would keep an old configuration",
        )


def _pods(require, where, manifests):
    deployment, config = manifests["Deployment"][0]["spec"], manifests["ConfigMap"][0]["data"]
    pod = deployment["template"]["spec"]
    container = pod["containers"][0]
    probes = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    require(
        probes["readinessProbe"] == "/readyz",
        f"{where}: the readiness probe must ask /readyz: with another a pod without its database gets requests",
    )
    require(
        probes["startupProbe"] == probes["livenessProbe"] == "/healthz",
        f"{where}: startup and liveness must ask /healthz: a restart does not repair a database",
    )
    drain = program.seconds(f"{SERVER}mod.rs", "DRAIN_TIMEOUT")
    sleep = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    require(
        pod["terminationGracePeriodSeconds"] >= sleep + drain + 5,
        f"{where}: the grace period is shorter than preStop and the service's drain: requests would be cut off",
    )
    if "Ingress" in manifests:
        longest = program.seconds(ROUTES, "HANDLER_TIMEOUT")
        require(
            sleep >= longest, f"{where}: preStop is shorter than the longest answer of {longest} s: it would be cut off"
        )
    resources = container["resources"]
    require(
        _mib(resources["limits"]["memory"]) >= 256 + int(config["MRU_CACHE_MB"]),
        f"{where}: the memory limit is below 256 MiB and the cache: pods would be killed under load",
    )
    require(
        _mib(resources["limits"]["memory"]) >= _mib(resources["requests"]["memory"]),
        f"{where}: the memory limit is below the request",
    )
    require(
        config["MRU_DB_TLS"] == "verify-full",
        f"{where}: without verify-full somebody in between could read the password of the database",
    )
    job = manifests["Job"][0]["spec"]
    require(
        deployment["progressDeadlineSeconds"] >= job["activeDeadlineSeconds"] + 300,
        f"{where}: the rollout times out while new pods wait for the migration",
    )
    require(
        job["template"]["spec"]["restartPolicy"] == "Never" and job["backoffLimit"] >= 5,
        f"{where}: the migration must outlast a failover (about ten minutes), and keep the log of each attempt",
    )
    budget = manifests["PodDisruptionBudget"][0]["spec"]
    require(
        budget.get("unhealthyPodEvictionPolicy") == "AlwaysAllow",
        f"{where}: pods that are not ready would block the drain of a node",
    )


def _logins(require, where, manifests, values):
    """The pods serve with the login of the service; the migration alone has that of the owner, too."""
    config = manifests["ConfigMap"][0]["data"]
    pods = {
        manifest["metadata"]["name"]: (chart.pod_of(manifest), manifest["kind"] == "Job")
        for found in manifests.values()
        for manifest in found
        if chart.pod_of(manifest)
    }
    owner, service = values["database"], values["database"].get("service", {})
    account = values.get("migration", {}).get("serviceAccountName")
    for name, (pod, migrates) in pods.items():
        container = pod["containers"][0]
        if not container.get("envFrom"):
            continue
        expected = (
            {"MRU_DB": owner, "MRU_DB_SERVICE": service} if migrates and service else {"MRU_DB": service or owner}
        )
        environment = config | {entry["name"]: entry for entry in container.get("env", [])}
        for prefix in ("MRU_DB", "MRU_DB_SERVICE"):
            login = expected.get(prefix, {})
            arn = environment.get(f"{prefix}_SECRET_ARN", "")
            require(
                (arn["value"] if isinstance(arn, dict) else arn) == login.get("secretArn", ""),
                f"{where}, {name}: {prefix}_SECRET_ARN is {arn!r}: only the migration may have the owner's login",
            )
            for end, key in (("USER", "username"), ("PASS", "password")):
                found = environment.get(f"{prefix}_{end}", {}).get("valueFrom", {}).get("secretKeyRef")
                secret = login.get("existingSecret")
                require(
                    found == ({"name": secret, "key": key} if secret else None),
                    f"{where}, {name}: {prefix}_{end} is {found}: only the migration may have the owner's login",
                )
        require(
            not account or (pod["serviceAccountName"] == account) == migrates,
            f"{where}, {name}: only the role of the migration may read the owner's secret",
        )
    for found in manifests.get("ServiceAccount", []):
        if found["metadata"]["name"] == account:
            annotations = found["metadata"].get("annotations", {})
            shared = annotations.items() & values.get("serviceAccount", {}).get("annotations", {}).items()
            require(not shared, f"{where}: the migration's account has the role of the pods: {shared}")


def _reconcile(require, where, spec, buckets):
    job = spec["jobTemplate"]["spec"]
    pod = job["template"]["spec"]
    require(
        [container["args"] for container in pod["containers"]]
        == [["reconcile", "--apply", "--bucket", bucket] for bucket in buckets],
        f"{where}: without --apply reconcile queues nothing, and each run takes one bucket",
    )
    require(
        job["backoffLimit"] <= 2 and pod["restartPolicy"] == "Never",
        f"{where}: a run that fails must end, so that its log stays and the alert is raised",
    )
    require(
        1800 <= job["activeDeadlineSeconds"] < DAY,
        f"{where}: reconcile lists a whole bucket, and must end before the next run",
    )
    require(spec["startingDeadlineSeconds"] >= 600, f"{where}: a run that was missed in an upgrade is made up for")


def _network(require, where, policy):
    dns = {
        port["protocol"]
        for rule in policy["egress"]
        for peer in rule.get("to", [])
        if peer.get("podSelector", {}).get("matchLabels", {}).get("k8s-app") == "kube-dns"
        for port in rule["ports"]
        if port["port"] == 53
    }
    require(dns == {"UDP", "TCP"}, f"{where}: DNS needs UDP and TCP: answers that do not fit a packet come over TCP")
    for rule in policy["egress"]:
        require(rule.get("ports"), f"{where}: an egress rule without ports allows everything")
        ports = {port["port"] for port in rule.get("ports", [])}
        require(
            rule.get("to") or ports == {443},
            f"{where}: only HTTPS may go everywhere; port {ports} must name its peers",
        )


def _collector(require, where, policy, configs):
    open_ports = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    for config in configs:
        if endpoint := config["data"].get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            url = urllib.parse.urlsplit(endpoint)
            port = url.port or {"http": 80, "https": 443}[url.scheme]
            require(port in open_ports, f"{where}: the policy keeps the pods from the collector at port {port}")


def _load_balancer(require, where, ingress):
    annotations = {
        key.removeprefix("alb.ingress.kubernetes.io/"): value
        for key, value in ingress["metadata"]["annotations"].items()
    }
    require(
        annotations.get("healthcheck-path") == "/readyz",
        f"{where}: the load balancer must ask /readyz: with another a pod without its database gets requests",
    )
    require(
        annotations.get("healthcheck-protocol", "HTTP") == "HTTP"
        and annotations.get("backend-protocol", "HTTP") == "HTTP",
        f"{where}: the pods speak HTTP",
    )
    require(annotations.get("success-codes", "200") == "200", f"{where}: only 200 says that a pod is ready")
    numbers = {
        name: int(annotations.get(name, 0))
        for name in (
            "healthcheck-interval-seconds",
            "healthcheck-timeout-seconds",
            "healthy-threshold-count",
            "unhealthy-threshold-count",
        )
    }
    require(
        2 <= numbers["healthcheck-timeout-seconds"] < numbers["healthcheck-interval-seconds"],
        f"{where}: the timeout of health checks must be shorter than their interval",
    )
    require(
        numbers["healthcheck-interval-seconds"] * numbers["unhealthy-threshold-count"] <= 30
        and numbers["unhealthy-threshold-count"] >= 2,
        f"{where}: a pod without its database must get no requests after 30 s, and one lost check must not count",
    )
    require(
        numbers["healthcheck-interval-seconds"] * numbers["healthy-threshold-count"] <= 60,
        f"{where}: a new pod waits for longer than a minute",
    )
    attributes = _attributes(annotations.get("load-balancer-attributes", ""))
    idle = int(attributes.get("idle_timeout.timeout_seconds", ALB_IDLE_SECONDS))
    longest = program.seconds(ROUTES, "HANDLER_TIMEOUT")
    require(idle > longest, f"{where}: the idle timeout {idle} s cuts off the longest answer of {longest} s")
    keep = program.seconds(f"{SERVER}connections.rs", "IDLE_TIMEOUT")
    require(
        idle < keep, f"{where}: the idle timeout {idle} s is not below that of the service, {keep} s: 502 would result"
    )
    require(
        attributes.get("routing.http.drop_invalid_header_fields.enabled") == "true",
        f"{where}: invalid header fields must be dropped, against request smuggling",
    )


def _defaults(require):
    values = chart.defaults()
    require(values["publicLedger"] is False, "chart: the ledger has keys of objects, and must not be public by default")
    require(values["trustedProxies"] == 1, "chart: the load balancer appends one address, so one proxy is trusted")
    require(values["database"]["secretArn"] == "", "chart: no account's secret may be a default")
    require(values["networkPolicy"]["enabled"] is True, "chart: the network policy must be on by default")
    require(values["autoscaling"]["enabled"] is True, "chart: autoscaling must be on by default")
    require(values["image"]["pullPolicy"] == "IfNotPresent", "chart: a pod must start while the registry is down")
    require(
        50 <= values["autoscaling"]["targetCPUUtilization"] <= 80,
        "chart: a target outside of 50 to 80 percent scales too late, or never down",
    )
    require(values["log"] == {"filter": "info", "format": "json"}, "chart: CloudWatch and queries expect JSON at info")
    require(
        values["ledgerDays"] >= 30 and values["historyDays"] >= 30, "chart: undo needs ledger and history for 30 days"
    )
    require(
        re.fullmatch(r"([1-9]|[1-5]\d|60)s", values["serviceMonitor"]["interval"]),
        "chart: rates over five minutes need several scrapes, so one a minute at least",
    )
    for name in ("public", "internal"):
        require(values["ingress"][name]["enabled"] is True, f"chart: the ingress {name} must be on by default")
    for command in documents.commands():
        if command.program != "helm" or not {"upgrade", "rollback"} & set(command.words) or "..." in command.words:
            continue
        if not command.has("movies-r-us") or not command.values("--timeout"):
            continue
        seconds = int(command.values("--timeout")[0].removesuffix("m")) * 60
        require(
            seconds > values["migration"]["deadlineSeconds"],
            f"{command}: helm gives up before the migration's deadline of {values['migration']['deadlineSeconds']} s",
        )
        require(
            "--wait-for-jobs" in command.words, f"{command}: without --wait-for-jobs a failed migration is not seen"
        )


def cluster_values(require):
    config, values = cluster.config(), chart.defaults()
    endpoints = config["vpc"]["clusterEndpoints"]
    require(endpoints.get("privateAccess") is True, "1-eks: nodes must reach the API server inside the VPC")
    require(
        endpoints.get("publicAccess") is True, "1-eks: the workflows reach the API server from outside (or change them)"
    )
    require(config["accessConfig"]["authenticationMode"] == "API", "1-eks: aws-auth could lock everybody out")
    require(config["upgradePolicy"]["supportType"] == "STANDARD", "1-eks: extended support costs six times the price")
    require(config["cloudWatch"]["clusterLogging"]["logRetentionInDays"] <= 400, "1-eks: logs would cost for ever")
    policies = {
        (i["namespace"], i["serviceAccountName"]): i["wellKnownPolicies"]
        for i in config["iam"]["podIdentityAssociations"]
        if "wellKnownPolicies" in i
    }
    for pods, policy in (
        (("kube-system", "aws-load-balancer-controller"), "awsLoadBalancerController"),
        (("external-dns", "external-dns"), "externalDNS"),
    ):
        require(policies.get(pods) == {policy: True}, f"1-eks: {'/'.join(pods)} needs {policy}, and nothing else")
    require(
        any(a["name"] == "vpc-cni" and a.get("useDefaultPodIdentityAssociations") for a in config["addons"]),
        "1-eks: without its own role the CNI needs the role of the nodes",
    )
    for group in config["managedNodeGroups"]:
        where = f"1-eks, node group {group['name']}"
        require(group["maxSize"] > group["desiredCapacity"], f"{where}: a node that is replaced needs room for another")
        require(group["volumeSize"] >= 20, f"{where}: images and logs need 20 GiB")
        require(group["volumeType"] == "gp3", f"{where}: gp2 is slower and costs more")
        require(group["updateConfig"] == {"maxUnavailable": 1}, f"{where}: an update must take one node at a time")
        size = NODE_SIZES.get(group["instanceType"])
        require(size, f"{where}: .ci/gate/values_kubernetes.py does not know the size of {group['instanceType']}")
        if size:
            _fit(require, where, group, size, values)
    _connections(require, values)


def _fit(require, where, group, size, values):
    """The pods fit the nodes: those of a normal day with one node lost, and all on the largest group."""
    requests = values["resources"]["requests"]
    per_node = min(size[0] // _milli(requests["cpu"]), size[1] // _mib(requests["memory"]))
    require(per_node >= 1, f"{where}: a pod that requests {requests} fits no node")
    require(
        per_node * (group["minSize"] - 1) >= values["autoscaling"]["minReplicas"],
        f"{where}: with a node lost, {values['autoscaling']['minReplicas']} pods do not fit; {per_node} fit a node",
    )
    require(
        per_node * group["maxSize"] > values["autoscaling"]["maxReplicas"],
        f"{where}: maxReplicas and one more for a rollout do not fit {group['maxSize']} nodes; {per_node} fit a node",
    )


def _connections(require, values):
    plan = terraform.resources(terraform.plans("2-rds")["defaults"])
    instance = plan["aws_db_instance.this[0]"]["instance_class"]
    memory = DATABASE_MEMORY.get(instance)
    require(memory, f"2-rds: .ci/gate/values_kubernetes.py does not know the memory of {instance}")
    # As values.yaml says: 10 for each core of the node, and 2 for each worker.
    needed = values["autoscaling"]["maxReplicas"] * (10 * 2 + 2 * values["workers"])
    if memory:
        require(
            needed <= 0.8 * memory * 2**30 / 9531392,
            f"chart: {values['autoscaling']['maxReplicas']} pods open {needed} connections, too many for {instance}",
        )
