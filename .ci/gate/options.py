"""The options of infrastructure/options, which are CloudFormation, and the lifecycle of the images in ECR."""

import json
import pathlib

import yaml

TEMPLATES = pathlib.Path("infrastructure/options")
LIFECYCLE = pathlib.Path("infrastructure/ecr-lifecycle.json")


class Loader(yaml.SafeLoader):
    """Reads the short forms of functions, such as !Ref, as an object with the function's name."""


def _function(loader, name, node):
    read = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
    return {f"!{name}": read.get(type(node), loader.construct_mapping)(node)}


Loader.add_multi_constructor("!", _function)


def templates():
    """Returns the templates by name."""
    return {file.stem: yaml.load(file.read_text(), Loader) for file in sorted(TEMPLATES.glob("*.yml"))}


def lifecycle():
    """Returns the rules of the lifecycle by the images that they are about."""
    return {rule["selection"]["tagStatus"]: rule for rule in json.loads(LIFECYCLE.read_text())["rules"]}
