"""Planned values that are valid, and yet wrong. Each assertion says why.

The tests in the terraform directories have those that concern one resource's form.
"""

import json
import re

from gate import program, provider, terraform

DAY = 24 * 3600
# Where terraform runs: GitHub's runners, and the machines of operators. README.md of the workflows has the command.
PLATFORMS = ("linux_amd64", "linux_arm64", "darwin_arm64")
# What an alarm on a metric must look like to fire, and not to fire all the time: statistics, the bounds of the
# threshold in the metric's unit, how long it must last at most in seconds, what counts as missing.
COUNT = ({"Sum"}, 0, 100, 1800)
METRICS = {
    ("AWS/Lambda", "Errors"): COUNT,
    ("AWS/Lambda", "Throttles"): COUNT,
    ("AWS/Lambda", "DestinationDeliveryFailures"): ({"Sum"}, 0, 0, 300),
    ("AWS/Lambda", "AsyncEventAge"): ({"Maximum"}, 60_000, 3_600_000, 900),  # milliseconds
    ("AWS/Events", "InvocationsFailedToBeSentToDlq"): ({"Sum"}, 0, 0, 300),
    ("AWS/SQS", "ApproximateNumberOfMessagesVisible"): ({"Maximum"}, 0, 0, 300),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"): ({"Maximum"}, 181, 3600, 900),  # seconds; more than one attempt
    ("AWS/RDS", "FreeStorageSpace"): ({"Minimum", "Average"}, 2**30, 2**40, 900),  # bytes
    ("AWS/RDS", "FreeableMemory"): ({"Minimum", "Average"}, 2**26, 2**34, 1800),  # bytes
    ("AWS/RDS", "CPUUtilization"): ({"Average"}, 50, 98, 3600),  # percent
    ("AWS/RDS", "DatabaseConnections"): ({"Maximum", "Average"}, 50, 5000, 1800),
    ("AWS/RDS", "ReplicaLag"): ({"Maximum", "Average"}, 1, 3600, 1800),  # seconds
    ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count"): ({"Sum"}, 0, 10_000, 1800),
    ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count"): ({"Sum"}, 0, 10_000, 1800),
    ("AWS/ApplicationELB", "RequestCount"): ({"Sum"}, 0, 0, 1800),
    ("AWS/ApplicationELB", "UnHealthyHostCount"): ({"Maximum", "Minimum", "Average"}, 0, 10, 1800),
    ("AWS/ApplicationELB", "TargetResponseTime"): ({"Average", "p90", "p95", "p99"}, 0.05, 60, 3600),  # seconds
}
# Metrics where less is worse.
LOW = {"FreeStorageSpace", "FreeableMemory", "HealthyHostCount"}
# On which group each rule is, and whom it lets in or out. Exactly these.
RULES = {
    "2-rds": {
        "aws_vpc_security_group_ingress_rule.from_nodes": (
            "{aws_security_group.movies-r-us-database.id}",
            "{data.aws_eks_cluster.movies-r-us-cluster.vpc_config.cluster_security_group_id}",
            5432,
        )
    },
    "3-s3-lambda": {
        "aws_vpc_security_group_egress_rule.ingest_to_vpc": (
            "{aws_security_group.movies-r-us-ingest.id}",
            "{data.aws_vpc.cidr_block}",
            443,
        ),
        "aws_vpc_security_group_ingress_rule.secrets_manager_from_vpc": (
            "{aws_security_group.movies-r-us-secrets-manager.id}",
            "{data.aws_vpc.cidr_block}",
            443,
        ),
    },
}
# Beside those, in one plan alone.
RULES_OF_PLAN = {
    "3-s3-lambda (tracing)": {
        "aws_vpc_security_group_egress_rule.ingest_to_collector[0]": (
            "{aws_security_group.movies-r-us-ingest.id}",
            "{data.aws_vpc.cidr_block}",
            4318,
        ),
    },
}


