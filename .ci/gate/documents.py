"""The documents: their code, commands, tables and links, by a parser of Markdown."""

import functools
import pathlib
import re

import markdown_it

from gate import chart, shell, workflows

PARSER = markdown_it.MarkdownIt("commonmark").enable("table")
PROGRAMS = ("aws", "cargo", "eksctl", "helm", "kubectl", "terraform", "curl", ".ci/run", "rest-api", "scripts/")


@functools.cache
def files():
    """Returns the documents about deployment and operation, and those that name commands."""
    found = [*pathlib.Path().glob("*.md"), *pathlib.Path("docs").rglob("*.md"), *pathlib.Path(".github").rglob("*.md")]
    found += [*pathlib.Path("infrastructure").rglob("*.md"), *pathlib.Path("helm").rglob("*.md")]
    found += pathlib.Path("fuzz").glob("*.md")
    return sorted(found)


@functools.cache
def _tokens(file):
    return PARSER.parse(file.read_text())


def _inline(file):
    for token in _tokens(file):
        yield from token.children or ()


def code(file):
    """Yields (language, text) of each block and piece of code; that within a line has no language."""
    for token in _tokens(file):
        if token.type == "fence":
            yield token.info.strip(), token.content
    for token in _inline(file):
        if token.type == "code_inline":
            yield None, token.content


def links(file):
    """Yields the targets of links and images."""
    for token in _inline(file):
        if target := token.attrGet("href") or token.attrGet("src"):
            yield str(target)


def anchors(file):
    """Returns the anchors of headings, as GitHub makes them."""
    tokens = _tokens(file)
    headings = (tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open")
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


def tables(file):
    """Yields the rows of each table, with the header as the first, as lists of text."""
    rows, row = [], None
    for token in _tokens(file):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            row = []
        elif token.type == "inline" and row is not None:
            row.append(token.content)
        elif token.type == "tr_close":
            rows.append(row)
            row = None
        elif token.type == "table_close":
            yield rows


def table(file, first_header):
    """Returns the rows below the header whose first cell is this one."""
    for rows in tables(pathlib.Path(file)):
        if rows[0][0] == first_header:
            return rows[1:]
    raise SystemExit(f"gate: {file} has no table whose first column is {first_header!r}")


def names(cell):
    """Returns the pieces of code in a cell of a table."""
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def commands():
    """Returns the commands of the documents, the workflows, the scripts and the chart's notes."""
    # Operators run the blocks of one document in one shell, after those of the installation.
    shared, found = {}, []
    for file in sorted(files(), key=lambda file: file.name != "installation.md"):
        variables = dict(shared)
        for language, text in code(file):
            if language == "sh" or (language is None and text.startswith(PROGRAMS) and " " in text):
                found += shell.commands(text, str(file), variables)
        if file.name == "installation.md":
            shared = variables
    for name, effect in workflows.effects().items():
        for job_name, job in effect["jobs"].items():
            for step in job["steps"]:
                variables = {key: str(value) for key, value in {**job["env"], **step.get("env", {})}.items()}
                variables = {
                    k: re.sub(r"\$\{\{ *vars\.AWS_ACCOUNT_ID *\}\}", shell.ACCOUNT, v) for k, v in variables.items()
                }
                variables = {k: v for k, v in variables.items() if "${{" not in v}
                found += shell.commands(step.get("run", ""), f"{name}.yml, {job_name}", variables)
    for script in scripts():
        found += shell.commands(script.read_text(), str(script))
    for values in chart.values_files():
        lines = [line.strip() for line in chart.notes(values).splitlines() if line.startswith("     ")]
        found += shell.commands("\n".join(lines), f"NOTES.txt with {values.name}")
    return found


def scripts():
    return [file for file in sorted(pathlib.Path("scripts").iterdir()) if "bash" in file.read_text().split("\n")[0]]
