"""Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386) and Kubernetes' strategic merge patch.

Each takes the object as it is, which it may change, and returns what becomes of it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from apiserver.errors import StatusError, bad_request, generic, too_large
from apiserver.resources import Object

JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"

MOST_OPERATIONS = 10_000


class _DoesNotApplyError(Exception):
    pass


def json_patch(document: Object, operations: Any) -> Object:
    """Raises StatusError: 400 for what is no patch, 422 for one that doesn't apply, a failed test included.
    The real server tells no more than that either.
    """
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise bad_request("json: cannot unmarshal the body into Go value of type jsonpatch.Patch")
    if len(operations) > MOST_OPERATIONS:
        raise too_large(
            f"The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {len(operations)}"
        )
    try:
        for operation in operations:
            _perform(document, operation)
    except _DoesNotApplyError:
        raise generic(422) from None
    return document


def _perform(document: Object, operation: Mapping[str, Any]) -> None:
    place = _place(document, operation.get("path"))
    value = deepcopy(operation.get("value"))
    match operation.get("op"):
        case "add":
            _add(place, value)
        case "remove":
            _remove(place)
        case "replace":
            _replace(place, value)
        case "test":
            # A null equals a key that isn't there.
            if not _same(_read(place), value):
                raise _DoesNotApplyError
        case "move":
            origin = _place(document, operation.get("from"))
            moved = _read(origin)
            _remove(origin)
            _add(_place(document, operation.get("path")), moved)
        case "copy":
            _add(place, deepcopy(_read(_place(document, operation.get("from")))))
        case _:
            raise _DoesNotApplyError


_Place = tuple[dict[str, Any] | list[Any], str]
"""A container, and the key in it as the pointer has it."""


def _place(document: Object, pointer: Any) -> _Place:
    """Where a JSON pointer (RFC 6901) ends. All but the end of it has to be there."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise _DoesNotApplyError
    *parents, key = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    container: Any = document
    for parent in parents:
        container = _read((container, parent))
        if not isinstance(container, dict | list):
            raise _DoesNotApplyError
    return container, key


def _index(key: str, *, end: int) -> int:
    """Counted from the end if it is negative, as the real server has it."""
    if not re.fullmatch(r"-?\d+", key) or not -end <= int(key) < end:
        raise _DoesNotApplyError
    return int(key) if int(key) >= 0 else int(key) + end


def _read(place: _Place) -> Any:
    container, key = place
    if isinstance(container, dict):
        return container.get(key)
    return container[_index(key, end=len(container))]


def _add(place: _Place, value: Any) -> None:
    container, key = place
    if isinstance(container, dict):
        container[key] = value
    elif key == "-":
        container.append(value)
    else:
        container.insert(_index(key, end=len(container) + 1), value)


def _replace(place: _Place, value: Any) -> None:
    container, key = place
    if isinstance(container, dict):
        # RFC 6902 wants it to be there. The real server's library doesn't.
        container[key] = value
    else:
        container[_index(key, end=len(container))] = value


def _remove(place: _Place) -> None:
    container, key = place
    if isinstance(container, list):
        del container[_index(key, end=len(container))]
    elif key in container:
        del container[key]
    else:
        raise _DoesNotApplyError


def _same(one: Any, other: Any) -> bool:
    """Equal in JSON: 1 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and bool(one == other)


def merge_patch(document: Object, patch: Any) -> Object:
    """Raises StatusError 400."""
    if not isinstance(patch, dict):
        raise bad_request(_NO_OBJECT)
    return _merged(document, patch)


_NO_OBJECT = "error decoding patch: json: cannot unmarshal the body into Go value of type map[string]any"


def _merged(document: Any, patch: Mapping[str, Any], *, strategic: bool = False) -> Object:
    result = document if isinstance(document, dict) else {}
    for key, value in patch.items():
        if strategic and key.startswith("$"):
            continue  # a directive
        if value is None:
            result.pop(key, None)
        elif strategic and isinstance(value, dict) and value.get("$patch") in ("replace", "delete"):
            result[key] = {k: v for k, v in value.items() if k != "$patch"}
        elif isinstance(value, dict):
            result[key] = _merged(result.get(key), value, strategic=strategic)
        elif strategic and isinstance(value, list):
            result[key] = _joined(key, result.get(key) or [], value)
        else:
            result[key] = deepcopy(value)
    for key in patch:
        name = key.removeprefix("$deleteFromPrimitiveList/")
        if strategic and name != key:
            result[name] = [each for each in result.get(name) or [] if each not in patch[key]]
    return result


_PRIMITIVE_LISTS = frozenset({"finalizers", "podCIDRs"})
"""Lists of plain values that are joined, not replaced."""

_MERGE_KEYS = {
    "ownerReferences": "uid",
    "conditions": "type",
    "addresses": "type",
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "secrets": "name",
    "hostAliases": "ip",
    "podIPs": "ip",
    "hostIPs": "ip",
}
"""Lists of objects that are joined by a key, wherever these names occur in the built-in kinds (the
`patchMergeKey` tags of k8s.io/api). All other lists are replaced."""


def strategic_merge_patch(document: Object, patch: Any) -> Object:
    """Raises StatusError 400. The directives $setElementOrder and $retainKeys have no effect here."""
    if not isinstance(patch, dict):
        raise bad_request(_NO_OBJECT)
    return _merged(document, patch, strategic=True)


def _joined(name: str, there: list[Any], new: list[Any]) -> list[Any]:
    if name in _PRIMITIVE_LISTS:
        return [*there, *(each for each in new if each not in there)]
    key = _MERGE_KEYS.get(name)
    if key is None:
        return deepcopy(new)
    if any(each.get("$patch") == "replace" for each in new):
        return [each for each in deepcopy(new) if "$patch" not in each]
    joined = {each.get(key): each for each in there}
    for each in new:
        if key not in each:
            raise StatusError(500, "", f"map: {each} does not contain declared merge key: {key}")
        if each.get("$patch") == "delete":
            joined.pop(each[key], None)
        else:
            joined[each[key]] = _merged(joined.get(each[key]), each, strategic=True)
    return list(joined.values())


PATCHES: Mapping[str, Callable[[Object, Any], Object]] = {
    JSON: json_patch,
    MERGE: merge_patch,
    STRATEGIC: strategic_merge_patch,
}


def accepted(*, custom: bool) -> Sequence[str]:
    """Of a custom resource the server knows no merge keys."""
    return [each for each in PATCHES if not (custom and each == STRATEGIC)]