def terraform_values(require):
    for directory in terraform.PLANS:
        for name, plan in terraform.plans(directory).items():
            where, resources = f"{directory} ({name})", terraform.resources(plan)
            _alarms(require, where, resources)
            _rules(require, where, directory, resources)
            _policies(require, where, resources)
            _logs_and_data(require, where, resources)
        for address, lifecycle in terraform.lifecycles(directory).items():
            require(
                "ignore_changes" not in json.dumps(lifecycle),
                f"{directory}, {address}: ignore_changes hides what differs from the files",
            )
        for kind in ("moved", "removed", "import"):
            for block in terraform.blocks(directory, kind):
                require(kind == "moved", f"{directory}: a block {kind} changes the state of an installation: {block}")
        for block in terraform.blocks(directory, "terraform"):
            for constraint in (block["required_version"], block["required_providers"][0]["aws"]["version"]):
                require(constraint.startswith("~> "), f"{directory}: {constraint} admits the next major version")
        _lock(require, directory)
    for name, plan in terraform.plans("2-rds").items():
        _database(require, f"2-rds ({name})", terraform.resources(plan))
    for name, plan in terraform.plans("3-s3-lambda").items():
        resources = terraform.resources(plan)
        _bucket(require, f"3-s3-lambda ({name})", resources)
        _function(require, f"3-s3-lambda ({name})", resources)


def _lock(require, directory):
    """The lock file, if it is committed: a release needs it (release.yml)."""
    constraint = terraform.blocks(directory, "terraform")[0]["required_providers"][0]["aws"]["version"]
    for address, locked in terraform.locked(directory).items():
        where = f"{directory}/.terraform.lock.hcl"
        require(address == provider.ADDRESS, f"{where}: {address} is not a provider of the files")
        require(
            locked["constraints"] == constraint
            and locked["version"].split(".")[0] == constraint.removeprefix("~> ").split(".")[0],
            f"{where}: {locked['version']} was chosen for {locked['constraints']}, and the files say {constraint}",
        )
        kinds = [digest.split(":")[0] for digest in locked["hashes"]]
        # h1 is the digest of one platform's files, zh one of the archives that the registry has signed.
        require(
            kinds.count("h1") >= len(PLATFORMS) and kinds.count("zh") >= len(PLATFORMS),
            f"{where}: make it with `terraform providers lock` for {', '.join(PLATFORMS)}",
        )


def _of_kind(resources, kind):
    return {address: values for address, values in resources.items() if address.startswith(kind + ".")}


def _alarms(require, where, resources):
    watched = {
        "QueueName": {queue["name"] for queue in _of_kind(resources, "aws_sqs_queue").values()},
        "FunctionName": {f["function_name"] for f in _of_kind(resources, "aws_lambda_function").values()},
        "RuleName": {rule["name"] for rule in _of_kind(resources, "aws_cloudwatch_event_rule").values()},
    }
    for address, alarm in _of_kind(resources, "aws_cloudwatch_metric_alarm").items():
        at, metric = f"{where}, {address}", (alarm.get("namespace"), alarm.get("metric_name"))
        require(alarm.get("alarm_actions"), f"{at}: it tells nobody")
        require(alarm.get("ok_actions"), f"{at}: nobody learns of its end")
        require(alarm.get("actions_enabled", True), f"{at}: its actions are off")
        if metric == (None, None):
            _expression(require, at, alarm)
            continue
        require(metric in METRICS, f"{at}: add the metric {metric} to METRICS in .ci/gate/values_terraform.py")
        if metric not in METRICS:
            continue
        statistics, least, most, longest = METRICS[metric]
        statistic = alarm.get("statistic") or alarm.get("extended_statistic")
        require(statistic in statistics, f"{at}: {statistic} of {metric[1]} hides what it is for: {statistics}")
        below = alarm["comparison_operator"].startswith("LessThan")
        require(below == (metric[1] in LOW), f"{at}: {alarm['comparison_operator']} looks at the wrong side")
        require(
            least <= alarm["threshold"] <= most,
            f"{at}: the threshold {alarm['threshold']} is not from {least} to {most} in the metric's unit: "
            "it would never fire, or always",
        )
        lasts = alarm["period"] * alarm["evaluation_periods"]
        require(alarm["period"] >= 60, f"{at}: AWS reports this metric once a minute")
        require(lasts <= longest, f"{at}: it fires after {lasts} s, more than {longest} s")
        require(
            alarm.get("datapoints_to_alarm", 1) <= alarm["evaluation_periods"], f"{at}: it asks for more than it sees"
        )
        # Without data Lambda is idle, which is good; an idle queue and a database report nothing while they are bad.
        kept = metric[1] in ("ApproximateNumberOfMessagesVisible", "FreeStorageSpace")
        expected = {"ignore", "missing", "breaching"} if kept else {"notBreaching", "ignore", "missing", "breaching"}
        require(alarm.get("treat_missing_data") in expected, f"{at}: missing data must not end the alarm")
        for dimension, value in alarm.get("dimensions", {}).items():
            if dimension in watched:
                require(value in watched[dimension], f"{at}: nothing has the {dimension} {value}")
        minutes = re.search(r"for (\d+) minutes", alarm["alarm_description"])
        require(
            not minutes or int(minutes[1]) * 60 == lasts,
            f"{at}: the description says {minutes and minutes[0]}, not {lasts} s",
        )


