#!/usr/bin/env python3
"""Checks the PrometheusRule and the Grafana dashboard of the rendered chart: syntax, names of metrics, and by
.ci/alerts.test.yaml that each alert fires and is quiet otherwise.

Needs promtool and PyYAML, and what .ci/check-helm.py has written to target/rendered-chart/.
"""

import json
import pathlib
import re
import subprocess
import sys

import yaml

RENDERED = pathlib.Path("target/rendered-chart/everything.yaml")
TESTS = pathlib.Path(".ci/alerts.test.yaml")
ALERTS = pathlib.Path("target/alerts.yaml")
PANELS = pathlib.Path("target/panels.yaml")
# What Grafana replaces in the queries of a dashboard.
VARIABLES = {"$job": "movies-r-us", "$namespace": "movies-r-us", "$__rate_interval": "5m"}


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], check=False, text=True, capture_output=True)
    if done.returncode:
        sys.exit(f"check-alerts: promtool {' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")


def queries(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in VARIABLES.items():
                query = query.replace(variable, value)
            yield query


def check_names(query):
    """Fails if the service has no metric of a name in the query."""
    source = pathlib.Path("rest-api/src/metrics.rs").read_text()
    for name in re.findall(r"\bmru_(\w+?)(?:_bucket|_sum|_count)?\b", query):
        known = f'"{name.removeprefix("database_pool_")}"' in source
        if not known:
            sys.exit(f"check-alerts: the service has no metric mru_{name}: {query}")


def main():
    manifests = list(filter(None, yaml.safe_load_all(RENDERED.read_text())))
    (rule,) = (m for m in manifests if m["kind"] == "PrometheusRule")
    ALERTS.write_text(yaml.safe_dump(rule["spec"]))
    promtool("check", "rules", ALERTS)
    promtool("test", "rules", TESTS)
    alerts = [alert for group in rule["spec"]["groups"] for alert in group["rules"]]
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    for alert in alerts:
        check_names(alert["expr"])
        # True: it fires; False: it is quiet.
        if {bool(case["exp_alerts"]) for case in cases if case["alertname"] == alert["alert"]} != {True, False}:
            sys.exit(f"check-alerts: {TESTS} does not test {alert['alert']} both ways")

    (text,) = (m["data"]["movies-r-us.json"] for m in manifests if "movies-r-us.json" in m.get("data", {}))
    panels = list(queries(json.loads(text)))
    for query in panels:
        check_names(query)
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(panels)]
    PANELS.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", PANELS)
    print(f"check-alerts: {len(alerts)} alerts, {len(panels)} queries of the dashboard")


main()
