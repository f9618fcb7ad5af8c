#!/usr/bin/env python3
"""Compares the effect of the deployment files with the snapshots in .ci/snapshots.

A snapshot is what a file does, not what it says: rendered manifests, planned resources, expanded workflows.
A reviewer reads the difference of the snapshots.
"""

import argparse
import difflib
import pathlib
import shutil
import sys

import yaml
from gate import chart

SNAPSHOTS = pathlib.Path(".ci/snapshots")
RENEW = ".ci/check-snapshots.py --renew"


class Dumper(yaml.SafeDumper):
    """Sorted YAML without aliases, and with text of several lines as a block."""

    def ignore_aliases(self, data):
        return True


def text_of(dumper, value):
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


Dumper.add_representer(str, text_of)


def dump(value):
    return yaml.dump(value, Dumper=Dumper, width=110, allow_unicode=True)


def snapshots_of_chart():
    yield "defaults.yaml", dump(chart.defaults())
    yield "schema.txt", "\n".join(sorted(chart.flat_schema(chart.schema()))) + "\n"
    for values in chart.values_files():
        for manifest in map(chart.without_noise, chart.manifests(values)):
            name = f"{manifest['kind']}-{manifest['metadata']['name']}".lower()
            yield f"{values.stem}/{name}.yaml", dump(manifest)
        yield f"{values.stem}/notes.txt", chart.notes(values)


PARTS = {"chart": snapshots_of_chart}


def differences(part, produced):
    """Yields a unified difference for each file of a part."""
    directory = SNAPSHOTS / part
    committed = {str(file.relative_to(directory)): file.read_text() for file in directory.rglob("*") if file.is_file()}
    for name in sorted(committed.keys() | produced.keys()):
        before, after = committed.get(name, ""), produced.get(name, "")
        if before != after:
            file = str(directory / name)
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), file, "now", lineterm="")
            yield "\n".join(lines)


def renew(part, produced):
    shutil.rmtree(SNAPSHOTS / part, ignore_errors=True)
    for name, text in produced.items():
        file = SNAPSHOTS / part / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--renew", action="store_true", help="write the snapshots instead of comparing them")
    parser.add_argument("part", nargs="*", help=f"all unless named: {', '.join(PARTS)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.part) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; the parts are: {', '.join(PARTS)}")
    failed = False
    for part in arguments.part or PARTS:
        produced = dict(PARTS[part]())
        if arguments.renew:
            renew(part, produced)
            print(f"check-snapshots: {part}: wrote {len(produced)} files")
            continue
        found = list(differences(part, produced))
        print(f"check-snapshots: {part}: {len(produced)} files" + (f", {len(found)} differ" if found else ""))
        print(*found, sep="\n\n", end="\n" if found else "")
        failed |= bool(found)
    if failed:
        sys.exit(
            "check-snapshots: the effect of a deployment file differs from its snapshot: see above.\n"
            f"If each line is meant, run `{RENEW}` and commit the snapshots with the change."
        )


main()