def _expression(require, at, alarm):
    """An alarm on an expression reads metrics by their names for it."""
    (result,) = (query for query in alarm["metric_query"] if query["return_data"])
    for query in alarm["metric_query"]:
        for metric in query.get("metric", []):
            name = (metric["namespace"], metric["metric_name"])
            require(name in METRICS, f"{at}: add the metric {name} to METRICS in .ci/gate/values_terraform.py")
            statistics, _, _, longest = METRICS.get(name, (set(), 0, 0, 0))
            require(
                metric["stat"] in statistics, f"{at}: {metric['stat']} of {name[1]} hides what it is for: {statistics}"
            )
            lasts = metric["period"] * alarm["evaluation_periods"]
            require(lasts <= longest, f"{at}: it fires after {lasts} s, more than {longest} s")
            require(
                re.search(rf"\b{query['id']}\b", result["expression"]), f"{at}: the expression ignores {query['id']}"
            )
    require(alarm["comparison_operator"] == "GreaterThanThreshold", f"{at}: it looks at the wrong side")
    # Of a quiet load balancer the metrics are missing.
    require(alarm["treat_missing_data"] == "notBreaching", f"{at}: a night without requests must raise no alarm")


def _rules(require, where, directory, resources):
    found = {}
    for kind in ("aws_vpc_security_group_ingress_rule", "aws_vpc_security_group_egress_rule"):
        for address, rule in _of_kind(resources, kind).items():
            peer = rule.get("referenced_security_group_id") or rule.get("cidr_ipv4") or rule.get("prefix_list_id")
            found[address] = (rule["security_group_id"], peer, rule.get("to_port"))
            require(
                rule["ip_protocol"] == "tcp" and rule.get("from_port") == rule.get("to_port"),
                f"{where}, {address}: one port of TCP is enough",
            )
    rules = RULES[directory] | RULES_OF_PLAN.get(where, {})
    for address in sorted(rules.keys() | found.keys()):
        expected, planned = rules.get(address), found.get(address)
        require(
            planned == expected,
            f"{where}, {address}: who reaches whom is decided in RULES of .ci/gate/values_terraform.py: "
            f"group, peer and port are {planned}, there {expected}",
        )
    for address, group in _of_kind(resources, "aws_security_group").items():
        require(
            not group.get("ingress") and not group.get("egress"),
            f"{where}, {address}: rules are resources of their own",
        )


def _policies(require, where, resources):
    for address, values in resources.items():
        policy = values.get("policy") or values.get("assume_role_policy")
        for statement in policy.get("Statement", []) if isinstance(policy, dict) else []:
            at = f"{where}, {address}, {statement.get('Sid')}"
            if statement["Effect"] != "Allow":
                continue
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            root = str(statement.get("Principal", {})).endswith(":root'}")
            require(
                root or not any(action == "*" or action.endswith(":*") for action in actions),
                f"{at}: it allows all actions of a service",
            )
            everybody = statement.get("Principal") in ("*", {"AWS": "*"}) and not statement.get("Condition")
            require(not everybody, f"{at}: it allows everybody")
            service = (
                statement.get("Principal", {}).get("Service") if isinstance(statement.get("Principal"), dict) else None
            )
            if service in ("s3.amazonaws.com", "events.amazonaws.com"):
                require("ArnEquals" in statement.get("Condition", {}), f"{at}: others could send through {service}")
    for address, permission in _of_kind(resources, "aws_lambda_permission").items():
        require(permission.get("source_arn"), f"{where}, {address}: others could invoke the function")
        require(
            permission["principal"] != "s3.amazonaws.com" or permission.get("source_account"),
            f"{where}, {address}: the next owner of the bucket's name could invoke the function",
        )
    for address, key in _of_kind(resources, "aws_kms_key").items():
        statements = {s["Sid"]: s for s in key["policy"]["Statement"]}
        require(
            statements.get("Administer", {}).get("Action") == "kms:*",
            f"{where}, {address}: without an administrator nobody can change or delete the key",
        )
        sends = statements.get("SendAlarms", {})
        require(
            sends.get("Principal") == {"Service": "cloudwatch.amazonaws.com"}
            and set(sends.get("Action", [])) == {"kms:Decrypt", "kms:GenerateDataKey*"},
            f"{where}, {address}: CloudWatch needs Decrypt and GenerateDataKey* to send, or alarms get lost in silence",
        )
        require(
            key["deletion_window_in_days"] >= 7 and key["enable_key_rotation"],
            f"{where}, {address}: a deleted key must be recoverable for a week, and keys are rotated",
        )


