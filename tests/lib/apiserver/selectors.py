"""Selectors: `labelSelector` and `fieldSelector` of a list or a watch."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from apiserver.errors import bad_request
from apiserver.resources import Object, Resource, value_at

Selector = Callable[[Object], bool]

_NAME = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?)"
_SET = re.compile(rf"({_NAME})\s+(in|notin)\s*\(([^()]*)\)")
_EXISTS = re.compile(rf"(!?)\s*({_NAME})")
_EQUALS = re.compile(rf"({_NAME})\s*(==|=|!=)\s*({_NAME}?)")


def label_selector(text: str) -> Selector:
    """Raises StatusError 400."""
    tests = [_label_test(part.strip()) for part in _split(text)]

    def selects(obj: Object) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return selects


def _split(text: str) -> list[str]:
    """At commas outside of parentheses."""
    return re.split(r",(?![^(]*\))", text) if text.strip() else []


def _label_test(text: str) -> Callable[[Mapping[str, str]], bool]:
    if match := _SET.fullmatch(text):
        key, operator, listed = match.groups()
        values = {value.strip() for value in listed.split(",")}
        # `notin` and `!=` hold for what has no such label.
        return lambda labels: (labels.get(key) in values) is (operator == "in")
    if match := _EQUALS.fullmatch(text):
        key, operator, value = match.groups()
        return lambda labels: (labels.get(key) == value) is (operator != "!=")
    if match := _EXISTS.fullmatch(text):
        absent, key = match.groups()
        return lambda labels: (key in labels) is not bool(absent)
    raise bad_request(f"unable to parse requirement: found '{text}', expected: a label requirement")


def field_selector(text: str, resource: Resource) -> Selector:
    """Raises StatusError 400, for a field that the kind has no selector for too: the server has no other."""
    tests = [_field_test(part.strip(), resource) for part in text.split(",") if part.strip()]
    return lambda obj: all(test(obj) for test in tests)


def _field_test(text: str, resource: Resource) -> Selector:
    match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", text)
    if match is None:
        raise bad_request(f"invalid selector: '{text}'; can't understand '{text}'")
    path, operator, value = match.groups()
    known = {"metadata.name", "metadata.namespace", *resource.fields}
    if path not in known - ({"metadata.namespace"} if not resource.namespaced else set()):
        if resource.fields or resource.is_custom:
            raise bad_request(f"field label not supported: {path}")
        raise bad_request(
            f'"{path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
        )
    return lambda obj: (_text(value_at(obj, path)) == value) is (operator != "!=")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def name_selected(text: str) -> str:
    """The one name that a field selector asks for: the right to that name is enough for such a list."""
    matches = [re.fullmatch(r"metadata\.name==?([^=!]+)", part.strip()) for part in text.split(",")]
    return next((match[1] for match in matches if match), "")
