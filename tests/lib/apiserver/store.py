"""What etcd and the registries do: objects with their versions, their history and their ends.

Without I/O. Every change has a version, one more than the last of the whole cluster; the changes since the
last `compact()` are kept for those who watch. Objects that come out belong to the store: callers that change
them take a copy first.
"""

import dataclasses
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from apiserver import errors, rules
from apiserver.admission import admit
from apiserver.decoding import decode
from apiserver.resources import (
    BUILT_IN,
    CRDS,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    Object,
    Resource,
    defined_by,
)
from apiserver.selectors import Selector

Change = Callable[[Object], Object]
"""Makes, of a copy of the object as it is, the object as it is to be."""

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""Of generated names: no vowels, no digits that look like them."""


@dataclasses.dataclass(frozen=True)
class Event:
    """One change. Created: no `old`; gone: no `new`, and `old` is the last there was, with this version."""

    version: int
    resource: Resource
    old: Object | None
    new: Object | None


_Key = tuple[str, str, str, str]


class Store:
    def __init__(self, *, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._objects: dict[_Key, Object] = {}
        self._events: list[Event] = []
        self.version = 1
        self.oldest = 1
        """Changes after this one are remembered."""
        self.listeners: set[Callable[[Event], None]] = set()
        """Told of every change."""

    # -- what there is

    @property
    def resources(self) -> list[Resource]:
        crds = [obj for key, obj in self._objects.items() if key[1] == CRDS.plural]
        return [*BUILT_IN, *map(defined_by, crds)]

    def resource(self, group: str, plural: str) -> Resource | None:
        """By its plural, or by its kind."""
        for each in self.resources:
            if each.group == group and plural in (each.plural, each.kind):
                return each
        return None

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """Raises StatusError 404."""
        found = self.look_up(resource, namespace, name)
        if found is None:
            raise errors.not_found(resource, name)
        return found

    def look_up(self, resource: Resource, namespace: str, name: str) -> Object | None:
        return self._objects.get(_key(resource, namespace, name))

    def find(self, resource: Resource, namespace: str = "", selects: Selector | None = None) -> list[Object]:
        """Those of one namespace, or of all; in the order of their keys, as the server lists them."""
        return [
            obj
            for key, obj in sorted(self._objects.items(), key=lambda item: item[0])
            if key[:2] == (resource.group, resource.plural)
            and namespace in ("", key[2])
            and (selects is None or selects(obj))
        ]

    def since(self, version: int) -> Iterator[Event]:
        """The changes after a version. Raises StatusError 410 if they are forgotten."""
        if version < self.oldest:
            raise errors.expired(f"too old resource version: {version} ({self.oldest})")
        return (event for event in self._events if event.version > version)

    def compact(self) -> None:
        """Forget all changes: who knows an older version than the present one has to list again."""
        self._tick()
        self._events.clear()
        self.oldest = self.version

    # -- changes

    def create(self, resource: Resource, namespace: str, obj: Object) -> Object:
        """`obj` is the caller's no more. Raises StatusError."""
        obj = decode(resource, obj)
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise errors.StatusError(500, "", "resourceVersion should not be set on objects to be created")
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(name, None)
        self._place(resource, namespace, metadata)
        generated = not metadata.get("name") and bool(metadata.get("generateName"))
        if generated:
            suffix = "".join(self._random.choices(_ALPHABET, k=5))
            metadata["name"] = metadata["generateName"][:58] + suffix
        admit(resource, obj, self.look_up)
        rules.check(resource, obj)
        key = _key(resource, namespace, metadata["name"])
        if there := self._objects.get(key):
            raise errors.already_exists(
                resource,
                metadata["name"],
                being_deleted="deletionTimestamp" in there["metadata"],
                generated=generated,
            )
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _time(time.time())}
        metadata.pop("generation", None)
        if resource.counts_generations:
            metadata["generation"] = 1
        self._write(resource, key, obj)
        if resource == NAMESPACES:  # its controller gives every namespace one
            self.create(SERVICE_ACCOUNTS, metadata["name"], {"metadata": {"name": "default"}})
        return obj

    def _place(self, resource: Resource, namespace: str, metadata: dict[str, Any]) -> None:
        if not resource.namespaced:
            metadata.pop("namespace", None)
            return
        if metadata.setdefault("namespace", namespace) != namespace:
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Change,
        *,
        subresource: str = "",
        replace: bool = False,
    ) -> Object:
        """`replace` for a PUT, which has stricter ideas of versions than a patch. Raises StatusError."""
        old = self.get(resource, namespace, name)
        new = decode(resource, change(deepcopy(old)))
        metadata = new["metadata"]
        self._place(resource, namespace, metadata)
        if metadata.get("name") != name:
            raise errors.bad_request(
                f"the name of the object ({metadata.get('name', '')}) does not match the name on the URL "
                f"({name})"
            )
        self._expect_version(resource, new, old, replace=replace)
        _keep_what_is_the_servers(resource, new, old, subresource)
        if _without_version(new) == _without_version(old):
            return old
        rules.check(resource, new, old)
        key = _key(resource, namespace, name)
        if "deletionTimestamp" in old["metadata"] and _may_go(resource, new):
            self._remove(resource, key, new)
        else:
            self._write(resource, key, new)
        return new

    def _expect_version(self, resource: Resource, new: Object, old: Object, *, replace: bool) -> None:
        asked, there = new["metadata"], old["metadata"]
        name = there["name"]
        if replace and asked.get("uid", there["uid"]) != there["uid"]:
            raise errors.conflict(
                resource,
                name,
                f"StorageError: invalid object, Code: 4, Key: /registry/{resource.plural}/{name}, "
                "ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: "
                f"{asked['uid']}, UID in object meta: {there['uid']}",
            )
        version = asked.get("resourceVersion", "")
        if not version and not resource.unconditional_update:
            problem = errors.Problem.invalid("metadata.resourceVersion", 0, "must be specified for an update")
            raise errors.invalid(resource.plural, resource.group, name, [problem])
        if version and version != there["resourceVersion"]:
            raise errors.conflict(
                resource,
                name,
                "the object has been modified; please apply your changes to the latest version and try again",
            )

    def delete(
        self, resource: Resource, namespace: str, name: str, options: Mapping[str, Any] | None = None
    ) -> tuple[Object, bool]:
        """The object, and whether it is gone: it stays for its finalizers, and a pod for its node's kubelet
        to end it, which is to delete it once more with a grace period of 0. Raises StatusError.
        """
        options = options or {}
        old = self.get(resource, namespace, name)
        _check_preconditions(resource, old, options.get("preconditions") or {})
        new = deepcopy(old)
        metadata = new["metadata"]
        grace = _grace(resource, old, options)
        if "deletionTimestamp" not in metadata:
            finalizers = [each for each in metadata.get("finalizers", []) if each not in _COLLECTORS]
            metadata["finalizers"] = finalizers + _COLLECTOR_FOR.get(_propagation(old, options), [])
        elif grace >= metadata.get("deletionGracePeriodSeconds", 0) > 0:
            return old, False
        key = _key(resource, namespace, name)
        metadata["deletionGracePeriodSeconds"] = grace
        if _may_go(resource, new):
            self._remove(resource, key, old)
            return old, True
        if "deletionTimestamp" not in metadata and "generation" in metadata:
            metadata["generation"] += 1
        ends = _time(time.time() + grace)  # which may come nearer, and never recedes
        metadata["deletionTimestamp"] = min(metadata.get("deletionTimestamp", ends), ends)
        if not metadata.get("finalizers"):
            metadata.pop("finalizers", None)
        if resource == NAMESPACES:
            new["status"]["phase"] = "Terminating"
        if _without_version(new) != _without_version(old):
            self._write(resource, key, new)
        return new, False

    def _write(self, resource: Resource, key: _Key, new: Object) -> None:
        old = self._objects.get(key)
        new["metadata"]["resourceVersion"] = str(self._tick())
        self._objects[key] = new
        self._tell(Event(self.version, resource, old, new))

    def _remove(self, resource: Resource, key: _Key, last: Object) -> None:
        del self._objects[key]
        last = deepcopy(last)
        last["metadata"]["resourceVersion"] = str(self._tick())
        self._tell(Event(self.version, resource, last, None))

    def _tick(self) -> int:
        self.version += 1
        return self.version

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        for listener in tuple(self.listeners):
            listener(event)

    # -- what the controllers do

    def collect(self) -> None:
        """What the garbage collector and the namespace controller would do, until nothing is left to do."""
        before = -1
        while before != self.version:
            before = self.version
            for key, obj in list(self._objects.items()):
                if self._objects.get(key) is obj:
                    self._collect(key, obj)

    def _collect(self, key: _Key, obj: Object) -> None:
        resource = self.resource(key[0], key[1])
        metadata = obj["metadata"]
        if resource is None:  # its definition is gone
            del self._objects[key]
        elif resource == NAMESPACES and "deletionTimestamp" in metadata:
            self._empty(key, obj)
        elif collectors := [each for each in metadata.get("finalizers", []) if each in _COLLECTORS]:
            if "deletionTimestamp" in metadata:
                self._let_go(resource, obj, orphan="orphan" in collectors)
        elif metadata.get("ownerReferences") and "deletionTimestamp" not in metadata:
            self._judge_dependent(resource, obj)

    def _empty(self, key: _Key, namespace: Object) -> None:
        name = namespace["metadata"]["name"]
        content = [(k, obj) for k, obj in self._objects.items() if k[2] == name]
        for (group, plural, *_), obj in content:
            resource = self.resource(group, plural)
            if resource and "deletionTimestamp" not in obj["metadata"]:
                self.delete(resource, name, obj["metadata"]["name"])
        if not content and not namespace["metadata"].get("finalizers"):
            self._remove(NAMESPACES, key, namespace)

    def _let_go(self, resource: Resource, owner: Object, *, orphan: bool) -> None:
        """Do for a dying owner's dependents what its finalizer stands for; then take the finalizer away."""
        uid = owner["metadata"]["uid"]
        waiting = False
        for dependent_resource, dependent, reference in list(self._dependents(uid)):
            metadata = dependent["metadata"]
            where = (dependent_resource, metadata.get("namespace", ""), metadata["name"])
            if orphan:
                self.update(*where, _without_owners({uid}))
                continue
            waiting = waiting or bool(reference.get("blockOwnerDeletion"))
            if "deletionTimestamp" not in metadata:
                self.delete(*where, {"propagationPolicy": "Foreground"})
        if waiting:
            return

        def without(obj: Object) -> Object:
            kept = [each for each in obj["metadata"]["finalizers"] if each not in _COLLECTORS]
            obj["metadata"]["finalizers"] = kept
            return obj

        metadata = owner["metadata"]
        self.update(resource, metadata.get("namespace", ""), metadata["name"], without)

    def _dependents(self, uid: str) -> Iterator[tuple[Resource, Object, Mapping[str, Any]]]:
        for (group, plural, *_), obj in self._objects.items():
            for reference in obj["metadata"].get("ownerReferences", []):
                resource = self.resource(group, plural)
                if reference["uid"] == uid and resource:
                    yield resource, obj, reference

    def _judge_dependent(self, resource: Resource, obj: Object) -> None:
        """Delete what has no owner left; of several owners, forget those that are gone."""
        metadata = obj["metadata"]
        namespace = metadata.get("namespace", "")
        gone = set()
        for reference in metadata["ownerReferences"]:
            group, _, _ = reference["apiVersion"].rpartition("/")
            owner_resource = self.resource(group, reference["kind"])
            if owner_resource is None:
                return  # the collector waits for kinds that it doesn't know
            owner = self.look_up(owner_resource, namespace, reference["name"])
            if owner is None or owner["metadata"]["uid"] != reference["uid"]:
                gone.add(reference["uid"])
        if len(gone) == len({each["uid"] for each in metadata["ownerReferences"]}):
            self.delete(resource, namespace, metadata["name"], {"propagationPolicy": "Background"})
        elif gone:
            self.update(resource, namespace, metadata["name"], _without_owners(gone))


