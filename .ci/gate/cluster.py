"""The cluster: infrastructure/1-eks/config.yml, and the defaults of eksctl's schema.

eksctl's own `create cluster --dry-run` would resolve more, but it asks AWS for zones and images.
"""

import functools
import json
import pathlib

import yaml

CONFIG = pathlib.Path("infrastructure/1-eks/config.yml")
SCHEMA = pathlib.Path("../shared/infra/eksctl-clusterconfig.schema.json")


def config():
    """Returns the configuration, with the values of addons as objects."""
    found = yaml.safe_load(CONFIG.read_text())
    for addon in found.get("addons", []):
        if isinstance(addon.get("configurationValues"), str):
            addon["configurationValues"] = yaml.safe_load(addon["configurationValues"])
    return found


@functools.cache
def _schema():
    return json.loads(SCHEMA.read_text())


def defaults(value=None, spec=None, path=""):
    """Yields (path, default) of each property that the configuration leaves out."""
    if spec is None:
        value, spec = config(), {"$ref": _schema()["$ref"]}
    while "$ref" in spec:
        spec = _schema()["definitions"][spec["$ref"].rpartition("/")[2]]
    if isinstance(value, list):
        for inner in value:
            name = inner.get("name") or inner.get("serviceAccountName") if isinstance(inner, dict) else None
            yield from defaults(inner, spec.get("items", {}), f"{path}[{name}]")
    elif isinstance(value, dict):
        for name, inner in spec.get("properties", {}).items():
            if name in value:
                yield from defaults(value[name], inner, f"{path}.{name}".strip("."))
            elif "default" in inner:
                yield f"{path}.{name}".strip("."), inner["default"]
