"""A custom resource's structural schema (OpenAPI v3): what doesn't fit it, and what it doesn't know.

Patterns, bounds, defaults and CEL rules are not looked at: PeerPod has none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from apiserver.errors import Problem

Schema = Mapping[str, Any]

_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def type_name(value: object) -> str:
    """As JSON schemas name it."""
    if value is None:
        return "null"
    # A bool is an int too, and comes before it.
    order = ("boolean", "integer", "number", "string", "array", "object")
    return next(name for name in order if isinstance(value, _TYPES[name]))


def problems(value: Any, schema: Schema, path: str = "") -> Iterator[Problem]:
    """What doesn't fit."""
    expected, found = schema.get("type"), type_name(value)
    if expected and expected != found and (expected, found) != ("number", "integer"):
        why = f'Invalid value: "{found}": {path} in body must be of type {expected}: "{found}"'
        yield Problem(path, "FieldValueTypeInvalid", why)
        return
    if value not in schema.get("enum", [value]):
        supported = ", ".join(f'"{each}"' for each in schema["enum"])
        why = f'Unsupported value: "{value}": supported values: {supported}'
        yield Problem(path, "FieldValueNotSupported", why)
    for name in schema.get("required", ()):
        if name not in value:
            yield Problem.required(f"{path}.{name}".lstrip("."))
    for name, each, of in _parts(value, schema):
        if each is not None and of is not None:  # a null is as good as nothing
            yield from problems(each, of, f"{path}{name}".lstrip("."))


def prune(value: Any, schema: Schema) -> None:
    """Drop, in place, what the schema doesn't know."""
    for name, each, of in list(_parts(value, schema)):
        if of is not None:
            prune(each, of)
        elif isinstance(value, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
            del value[name.removeprefix(".")]


def _parts(value: Any, schema: Schema) -> Iterator[tuple[str, Any, Schema | None]]:
    """Fields and items, with how they are written in a path and their schemas, if they have any."""
    if isinstance(value, list):
        for index, each in enumerate(value):
            yield f"[{index}]", each, schema.get("items", {})
    elif isinstance(value, dict):
        additional = schema.get("additionalProperties")
        others = {} if additional is True else additional or None
        for name, each in value.items():
            yield f".{name}", each, schema.get("properties", {}).get(name, others)
