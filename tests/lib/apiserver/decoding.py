"""From what a client sent to an object as the server understands it: in its normal form, or refused.

A typed server does this by parsing into Go structs. What is unknown there is dropped; what has the wrong type
is a bad request. Here that is done for metadata and for what our programs write.
"""

import base64
import binascii
import re
from typing import Any

from apiserver import schema
from apiserver.errors import StatusError, bad_request, invalid
from apiserver.resources import CRDS, LEASES, NAMESPACES, NODES, PODS, SECRETS, Object, Resource

_KNOWN_PARTS = {
    PODS: {"spec", "status"},
    NODES: {"spec", "status"},
    NAMESPACES: {"spec", "status"},
    SECRETS: {"data", "stringData", "type", "immutable"},
    LEASES: {"spec"},
    CRDS: {"spec", "status"},
}
"""What objects have beside apiVersion, kind and metadata, where that is known here."""

_METADATA: dict[str, type] = {
    "name": str,
    "generateName": str,
    "namespace": str,
    "uid": str,
    "resourceVersion": str,
    "generation": int,
    "creationTimestamp": str,
    "deletionTimestamp": str,
    "deletionGracePeriodSeconds": int,
    "labels": dict,
    "annotations": dict,
    "ownerReferences": list,
    "finalizers": list,
}
"""`managedFields` is accepted, and not kept: who owns a field is of no interest here."""

_IN_METADATA = {"labels": str, "annotations": str, "finalizers": str, "ownerReferences": dict}

_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_QUANTITY = re.compile(r"[+-]?(\d+|\d+\.\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")


def decode(resource: Resource, obj: Any) -> Object:
    """The object itself, changed. Raises StatusError: 400, or 422 where a schema is not met."""
    if not isinstance(obj, dict):
        raise bad_request(f"the object provided is unrecognized (must be of type {resource.kind})")
    _decode_kind(resource, obj)
    metadata = obj.setdefault("metadata", {})
    _decode_metadata(resource, metadata)
    if resource in _KNOWN_PARTS:
        for name in obj.keys() - {"apiVersion", "kind", "metadata"} - _KNOWN_PARTS[resource]:
            del obj[name]
    if resource.schema is not None:
        _decode_custom(resource, resource.schema, obj)
    elif decode_kind := _DECODERS.get(resource):
        decode_kind(obj)
    return obj


def _decode_kind(resource: Resource, obj: Object) -> None:
    for name, expected in (("kind", resource.kind), ("apiVersion", resource.api_version)):
        if not obj.get(name):
            if resource.is_custom:
                raise bad_request(f"Object '{name.replace('kind', 'Kind')}' is missing in the object")
            obj[name] = expected
    if obj["apiVersion"] != resource.api_version:
        raise bad_request(
            f"the API version in the data ({obj['apiVersion']}) does not match the expected API version "
            f"({resource.api_version})"
        )
    if obj["kind"] != resource.kind:
        version = resource.version
        raise bad_request(f'{obj["kind"]} in version "{version}" cannot be handled as a {resource.kind}')


def _refused(resource: Resource, why: str) -> StatusError:
    kind = resource.kind
    return bad_request(f'{kind} in version "{resource.version}" cannot be handled as a {kind}: {why}')


def _wrong_type(resource: Resource, value: object, field: str, expected: str) -> StatusError:
    found = {"boolean": "bool", "integer": "number"}.get(schema.type_name(value), schema.type_name(value))
    why = f"json: cannot unmarshal {found} into Go struct field {field} of type {expected}"
    return _refused(resource, why)


def _decode_metadata(resource: Resource, metadata: Any) -> None:
    if not isinstance(metadata, dict):
        raise _wrong_type(resource, metadata, f"{resource.kind}.metadata", "v1.ObjectMeta")
    for name, value in list(metadata.items()):
        if name not in _METADATA or value in (None, "", [], {}):
            del metadata[name]
        elif type(value) is not _METADATA[name]:
            raise _wrong_type(resource, value, f"ObjectMeta.metadata.{name}", _METADATA[name].__name__)
    for name, expected in _IN_METADATA.items():
        inner = metadata.get(name, [])
        for value in inner.values() if isinstance(inner, dict) else inner:
            if type(value) is not expected:
                raise _wrong_type(resource, value, f"ObjectMeta.metadata.{name}", expected.__name__)
    if references := metadata.get("ownerReferences"):
        distinct = [each for index, each in enumerate(references) if each not in references[:index]]
        metadata["ownerReferences"] = distinct


def _decode_custom(resource: Resource, of: schema.Schema, obj: Object) -> None:
    parts = {key: value for key, value in obj.items() if key != "metadata"}
    schema.prune(parts, {**of, "properties": of.get("properties", {}) | {"apiVersion": {}, "kind": {}}})
    for key in obj.keys() - parts.keys() - {"metadata"}:
        del obj[key]
    problems = list(schema.problems(parts, of))
    if problems:
        raise invalid(resource.kind, resource.group, obj["metadata"].get("name", ""), problems)


def _decode_secret(secret: Object) -> None:
    data = secret.get("data") or {}
    for value in data.values():
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise _refused(SECRETS, "illegal base64 data at input byte 0") from None
    for key, text in (secret.pop("stringData", None) or {}).items():
        data[key] = base64.b64encode(text.encode()).decode()
    if data:
        secret["data"] = data
    secret.setdefault("type", "Opaque")


def _decode_pod(pod: Object) -> None:
    """With the defaults that every pod is given that says nothing else."""
    defaults = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 30,
        "schedulerName": "default-scheduler",
    }
    pod["spec"] = defaults | (pod.get("spec") or {})


def _decode_lease(lease: Object) -> None:
    spec = lease.setdefault("spec", {})
    for name in [name for name, value in spec.items() if value is None]:
        del spec[name]
    for name in ("acquireTime", "renewTime"):
        value = spec.get(name, "2006-01-02T15:04:05.000000Z")
        # Six digits of a second, no fewer: Go parses a MicroTime by its layout.
        if not isinstance(value, str) or not _MICRO_TIME.fullmatch(value):
            layout = "2006-01-02T15:04:05.000000Z07:00"
            raise _refused(LEASES, f'parsing time "{value}" as "{layout}": cannot parse it as ".000000"')
    for name in ("leaseDurationSeconds", "leaseTransitions"):
        if type(spec.get(name, 0)) is not int:
            raise _wrong_type(LEASES, spec[name], f"LeaseSpec.spec.{name}", "int32")


def _decode_node(node: Object) -> None:
    for name in ("capacity", "allocatable"):
        quantities = (node.get("status") or {}).get(name) or {}
        for key, value in quantities.items():
            # A number is taken for its text.
            quantities[key] = str(value) if type(value) in (int, float) else value
            if not isinstance(value, str | int | float) or not _QUANTITY.fullmatch(quantities[key]):
                form = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$"
                raise _refused(NODES, f"quantities must match the regular expression '{form}'")


_DECODERS = {PODS: _decode_pod, SECRETS: _decode_secret, LEASES: _decode_lease, NODES: _decode_node}
