"""The programs, from their Rust sources: variables, subcommands with their options, routes, limits."""

import functools
import pathlib
import re

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
# The crates that make up each program.
SERVICE = ("rest-api/src", "aws/src")
FUNCTION = ("ingest-lambda/src", "aws/src")
# Tests and tools read further variables.
ALL = ("rest-api", "ingest-lambda", "aws", "local-s3", "local-stack", "movie-file", "bench", "schema", "fuzz")


@functools.cache
def _tree(file):
    return PARSER.parse(pathlib.Path(file).read_bytes()).root_node


def _nodes(node, *kinds):
    """Yields the nodes of these kinds, except in the tests of a module."""
    if node.type in kinds:
        yield node
    for child in node.children:
        before = child.prev_named_sibling
        if not (child.type == "mod_item" and before is not None and _text(before) == "#[cfg(test)]"):
            yield from _nodes(child, *kinds)


def _text(node):
    return node.text.decode()


@functools.cache
def variables(crates):
    """Returns the names MRU_* that are whole string literals: those that the crates read."""
    found = set()
    for crate in crates:
        for file in pathlib.Path(crate).rglob("*.rs"):
            if "target" not in file.parts and b"MRU_" in file.read_bytes():
                literals = map(_text, _nodes(_tree(str(file)), "string_content"))
                found |= {literal for literal in literals if re.fullmatch(r"MRU_[A-Z0-9_]*[A-Z0-9]", literal)}
    return found


def _kebab(name):
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower().replace("_", "-")


def _options(fields, structs):
    """Returns the long options of a clap struct or variant, including those of flattened structs."""
    found, attributes = set(), ""
    for node in fields.named_children:
        if node.type == "attribute_item":
            attributes += _text(node)
        elif node.type == "field_declaration":
            name = _text(node.child_by_field_name("name"))
            kind = _text(node.child_by_field_name("type"))
            if "flatten" in attributes:
                found |= _options(structs[kind], structs)
            elif long := re.search(r'\blong\b(?: *= *"([^"]+)")?', attributes):
                found.add("--" + (long[1] or _kebab(name)))
            attributes = ""
    return found


@functools.cache
def subcommands():
    """Returns the options of each subcommand of rest-api, such as `users add`."""
    root = _tree("rest-api/src/cli.rs")
    structs = {
        _text(node.child_by_field_name("name")): node.child_by_field_name("body")
        for node in _nodes(root, "struct_item")
        if node.child_by_field_name("body")
    }
    enums = {_text(node.child_by_field_name("name")): node for node in _nodes(root, "enum_item")}
    found = {}

    def add(enum, prefix):
        for variant in _nodes(enum, "enum_variant"):
            name = prefix + _kebab(_text(variant.child_by_field_name("name")))
            body = variant.child_by_field_name("body")
            kind = _text(body).strip("()") if body else None
            if kind in enums:
                add(enums[kind], name + " ")
            elif kind in structs:
                found[name] = _options(structs[kind], structs)
            else:
                found[name] = _options(body, structs) if body else set()

    add(enums["Command"], "")
    return found


@functools.cache
def routes():
    """Returns the paths of the table of routes."""
    table = next(
        node for node in _nodes(_tree("rest-api/src/http/routes.rs"), "static_item") if "ROUTES" in _text(node)
    )
    return set(re.findall(r'"(/[^"]*)"', _text(table)))


def serves(path):
    """Tells whether a route has this path."""
    patterns = (re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route)) for route in routes())
    return any(re.fullmatch(pattern, path) for pattern in patterns)


def seconds(file, name):
    """Returns a constant of the type Duration, in seconds."""
    for node in _nodes(_tree(file), "const_item"):
        if _text(node.child_by_field_name("name")) == name:
            return int(re.search(r"from_secs\((\d+)\)", _text(node))[1])
    raise SystemExit(f"gate: no constant {name} in {file}")


@functools.cache
def _metrics():
    # The literals of the module that registers them; one may end in {name}.
    literals = map(_text, _nodes(_tree("rest-api/src/metrics.rs"), "string_content"))
    patterns = {re.sub(r"\{name\}", "[a-z_]+", literal) for literal in literals if re.fullmatch(r"[a-z_{}]+", literal)}
    return re.compile(f"mru_({'|'.join(patterns)})(_bucket|_sum|_count)?")


def has_metric(name):
    return bool(_metrics().fullmatch(name))
