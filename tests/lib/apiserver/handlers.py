"""The verbs: from a call, its query and its body to an answer. Without I/O, but for watches."""

import base64
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import yaml

from apiserver import errors, patches
from apiserver.calls import Call
from apiserver.rbac import Rbac, User
from apiserver.resources import ACCESS_REVIEWS, CRDS, NAMESPACES, Object, Resource
from apiserver.selectors import Selector, field_selector, label_selector
from apiserver.store import Store
from apiserver.watch import Watch

LARGEST_BODY = 3 * 1024 * 1024
"""Bytes."""

_JSON = "application/json"
_YAML = "application/yaml"


@dataclass(frozen=True)
class Sent:
    """What came with a call."""

    query: Mapping[str, str]
    content_type: str
    body: bytes

    def document(self) -> Any:
        if self.content_type not in ("", _JSON, _YAML):
            raise errors.unsupported_media_type([_JSON, _YAML, "application/vnd.kubernetes.protobuf"])
        if self.content_type == _YAML:
            return yaml.safe_load(self.body)
        return _parsed(self.body)


@dataclass(frozen=True)
class Answer:
    status: int
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Watching:
    """A watch to be streamed."""

    watch: Watch
    version: int | None
    timeout: float | None
    """Seconds."""


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise errors.bad_request(
            "couldn't get version/kind; json parse error: invalid character in the body"
        ) from None


class Handlers:
    def __init__(self, store: Store, rbac: Rbac) -> None:
        self._store = store
        self._rbac = rbac
        self._pages: dict[str, tuple[int, list[Object]]] = {}
        """What is left of lists that are read in pages, by their tokens."""

    def perform(self, call: Call, user: User, sent: Sent) -> Answer | Watching:
        """What an authorized call does. Raises StatusError."""
        if (call.group, call.resource) == (ACCESS_REVIEWS.group, ACCESS_REVIEWS.plural):
            return self._review(call, user, sent)
        resource = self._store.resource(call.group, call.resource)
        if resource is None or (resource.version, resource.plural) != (call.version, call.resource):
            raise errors.generic(404)
        self._check_place(call, resource)
        if "dryRun" in sent.query:
            raise errors.bad_request("dryRun is not served here")
        verbs: Mapping[str, Callable[[Call, Resource, Sent], Answer | Watching]] = {
            "get": self._get,
            "list": self._list,
            "watch": self._watch,
            "create": self._create,
            "update": self._update,
            "patch": self._patch,
            "delete": self._delete,
            "deletecollection": self._delete_collection,
        }
        if call.verb not in verbs:
            raise errors.generic(405)
        return verbs[call.verb](call, resource, sent)

    def _check_place(self, call: Call, resource: Resource) -> None:
        namespace = "" if resource == NAMESPACES else call.namespace
        if namespace and not resource.namespaced:
            raise errors.generic(404)
        if call.subresource and not (call.subresource == "status" and resource.has_status):
            raise errors.generic(404)
        one = call.verb in ("get", "update", "patch", "delete")
        if one and resource.namespaced and not namespace:
            raise errors.generic(404)
        allowed = ("get", "update", "patch") if call.subresource else None
        if (
            (allowed and call.verb not in allowed)
            or (call.verb == "create" and (call.name or (resource.namespaced and not namespace)))
            or (one and not call.name)
        ):
            raise errors.generic(405)

    # -- reading

    def _get(self, call: Call, resource: Resource, _: Sent) -> Answer:
        return Answer(200, self._store.get(resource, _namespace(call, resource), call.name))

    def _list(self, call: Call, resource: Resource, sent: Sent) -> Answer:
        token, limit = sent.query.get("continue", ""), _number(sent.query, "limit") or 0
        if token:
            version, items = self._page(sent.query)
            remaining_is_known = False
        else:
            version = self._version_to_list(sent.query)
            items = self._store.find(resource, _namespace(call, resource), _selects(sent.query, resource))
            remaining_is_known = not ({"labelSelector", "fieldSelector"} & sent.query.keys())
        metadata: dict[str, Any] = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            items, rest = items[:limit], items[limit:]
            metadata["continue"] = self._keep_page(version, rest)
            if remaining_is_known:
                metadata["remainingItemCount"] = len(rest)
        return Answer(200, _listed(resource, items, metadata))

    def _version_to_list(self, query: Mapping[str, str]) -> int:
        asked = _version(query) or 0
        if asked > self._store.version:
            raise errors.version_too_large(asked, self._store.version)
        if query.get("resourceVersionMatch") == "Exact" and asked != self._store.version:
            # Lists of the past are not kept here; the real server doesn't promise to have them either.
            raise errors.expired("The resourceVersion for the provided list is too old.")
        return self._store.version

    def _page(self, query: Mapping[str, str]) -> tuple[int, list[Object]]:
        if query.get("resourceVersion", "0") not in ("", "0"):
            raise errors.bad_request("specifying resource version is not allowed when using continue")
        if query["continue"] not in self._pages:
            raise errors.bad_request("continue key is not valid")
        version, items = self._pages[query["continue"]]
        if version < self._store.oldest:
            # The real server would go on with the rest as it is now; this one knows only how it was.
            raise errors.expired(_INCONSISTENT, go_on_with=self._keep_page(self._store.version, items))
        return version, items

    def _keep_page(self, version: int, items: list[Object]) -> str:
        about = {"v": "meta.k8s.io/v1", "rv": version, "start": f"{len(self._pages)}\u0000"}
        token = base64.urlsafe_b64encode(json.dumps(about).encode()).decode().rstrip("=")
        self._pages[token] = (version, items)
        return token

    def _watch(self, call: Call, resource: Resource, sent: Sent) -> Watching:
        if "sendInitialEvents" in sent.query:
            problem = errors.Problem.forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
            )
            raise errors.invalid("ListOptions", "meta.k8s.io", "", [problem])
        watch = Watch(
            self._store,
            resource,
            _namespace(call, resource),
            _selects(sent.query, resource),
            bookmarks=sent.query.get("allowWatchBookmarks") in ("1", "true"),
        )
        # 0 and nothing mean: from now, beginning with what there is.
        return Watching(watch, _version(sent.query) or None, _number(sent.query, "timeoutSeconds") or None)

    # -- writing

    def _create(self, call: Call, resource: Resource, sent: Sent) -> Answer:
        return Answer(201, self._store.create(resource, call.namespace, sent.document()))

    def _update(self, call: Call, resource: Resource, sent: Sent) -> Answer:
        document = sent.document()
        namespace = _namespace(call, resource)
        if resource.create_on_update and self._store.look_up(resource, namespace, call.name) is None:
            return Answer(201, self._store.create(resource, namespace, document))
        updated = self._store.update(
            resource, namespace, call.name, lambda _: document, subresource=call.subresource, replace=True
        )
        return Answer(200, updated)

    def _patch(self, call: Call, resource: Resource, sent: Sent) -> Answer:
        accepted = patches.accepted(custom=resource.is_custom)
        if sent.content_type not in accepted:
            raise errors.unsupported_media_type(accepted)
        patch = _parsed(sent.body)
        apply = patches.PATCHES[sent.content_type]
        updated = self._store.update(
            resource,
            _namespace(call, resource),
            call.name,
            lambda obj: apply(obj, patch),
            subresource=call.subresource,
        )
        return Answer(200, updated)

    def _delete(self, call: Call, resource: Resource, sent: Sent) -> Answer:
        obj, gone = self._store.delete(resource, _namespace(call, resource), call.name, _delete_options(sent))
        if not gone or resource.returns_deleted:
            return Answer(200, obj)
        details = {"name": call.name, "kind": resource.plural, "uid": obj["metadata"]["uid"]}
        if resource.group:
            details["group"] = resource.group
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return Answer(200, success | {"details": details})

    def _delete_collection(self, call: Call, resource: Resource, sent: Sent) -> Answer:
        if resource.namespaced and not call.namespace:
            raise errors.generic(405)
        found = self._store.find(resource, _namespace(call, resource), _selects(sent.query, resource))
        options = _delete_options(sent)
        for obj in found:
            metadata = obj["metadata"]
            self._store.delete(resource, metadata.get("namespace", ""), metadata["name"], options)
        return Answer(200, _listed(resource, found, {"resourceVersion": str(self._store.version)}))

    def _review(self, call: Call, user: User, sent: Sent) -> Answer:
        if call.verb != "create":
            raise errors.generic(405)
        spec: dict[str, Any] = sent.document().get("spec") or {}
        about, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if about and not path:
            names = ("verb", "group", "version", "resource", "subresource", "namespace", "name")
            asked = Call(path="", **{name: about.get(name, "") for name in names})
        elif path and not about:
            asked = Call(verb=path.get("verb", ""), path=path.get("path", ""))
        else:
            why = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            problem = errors.Problem.invalid("spec.resourceAttributes", about, why)
            raise errors.invalid(ACCESS_REVIEWS.kind, ACCESS_REVIEWS.group, "", [problem])
        status = {"allowed": self._rbac.allows(user, asked)}
        about_kind = {"kind": ACCESS_REVIEWS.kind, "apiVersion": ACCESS_REVIEWS.api_version}
        return Answer(201, about_kind | {"metadata": {}, "spec": spec, "status": status})


