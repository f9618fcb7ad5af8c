#!/usr/bin/env python3
"""Checks values that are valid, and yet wrong: those whose effect is seen only in production.

Each assertion in .ci/gate/values_*.py says in its message why the value must be so.
"""

import sys
import traceback

from gate import values_delivery, values_kubernetes, values_options, values_scripts, values_terraform

GROUPS = {
    "chart": values_kubernetes.chart_values,
    "cluster": values_kubernetes.cluster_values,
    "terraform": values_terraform.terraform_values,
    "workflows": values_delivery.workflow_values,
    "image": values_delivery.image_values,
    "scripts": values_scripts.script_values,
    "options": values_options.option_values,
}


def main():
    problems, total = [], 0

    def require(holds, reason):
        nonlocal total
        total += 1
        if not holds:
            problems.append(reason)

    for name, group in GROUPS.items():
        before, counted = len(problems), total
        try:
            group(require)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            problems.append(f"{name}: something is missing: {error!r} at `{frame.line}`")
        result = "ok    " if len(problems) == before else "FAILED"
        print(f"{result} {name}: {total - counted} assertions", flush=True)
    if problems:
        sys.exit("\n".join(["check-values: failed:", *(f"  - {problem}" for problem in dict.fromkeys(problems))]))


main()
