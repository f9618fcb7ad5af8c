"""Teaches schemathesis NDJSON, whose schema is that of an array of its lines."""

import json
from typing import Any

import schemathesis

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def to_lines(context: Any, value: Any) -> bytes:
    lines = value if isinstance(value, list) else [value]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


@schemathesis.deserializer(NDJSON)
def from_lines(context: Any, response: Any) -> list[Any]:
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Asks for NDJSON where the request does not ask for a page."""
    if case.operation.label == "GET /movies" and not {"limit", "after"} & set(case.query or {}):
        case.headers = {**(case.headers or {}), "Accept": NDJSON}
