"""What the files call things: the places to look at, and the names that exist."""

import functools
import pathlib
import re

from gate import chart, cluster, documents, terraform

# The releases of Debian by the tags of distroless images.
DEBIAN = {"debian12": "bookworm", "debian13": "trixie"}
# What no plan creates, but an operator: the bucket of the state, the stacks of the options, a later final snapshot,
# and the database of a rehearsal.
BY_HAND = {
    "movies-r-us-terraform-ACCOUNT",
    "movies-r-us-waf",
    "movies-r-us-api-gateway",
    "movies-r-us-final-2",
    "movies-r-us-rehearsal",
}
ACCOUNTS = re.compile(
    r"111122223333|000000000000|\$account\b|\$\{account\}|<account id>|\$\{\{ *vars\.AWS_ACCOUNT_ID *\}\}"
    r"|\$\{aws:PrincipalAccount\}|\$\{local\.account_id\}|\$\(aws sts get-caller-identity[^)]*\)"
)


@functools.cache
def files():
    """Returns the deployment files, the scripts and the documents."""
    found = [
        pathlib.Path("Dockerfile"),
        pathlib.Path("compose.yaml"),
        cluster.CONFIG,
        chart.CHART / "values.yaml",
        *chart.values_files(),
    ]
    found += [file for file in (chart.CHART / "templates").rglob("*") if file.is_file()]
    found += pathlib.Path(".github/workflows").glob("*.yml")
    found += [file for directory in terraform.PLANS for file in terraform.sources(directory)]
    # The changelog names what is gone.
    found += [file for file in documents.files() if file.name != "CHANGELOG.md"]
    found += [file for file in pathlib.Path("scripts").iterdir() if file.is_file()]
    return sorted(set(found))


def everywhere(pattern):
    """Returns what a pattern matches, by file."""
    found = {str(file): set(re.findall(pattern, file.read_text())) for file in files()}
    return {place: names for place, names in found.items() if names}


def regions():
    """Returns the regions, also those of availability zones. docs/scaling.md compares prices of another."""
    found = everywhere(r"(?<![\w-])(?:af|ap|ca|eu|il|me|mx|sa|us)-(?:gov-)?[a-z]{4,}-\d(?=[a-z]?(?:\b|_))")
    return {place: regions for place, regions in found.items() if place != "docs/scaling.md"}


def without_account(text):
    """Replaces each form of an account id by the same word."""
    return ACCOUNTS.sub("ACCOUNT", text)


def without_account_in(file, pattern):
    return {without_account(found) for found in re.findall(pattern, pathlib.Path(file).read_text(), re.MULTILINE)}


def architecture_of(instance_type):
    """Returns the architecture of an EC2 instance type: Graviton families end in g, gd or gn."""
    return "arm64" if re.search(r"\dg[a-z]*\.", instance_type) else "amd64"


def versions_of_charts():
    """Returns a row of the table for each chart that the commands install by version."""
    rows = {}
    for command in documents.commands():
        if command.program == "helm" and command.has("upgrade", "--install"):
            for version in command.values("--version"):
                release = command.words[command.words.index("--install") + 1]
                rows.setdefault(f"version of the chart {release}", {}).setdefault(command.place, set()).add(version)
    return rows


def pins(package):
    """Returns the minor version of a package of PyPI, by the file that pins it."""
    places = [*pathlib.Path(".github/workflows").glob("*.yml"), pathlib.Path(".ci/emulate")]
    places += pathlib.Path(".ci").glob("requirements/*.txt")
    found = {str(file): set(re.findall(rf"\b{package}==(\d+\.\d+)", file.read_text())) for file in places}
    return {place: versions for place, versions in found.items() if versions}


def together(found):
    """Returns several values as one text, for a row of the table whose places have all of them."""
    return ", ".join(sorted(set(found)))


def strings(node):
    """Yields every text in a tree."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)
    elif isinstance(node, str):
        yield node


NAME = re.compile(r"(?<![\w-])(?<!helm/)movies-r-us(?:-[A-Za-z0-9]+)*")


@functools.cache
def known():
    """Returns the names that the cluster, the plans and the chart define."""
    trees = [cluster.config()]
    trees += [terraform.resources(plan) for d in terraform.PLANS for plan in terraform.plans(d).values()]
    trees += [[manifest["metadata"]["name"] for manifest in chart.manifests(file)] for file in chart.values_files()]
    found = {name for text in strings(trees) for name in NAME.findall(without_account(text))}
    return found | BY_HAND