_INCONSISTENT = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new "
    "list without the continue parameter, or use the continue token in this response to retrieve the "
    "remainder of the results. Continuing with the provided token results in an inconsistent list - "
    "objects that were created, modified, or deleted between the time the first chunk was returned and "
    "now may show up in the list."
)


def _namespace(call: Call, resource: Resource) -> str:
    return call.namespace if resource.namespaced else ""


def _selects(query: Mapping[str, str], resource: Resource) -> Selector:
    by_label = label_selector(query.get("labelSelector", ""))
    by_field = field_selector(query.get("fieldSelector", ""), resource)
    return lambda obj: by_label(obj) and by_field(obj)


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if text and not text.isdigit():
        raise errors.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int(text) if text else None


def _version(query: Mapping[str, str]) -> int | None:
    text = query.get("resourceVersion", "")
    if text and not text.isdigit():
        problem = errors.Problem.invalid(
            "resourceVersion", text, f'strconv.ParseUint: parsing "{text}": invalid syntax'
        )
        raise errors.bad_request(f"{problem.field}: {problem.text}")
    return int(text) if text else None


def _listed(resource: Resource, items: list[Object], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Of the built-in kinds, items in a list don't say what they are."""
    left_out = set() if resource.is_custom or resource == CRDS else {"apiVersion", "kind"}
    return {
        "kind": f"{resource.kind}List",
        "apiVersion": resource.api_version,
        "metadata": metadata,
        "items": [{k: v for k, v in item.items() if k not in left_out} for item in items],
    }


def _delete_options(sent: Sent) -> dict[str, Any]:
    if sent.body:
        options = sent.document()
        if not isinstance(options, dict) or options.get("kind", "DeleteOptions") != "DeleteOptions":
            raise errors.bad_request("decoded object cannot be converted to DeleteOptions")
        return deepcopy(options)
    options = {name: sent.query[name] for name in ("propagationPolicy",) if name in sent.query}
    if (grace := _number(sent.query, "gracePeriodSeconds")) is not None:
        options["gracePeriodSeconds"] = grace
    return options
