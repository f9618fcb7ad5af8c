"""The image: the instructions of the Dockerfile, and what of the checkout they see."""

import io
import pathlib
import re

import dockerfile_parse

DOCKERFILE = pathlib.Path("Dockerfile")


def instructions():
    """Returns (instruction, value) in order, with default arguments and one space between words."""
    parser = dockerfile_parse.DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes()))
    arguments, found = {}, []
    for entry in parser.structure:
        name, value = entry["instruction"], re.sub(r"\s+", " ", entry["value"]).strip()
        if name == "COMMENT":
            continue
        if name == "ARG" and "=" in value:
            key, _, default = value.partition("=")
            arguments[key] = default
        elif name in ("FROM", "ADD"):
            value = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], match[0]), value)
        found.append((name, value))
    return found


def value_of(instruction):
    """Returns the last value of an instruction, which is that of the image."""
    return [value for name, value in instructions() if name == instruction][-1]


def ignored():
    lines = pathlib.Path(".dockerignore").read_text().splitlines()
    return sorted(line for line in lines if line and not line.startswith("#"))
