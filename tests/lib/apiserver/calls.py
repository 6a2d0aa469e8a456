"""Calls: what a request is about, as authorization, faults and tests name it.

The rules are those of k8s.io/apiserver's endpoints/request: the verb follows from the method, and from
whether one object is named.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from apiserver.selectors import name_selected

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True)
class Call:
    verb: str
    """get, list, watch, create, update, patch, delete or deletecollection; for other paths the method."""
    path: str
    group: str = ""
    version: str = ""
    resource: str = ""
    """Plural. Without one the path is no object's: /version, /apis."""
    subresource: str = ""
    namespace: str = ""
    name: str = ""

    @property
    def full_resource(self) -> str:
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def understand(method: str, path: str, query: Mapping[str, str]) -> Call:
    """What a request is about. It need not make sense: that is for later to say."""
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["api", version, *rest] if rest:
            group = ""
        case ["apis", group, version, *rest] if rest:
            pass
        case _:
            return Call(method.lower(), path)
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in ("status", "finalize"):
        _, namespace, *rest = rest
    elif rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]  # a namespace is in itself, as far as rights are concerned
    resource, name, subresource = (*rest, "", "")[:3]
    verb = _VERBS.get(method, method.lower())
    if method == "GET":
        verb = "get" if name else "watch" if query.get("watch") in ("1", "true") else "list"
        name = name or name_selected(query.get("fieldSelector", ""))
    elif method == "DELETE":
        verb = "delete" if name else "deletecollection"
    return Call(verb, path, group, version, resource, subresource, namespace, name)