_COLLECTOR_FOR = {"Foreground": ["foregroundDeletion"], "Orphan": ["orphan"]}
_COLLECTORS = frozenset({"foregroundDeletion", "orphan"})
"""Finalizers that are the garbage collector's to remove."""


def _may_go(resource: Resource, obj: Object) -> bool:
    """Whether nothing keeps what is deleted. What keeps a namespace is what is in it."""
    metadata = obj["metadata"]
    kept = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
    return resource != NAMESPACES and not kept


def _propagation(obj: Object, options: Mapping[str, Any]) -> str:
    if "propagationPolicy" in options:
        return str(options["propagationPolicy"])
    if "orphanDependents" in options:
        return "Orphan" if options["orphanDependents"] else "Background"
    for policy, finalizers in _COLLECTOR_FOR.items():
        if set(finalizers) & set(obj["metadata"].get("finalizers", [])):
            return policy
    return "Background"


def _key(resource: Resource, namespace: str, name: str) -> _Key:
    return resource.group, resource.plural, namespace if resource.namespaced else "", name


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _without_version(obj: Object) -> Object:
    return obj | {"metadata": {k: v for k, v in obj["metadata"].items() if k != "resourceVersion"}}


def _without_owners(uids: set[str]) -> Change:
    def change(obj: Object) -> Object:
        kept = [each for each in obj["metadata"]["ownerReferences"] if each["uid"] not in uids]
        obj["metadata"]["ownerReferences"] = kept
        return obj

    return change


