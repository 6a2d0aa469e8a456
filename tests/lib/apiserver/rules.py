"""What an object must be to be stored: validation of metadata, and of what our programs write."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from apiserver.errors import Problem, invalid
from apiserver.resources import CRDS, LEASES, NAMESPACES, NODES, PODS, SECRETS, Object, Resource, defined_by

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_WORD = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"

_MOST_ANNOTATIONS = 256 * 1024
"""Bytes of keys and values together."""

_STANDARD_FINALIZERS = frozenset({"kubernetes", "orphan", "foregroundDeletion"})

_POD_SPEC_MAY_CHANGE = ("activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations")
_NODE_SPEC_MAY_CHANGE = ("unschedulable", "taints")


def check(resource: Resource, new: Object, old: Object | None = None) -> None:
    """Raises StatusError 422 with all that is wrong with an object that is to take the place of `old`."""
    found = [*_in_metadata(resource, new["metadata"])]
    if old is not None:
        found += _in_change(new["metadata"], old["metadata"])
    of_kind = {PODS: _in_pod, NODES: _in_node, LEASES: _in_lease, SECRETS: _in_secret, CRDS: _in_crd}.get(
        resource
    )
    if of_kind:
        found += of_kind(new, old)
    if found:
        raise invalid(resource.kind, resource.group, new["metadata"].get("name", ""), found)


def _in_metadata(resource: Resource, metadata: Mapping[str, Any]) -> Iterator[Problem]:
    yield from _in_name(metadata.get("name", ""), is_label=resource == NAMESPACES)
    for key, value in metadata.get("labels", {}).items():
        yield from _in_key("metadata.labels", key)
        if value and not re.fullmatch(_WORD, value):
            yield Problem.invalid("metadata.labels", value, _NOT_A_LABEL)
        if len(value) > 63:
            yield Problem.invalid("metadata.labels", value, "must be no more than 63 bytes")
    annotations = metadata.get("annotations", {})
    for key in annotations:
        yield from _in_key("metadata.annotations", key.lower())
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > _MOST_ANNOTATIONS:
        why = f"Too long: may not be more than {_MOST_ANNOTATIONS} bytes"
        yield Problem("metadata.annotations", "FieldValueTooLong", why)
    yield from _in_owners(metadata.get("ownerReferences", []))
    for finalizer in metadata.get("finalizers", []):
        yield from _in_key("metadata.finalizers", finalizer)
        if not resource.is_custom and "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            why = "name is neither a standard finalizer name nor is it fully qualified"
            yield Problem.invalid("metadata.finalizers", finalizer, why)


def _in_name(name: str, *, is_label: bool) -> Iterator[Problem]:
    if not name:
        yield Problem.required("metadata.name", "name or generateName is required")
        return
    longest, pattern, why = (
        (63, _LABEL, _NOT_A_DNS_LABEL) if is_label else (253, _SUBDOMAIN, _NOT_A_SUBDOMAIN)
    )
    if len(name) > longest:
        yield Problem.invalid("metadata.name", name, f"must be no more than {longest} bytes")
    if not re.fullmatch(pattern, name):
        yield Problem.invalid("metadata.name", name, why)


def _in_key(field: str, key: str) -> Iterator[Problem]:
    """A qualified name: a word, or a domain, a slash and a word."""
    prefix, slash, name = key.rpartition("/")
    if len(name) > 63:
        yield Problem.invalid(field, key, "name part must be no more than 63 bytes")
    if slash and not (re.fullmatch(_SUBDOMAIN, prefix) and len(prefix) <= 253):
        yield Problem.invalid(field, key, f"prefix part {_NOT_A_SUBDOMAIN}")
    if not re.fullmatch(_WORD, name):
        yield Problem.invalid(field, key, _NOT_A_NAME_PART)


def _in_owners(references: list[Mapping[str, Any]]) -> Iterator[Problem]:
    for index, reference in enumerate(references):
        for name in ("apiVersion", "kind", "name", "uid"):
            if not reference.get(name):
                yield Problem.required(f"metadata.ownerReferences[{index}].{name}", "must not be empty")
    controllers = [f"{each.get('kind')}/{each.get('name')}" for each in references if each.get("controller")]
    if len(controllers) > 1:
        yield Problem.invalid(
            "metadata.ownerReferences",
            references,
            'Only one reference can have Controller set to true. Found "true" in references for '
            f"{controllers[0]} and {controllers[1]}",
        )


def _in_change(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[Problem]:
    added = sorted(set(new.get("finalizers", [])) - set(old.get("finalizers", [])))
    if "deletionTimestamp" in old and added:
        listed = ", ".join(f'"{each}"' for each in added)
        yield Problem.forbidden(
            "metadata.finalizers",
            "no new finalizers can be added if the object is being deleted, found new finalizers "
            f"[]string{{{listed}}}",
        )
    for name in ("name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if new.get(name) != old.get(name):
            yield Problem.invalid(f"metadata.{name}", new.get(name), "field is immutable")


def _in_pod(new: Object, old: Object | None) -> Iterator[Problem]:
    spec = new.get("spec") or {}
    if not spec.get("containers"):
        yield Problem.required("spec.containers")
    for index, container in enumerate(spec.get("containers") or []):
        for name in ("name", "image"):
            if not container.get(name):
                yield Problem.required(f"spec.containers[{index}].{name}")
    if old is not None and _fixed_in_pod(spec) != _fixed_in_pod(old.get("spec") or {}):
        yield Problem.forbidden("spec", _POD_IS_FIXED)


def _fixed_in_pod(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What no update may change. Images are not among it."""
    fixed = {key: value for key, value in spec.items() if key not in _POD_SPEC_MAY_CHANGE}
    for name in ("containers", "initContainers"):
        fixed[name] = [{**each, "image": ""} for each in spec.get(name) or []]
    return fixed


