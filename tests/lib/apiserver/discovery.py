"""What a client can ask about the server itself: /version, /api, /apis and what is below them."""

from collections.abc import Sequence
from typing import Any

from apiserver.resources import Resource

_VERSION = {
    "major": "1",
    "minor": "33",
    "gitVersion": "v1.33.1",
    "gitCommit": "",
    "gitTreeState": "clean",
    "buildDate": "2025-05-15T00:00:00Z",
    "goVersion": "go1.24.2",
    "compiler": "gc",
    "platform": "linux/amd64",
}
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


def document(path: str, resources: Sequence[Resource]) -> dict[str, Any] | str | None:
    """What stands at a path, as JSON or as text. None: nothing."""
    versions = {each.group: each.version for each in resources}
    pages: dict[str, dict[str, Any] | str] = {
        "/version": _VERSION,
        "/api": {"kind": "APIVersions", "versions": [versions[""]], "serverAddressByClientCIDRs": []},
        "/apis": {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [_group(group, version) for group, version in versions.items() if group],
        },
        **dict.fromkeys(("/healthz", "/livez", "/readyz"), "ok"),
    }
    for group, version in versions.items():
        api_version = f"{group}/{version}" if group else version
        listed = _resource_list(api_version, [each for each in resources if each.group == group])
        pages[f"/apis/{api_version}" if group else f"/api/{api_version}"] = listed
        pages[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
    return pages.get(path.rstrip("/"))


def _group(name: str, version: str) -> dict[str, Any]:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resource_list(group_version: str, resources: Sequence[Resource]) -> dict[str, Any]:
    listed: list[dict[str, Any]] = []
    for each in resources:
        about = {"kind": each.kind, "namespaced": each.namespaced}
        listed.append({"name": each.plural, "singularName": each.kind.lower(), "verbs": _VERBS, **about})
        if each.has_status:
            verbs = ["get", "patch", "update"]
            listed.append({"name": f"{each.plural}/status", "singularName": "", "verbs": verbs, **about})
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": listed,
    }