def _grace(resource: Resource, obj: Object, options: Mapping[str, Any]) -> int:
    """Seconds that a pod gets to end. Nothing else is given any, nor a pod that no kubelet has or that has
    ended."""
    if resource != PODS:
        return 0
    spec, phase = obj.get("spec", {}), obj.get("status", {}).get("phase")
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    asked = options.get("gracePeriodSeconds")
    if asked is None:
        asked = obj["metadata"].get("deletionGracePeriodSeconds") or spec["terminationGracePeriodSeconds"]
    return int(asked) if asked >= 0 else 1


def _check_preconditions(resource: Resource, obj: Object, preconditions: Mapping[str, Any]) -> None:
    for name, words, what in (
        ("uid", "UID", "deleted and then recreated"),
        ("resourceVersion", "ResourceVersion", "modified"),
    ):
        asked, there = preconditions.get(name), obj["metadata"][name]
        if asked is not None and asked != there:
            raise errors.conflict(
                dataclasses.replace(resource, plural=resource.kind),  # here it is named by its kind
                obj["metadata"]["name"],
                f"the {words} in the precondition ({asked}) does not match the {words} in record ({there}). "
                f"The object might have been {what}",
            )


def _keep_what_is_the_servers(resource: Resource, new: Object, old: Object, subresource: str) -> None:
    """Changes that are ignored, without a word: to what is the server's, and to the part of the object that
    the main resource or the subresource is not about."""
    metadata, was = new["metadata"], old["metadata"]
    metadata.setdefault("uid", was["uid"])
    metadata["creationTimestamp"] = was["creationTimestamp"]
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        if name in was:
            metadata[name] = was[name]
    metadata.pop("generation", None)
    if "generation" in was:
        metadata["generation"] = was["generation"]
    if subresource == "status":
        _keep(new, old, [key for key in new.keys() | old.keys() if key not in ("metadata", "status")])
        if resource.is_custom:
            new["metadata"] = was | {"resourceVersion": metadata.get("resourceVersion", "")}
        elif resource == PODS:
            _keep(metadata, was, ["ownerReferences"])
    elif resource.has_status:
        _keep(new, old, ["status"])
    if "generation" in was and _content(new) != _content(old):
        new["metadata"]["generation"] = was["generation"] + 1


def _content(obj: Object) -> Object:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _keep(new: dict[str, Any], old: Mapping[str, Any], names: list[str]) -> None:
    for name in names:
        if name in old:
            new[name] = deepcopy(old[name])
        else:
            new.pop(name, None)