def _in_node(new: Object, old: Object | None) -> Iterator[Problem]:
    for name in ("capacity", "allocatable"):
        for key, value in ((new.get("status") or {}).get(name) or {}).items():
            field = f"status.{name}.{key}"
            yield from _in_key(field, key)
            if value.startswith("-"):
                yield Problem.invalid(field, value, "must be greater than or equal to 0")
            # Of extended resources there are whole ones only.
            if "/" in key and "kubernetes.io/" not in key and re.search(r"[.mun]", value):
                yield Problem.invalid(field, value, "must be an integer")
    if old is not None:
        was, now = old.get("spec") or {}, new.get("spec") or {}
        for name in was.keys() | now.keys():
            # What has no value yet may be given one, once.
            if name not in _NODE_SPEC_MAY_CHANGE and was.get(name) and now.get(name) != was[name]:
                why = "node updates may only change labels, taints, or capacity"
                yield Problem.forbidden("spec", why)


def _in_lease(new: Object, _: Object | None) -> Iterator[Problem]:
    spec = new["spec"]
    for name, least in (("leaseDurationSeconds", 1), ("leaseTransitions", 0)):
        if spec.get(name, least) < least:
            why = "must be greater than 0" if least else "must be greater than or equal to 0"
            yield Problem.invalid(f"spec.{name}", spec[name], why)


def _in_secret(new: Object, old: Object | None) -> Iterator[Problem]:
    if old is not None and new.get("type") != old.get("type"):
        yield Problem.invalid("type", new.get("type"), "field is immutable")
    if old is not None and old.get("immutable") and new.get("data") != old.get("data"):
        yield Problem.forbidden("data", "field is immutable when `immutable` is set")


def _in_crd(new: Object, _: Object | None) -> Iterator[Problem]:
    try:
        defined = defined_by(new)
    except (KeyError, StopIteration) as error:
        yield Problem.required("spec", f"it lacks {error}")
        return
    if new["metadata"].get("name") != defined.qualified:
        why = 'must be spec.names.plural+"."+spec.group'
        yield Problem.invalid("metadata.name", new["metadata"].get("name"), why)


_NOT_A_SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_NOT_A_DNS_LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_NOT_A_LABEL = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_NOT_A_NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
_POD_IS_FIXED = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
