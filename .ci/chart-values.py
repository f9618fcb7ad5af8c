#!/usr/bin/env python3
"""Writes the table of all values into the chart's README, from values.yaml and its comments.

Without an option it only compares, and fails if the table is not the one of values.yaml. --write writes it.
"""

import json
import pathlib
import re
import sys

import yaml

CHART = pathlib.Path("helm/movies-r-us")
README = CHART / "README.md"
BEGIN, END = "<!-- values: .ci/chart-values.py --write -->\n", "<!-- end of values -->\n"


def comments(text):
    """Returns the comment above each key, by its path. It also holds for the keys right below."""
    found, path, above = {}, [], []
    for line in text.splitlines():
        key = re.match(r"( *)([A-Za-z]\w*):", line)
        if comment := re.match(r" *# (.*)", line):
            above.append(comment[1])
        elif key:
            sibling, path = path, [*path[: len(key[1]) // 2], key[2]]
            inherited = found[".".join(sibling)] if len(sibling) == len(path) else ""
            found[".".join(path)] = " ".join(above) or inherited
            above = []
        else:
            path, above = path if line else [], []
    return found


def leaves(values, path=()):
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


def table():
    text = (CHART / "values.yaml").read_text()
    explained = comments(text)
    rows = ["| value | default | meaning |", "| --- | --- | --- |"]
    for path, value in leaves(yaml.safe_load(text)):
        # The comment of a group explains the values that have none.
        names = path.split(".")
        groups = (".".join(names[:length]) for length in range(len(names), 0, -1))
        meaning = next(filter(None, map(explained.get, groups)), "").replace("|", "\\|")
        rows.append(f"| `{path}` | `{json.dumps(value)}` | {meaning} |")
        if not meaning:
            sys.exit(f"chart-values: values.yaml does not explain {path}")
    return "\n".join(rows) + "\n"


def main():
    text = README.read_text()
    before, rest = text.split(BEGIN)
    new = before + BEGIN + table() + END + rest.split(END)[1]
    if sys.argv[1:] == ["--write"]:
        README.write_text(new)
    elif new != text:
        sys.exit(f"chart-values: {README} does not have the values of values.yaml: run .ci/chart-values.py --write")


main()