def _logs_and_data(require, where, resources):
    for address, values in resources.items():
        for dangerous in ("force_destroy", "force_delete", "skip_final_snapshot", "apply_immediately"):
            require(not values.get(dangerous), f"{where}, {address}: {dangerous} can lose data")
    for address, group in _of_kind(resources, "aws_cloudwatch_log_group").items():
        require(
            14 <= group.get("retention_in_days", 0) <= 400,
            f"{where}, {address}: logs must outlive the failure queue (14 days), and not be kept for ever",
        )


def _minutes(window):
    start, end = re.findall(r"(\d\d):(\d\d)", window)
    return [int(hours) * 60 + int(minutes) for hours, minutes in (start, end)]


def _database(require, where, resources):
    kinds = _of_kind(resources, "aws_db_instance") | _of_kind(resources, "aws_rds_cluster")
    parameters = _of_kind(resources, "aws_db_parameter_group") | _of_kind(resources, "aws_rds_cluster_parameter_group")
    for address, database in kinds.items():
        at = f"{where}, {address}"
        backup = _minutes(database.get("backup_window") or database["preferred_backup_window"])
        maintenance = _minutes(database.get("maintenance_window") or database["preferred_maintenance_window"])
        require(backup[1] <= maintenance[0], f"{at}: the backup must end before maintenance begins")
        require(
            max(backup[1], maintenance[1]) <= 6 * 60,
            f"{at}: backup and maintenance belong to the night, before 06:00 UTC",
        )
        require(7 <= database["backup_retention_period"] <= 35, f"{at}: keep backups for 7 to 35 days")
        require(database.get("deletion_protection"), f"{at}: one command could delete the catalogue")
        require(
            database.get("storage_encrypted") and database.get("copy_tags_to_snapshot"),
            f"{at}: storage must be encrypted, and snapshots be found by their tags",
        )
        require(database.get("manage_master_user_password"), f"{at}: RDS keeps and rotates the password")
        require(database.get("auto_minor_version_upgrade"), f"{at}: fixes of Postgres must arrive")
        require(not database.get("allow_major_version_upgrade"), f"{at}: a new major version is a decision")
        require(not database.get("publicly_accessible"), f"{at}: the database must have no public address")
        require(
            len(database["vpc_security_group_ids"]) == 1
            and "movies-r-us-database" in database["vpc_security_group_ids"][0],
            f"{at}: only the group of the database decides who connects",
        )
    for address, group in parameters.items():
        values = {parameter["name"]: parameter["value"] for parameter in group.get("parameter", [])}
        require(
            values.get("rds.force_ssl") == "1", f"{where}, {address}: without rds.force_ssl a client may send in clear"
        )
        require(
            250 <= int(values.get("log_min_duration_statement", -1)) <= 5000,
            f"{where}, {address}: slow statements are those of 0.25 to 5 s; the unit is milliseconds",
        )


