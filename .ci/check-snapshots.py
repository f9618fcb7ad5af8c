#!/usr/bin/env python3
"""Compares the effect of the deployment files with the snapshots in .ci/snapshots.

A snapshot is what a file does, not what it says: rendered manifests, planned resources, expanded workflows.
A reviewer reads the difference of the snapshots.
"""

import argparse
import difflib
import pathlib
import re
import shutil
import sys

import yaml
from gate import chart, cluster, documents, image, names, options, shell, terraform, workflows

SNAPSHOTS = pathlib.Path(".ci/snapshots")
RENEW = ".ci/run snapshots"


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
    yield "chart.yaml", dump(yaml.safe_load((chart.CHART / "Chart.yaml").read_text()))
    yield "defaults.yaml", dump(chart.defaults())
    yield "schema.txt", "\n".join(sorted(chart.flat_schema(chart.schema()))) + "\n"
    for values in chart.values_files():
        for manifest in map(chart.without_noise, chart.manifests(values)):
            name = f"{manifest['kind']}-{manifest['metadata']['name']}".lower()
            yield f"{values.stem}/{name}.yaml", dump(manifest)
        yield f"{values.stem}/notes.txt", chart.notes(values)


def snapshots_of_terraform():
    for directory in terraform.PLANS:
        variables = {
            name: {key: value for key, value in body.items() if key != "description"}
            for block in terraform.blocks(directory, "variable")
            for name, body in block.items()
        }
        settings = {
            kind: terraform.blocks(directory, kind) for kind in ("terraform", "provider", "moved", "import", "removed")
        }
        yield f"{directory}/settings.yaml", dump({**settings, "variable": variables})
        first = None
        for name, plan in terraform.plans(directory).items():
            outputs = plan["planned_values"].get("outputs", {})
            effect = {
                "resources": terraform.resources(plan),
                "outputs": {
                    name: {"sensitive": output["sensitive"], "value": output.get("value")}
                    for name, output in outputs.items()
                },
            }
            if first is None:
                first = effect
                entries = terraform.references(plan)
                for address, lifecycle in terraform.lifecycles(directory).items():
                    entries[address]["lifecycle"] = lifecycle
                yield f"{directory}/references.yaml", dump(entries)
                yield f"{directory}/{name}.yaml", dump(effect)
            else:
                yield f"{directory}/{name}.yaml", dump({kind: changes(first[kind], effect[kind]) for kind in effect})


def changes(before, after):
    """Returns the entries that differ; null is one that is gone."""
    return {name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def snapshots_of_cluster():
    yield "config.yaml", dump(cluster.config())
    committed = SNAPSHOTS / "cluster/defaults.yaml"
    if cluster.SCHEMA.exists():
        yield committed.name, dump(dict(cluster.defaults()))
    elif committed.exists():
        print(f"check-snapshots: {cluster.SCHEMA} not found: {committed} is not compared")
        yield committed.name, committed.read_text()


def snapshots_of_workflows():
    for name, effect in workflows.effects().items():
        yield f"{name}.yaml", dump(effect)
    for name in ("dependabot", "zizmor"):
        yield f"{name}.yaml", dump(yaml.safe_load((workflows.GITHUB / f"{name}.yml").read_text()))


def snapshots_of_image():
    yield "instructions.txt", "".join(f"{name} {value}\n" for name, value in image.instructions())
    yield "ignored.txt", "\n".join(image.ignored()) + "\n"


def snapshots_of_options():
    for name, template in options.templates().items():
        yield f"{name}.yaml", dump(template)
    yield "lifecycle.yaml", dump(options.lifecycle())


def snapshots_of_scripts():
    for script in documents.scripts():
        yield f"{script.name}.txt", "".join(f"{line}\n" for line in shell.statements(script.read_text()))


def snapshots_of_exceptions():
    """The comments that keep a tool from reporting something."""
    pattern = re.compile(r".*(?:checkov:skip|shellcheck disable|hadolint ignore|zizmor: *ignore|tflint-ignore).*")
    found = {str(file): pattern.findall(file.read_text()) for file in names.files()}
    lines = [f"{file}: {line.strip()}\n" for file, lines in found.items() for line in lines]
    yield "comments.txt", "".join(sorted(lines))


PARTS = {
    "chart": snapshots_of_chart,
    "cluster": snapshots_of_cluster,
    "exceptions": snapshots_of_exceptions,
    "image": snapshots_of_image,
    "options": snapshots_of_options,
    "scripts": snapshots_of_scripts,
    "terraform": snapshots_of_terraform,
    "workflows": snapshots_of_workflows,
}


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
            f"If each line is meant, run `{RENEW}`, and commit the snapshots with the change."
        )


main()