def _bucket(require, where, resources):
    rules = resources["aws_s3_bucket_lifecycle_configuration.files"]["rule"]
    for rule in rules:
        at = f"{where}, lifecycle rule {rule['id']}"
        current = [set(expiration) - {"expired_object_delete_marker"} for expiration in rule.get("expiration", [])]
        require(not any(current), f"{at}: it deletes current versions: the bucket is the source of truth")
        require(not rule.get("transition"), f"{at}: it moves current versions, which the service reads at any time")
        require(rule.get("filter") in (None, [{}]), f"{at}: it covers only a part of the bucket")
        require(rule["status"] == "Enabled", f"{at}: it is off: old versions would be kept, and paid, for ever")
        for expiration in rule.get("noncurrent_version_expiration", []):
            require(expiration["noncurrent_days"] >= 30, f"{at}: undo needs replaced versions for 30 days")
    notification = resources["aws_s3_bucket_notification.files"]
    for target in notification.get("lambda_function", []) + notification.get("queue", []):
        require(
            not {"filter_prefix", "filter_suffix"} & target.keys(),
            f"{where}: a filter on the notification hides files from the service; producers choose their keys",
        )
        require(
            set(target["events"]) == {"s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:LifecycleExpiration:*"},
            f"{where}: the service must learn of created, removed and expired objects",
        )
    for rule in _of_kind(resources, "aws_cloudwatch_event_rule").values():
        require(
            rule["event_pattern"]
            == {
                "source": ["aws.s3"],
                "detail-type": ["Object Created", "Object Deleted"],
                "detail": {"bucket": {"name": [resources["aws_s3_bucket.files"]["bucket"]]}},
            }
            and rule.get("state", "ENABLED") == "ENABLED",
            f"{where}: the rule must pass created and deleted objects of the bucket, without a filter of keys",
        )
    require(
        resources["aws_s3_bucket_versioning.files"]["versioning_configuration"] == [{"status": "Enabled"}],
        f"{where}: without versions nothing can be undone",
    )
    access = resources["aws_s3_bucket_public_access_block.files"]
    require(
        all(
            access.get(n)
            for n in ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
        ),
        f"{where}: the bucket must not be public",
    )


def _function(require, where, resources):
    function = resources["aws_lambda_function.ingest"]
    timeout, call = function["timeout"], program.seconds("ingest-lambda/src/client.rs", "TIMEOUT")
    require(
        timeout >= 2 * call, f"{where}: the timeout {timeout} s must outlast the call to the API, {call} s, and a retry"
    )
    require(timeout <= 60, f"{where}: a function that hangs would block its concurrency for {timeout} s")
    require(
        function["memory_size"] >= 128 and function["reserved_concurrent_executions"] != 0, f"{where}: it could not run"
    )
    for address, queue in _of_kind(resources, "aws_sqs_queue").items():
        at = f"{where}, {address}"
        require(queue["message_retention_seconds"] == 14 * DAY, f"{at}: failed events must wait for 14 days")
        factor = 6 if "redrive_policy" in queue else 2
        require(
            queue["visibility_timeout_seconds"] >= factor * timeout,
            f"{at}: its visibility timeout is below {factor} times the function's: events would be delivered twice",
        )
        require(queue.get("sqs_managed_sse_enabled"), f"{at}: keys of objects must be encrypted")
        if redrive := queue.get("redrive_policy"):
            require(5 <= redrive["maxReceiveCount"] <= 100, f"{at}: AWS advises 5 attempts or more")
            lasts = redrive["maxReceiveCount"] * queue["visibility_timeout_seconds"]
            require(lasts >= 1200, f"{at}: attempts end after {lasts} s: they must outlast a failover and a rollout")
            require("dead-letters" in redrive["deadLetterTargetArn"], f"{at}: failed events belong to the dead letters")
    for address, invoke in _of_kind(resources, "aws_lambda_function_event_invoke_config").items():
        require(invoke["maximum_retry_attempts"] == 2, f"{where}, {address}: fewer attempts than Lambda offers")
        require(
            invoke["maximum_event_age_in_seconds"] == 21600,
            f"{where}, {address}: events must wait for the 6 hours that Lambda offers",
        )
        failure = invoke["destination_config"][0]["on_failure"][0]["destination"]
        require("ingest-failures" in failure, f"{where}, {address}: failed events must go to the failure queue")
    for address, mapping in _of_kind(resources, "aws_lambda_event_source_mapping").items():
        require(
            mapping.get("function_response_types") == ["ReportBatchItemFailures"],
            f"{where}, {address}: one failed event would repeat or lose its batch",
        )
        require(mapping.get("enabled", True), f"{where}, {address}: it is off")
        require(mapping["batch_size"] <= 10, f"{where}, {address}: more than 10 need a batching window")
    for address, target in _of_kind(resources, "aws_cloudwatch_event_target").items():
        require(target.get("dead_letter_config"), f"{where}, {address}: undelivered events would be lost")
        retry = target["retry_policy"][0]
        require(
            retry["maximum_event_age_in_seconds"] == DAY and retry["maximum_retry_attempts"] == 185,
            f"{where}, {address}: EventBridge must try for a day",
        )
