"""Who may do what: roles and bindings, as manifests have them.

Roles aren't objects of the store: tests hand in the parsed manifests. There are no denials; what no rule
allows is forbidden.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apiserver.calls import Call

Rule = Mapping[str, Any]
"""A PolicyRule."""

ANONYMOUS = "system:anonymous"
ADMIN_GROUP = "system:masters"
"""May do everything."""


@dataclass(frozen=True)
class User:
    name: str
    groups: frozenset[str] = frozenset()

    @classmethod
    def service_account(cls, namespace: str, name: str) -> "User":
        groups = {"system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"}
        return cls(f"system:serviceaccount:{namespace}:{name}", frozenset(groups))


NOBODY = User(ANONYMOUS, frozenset({"system:unauthenticated"}))

_PUBLIC = ["/healthz", "/livez", "/readyz", "/version", "/version/"]
_FOR_EVERYONE: Sequence[tuple[str, Rule]] = (
    ("system:unauthenticated", {"verbs": ["get"], "nonResourceURLs": _PUBLIC}),
    (
        "system:authenticated",
        {"verbs": ["get"], "nonResourceURLs": [*_PUBLIC, "/api", "/api/*", "/apis", "/apis/*", "/openapi/*"]},
    ),
    (
        "system:authenticated",
        {
            "verbs": ["create"],
            "apiGroups": ["authorization.k8s.io"],
            "resources": ["selfsubjectaccessreviews"],
        },
    ),
)
"""What every cluster grants to a group."""


class Rbac:
    def __init__(self) -> None:
        self._roles: dict[tuple[str, str], Sequence[Rule]] = {}
        """Rules by namespace ("" for a ClusterRole) and name."""
        self._bindings: list[tuple[str, str, tuple[str, str]]] = []
        """Subject, the namespace where it holds ("" for all), and the role's key."""

    def add(self, *manifests: Mapping[str, Any]) -> None:
        """Roles, ClusterRoles and their bindings. Manifests of other kinds are let pass, so that a folder's
        can be handed in as they are."""
        for manifest in manifests:
            metadata = manifest["metadata"]
            namespace = metadata.get("namespace", "default")
            match manifest["kind"]:
                case "ClusterRole":
                    self._roles["", metadata["name"]] = manifest["rules"]
                case "Role":
                    self._roles[namespace, metadata["name"]] = manifest["rules"]
                case "ClusterRoleBinding":
                    self._bind(manifest, "")
                case "RoleBinding":
                    self._bind(manifest, namespace)

    def _bind(self, binding: Mapping[str, Any], namespace: str) -> None:
        reference = binding["roleRef"]
        role = ("" if reference["kind"] == "ClusterRole" else namespace, reference["name"])
        for subject in binding["subjects"]:
            name = subject["name"]
            if subject["kind"] == "ServiceAccount":
                name = User.service_account(subject["namespace"], name).name
            self._bindings.append((name, namespace, role))

    def grant(self, user: str, rules: Sequence[Rule], *, namespace: str = "") -> None:
        """Give a user (or group) rights, in a namespace or everywhere."""
        role = (namespace, f"granted-{len(self._roles)}")
        self._roles[role] = rules
        self._bindings.append((user, namespace, role))

    def revoke(self, user: str) -> None:
        """Take all rights from a user (or group)."""
        self._bindings = [binding for binding in self._bindings if binding[0] != user]

    def allows(self, user: User, call: Call) -> bool:
        if ADMIN_GROUP in user.groups:
            return True
        return any(_covers(rule, call) for rule in self._rules_of(user, call.namespace))

    def _rules_of(self, user: User, namespace: str) -> Iterable[Rule]:
        subjects = {user.name, *user.groups}
        yield from (rule for group, rule in _FOR_EVERYONE if group in subjects)
        for subject, where, role in self._bindings:
            if subject in subjects and where in ("", namespace):
                # A binding may come before its role, or without one.
                yield from self._roles.get(role, ())


def _covers(rule: Rule, call: Call) -> bool:
    if not {"*", call.verb} & set(rule["verbs"]):
        return False
    if not call.resource:
        return any(_is_path(pattern, call.path) for pattern in rule.get("nonResourceURLs", ()))
    resources = {"*", call.full_resource}
    if call.subresource:
        resources.add(f"*/{call.subresource}")
    names = rule.get("resourceNames")
    return (
        bool({"*", call.group} & set(rule.get("apiGroups", ())))
        and bool(resources & set(rule.get("resources", ())))
        and (not names or call.name in names)
    )


def _is_path(pattern: str, path: str) -> bool:
    return pattern in ("*", path) or (pattern.endswith("*") and path.startswith(pattern[:-1]))


def refusal(user: User, call: Call) -> str:
    """Why, in the real server's words."""
    if not call.resource:
        return f'User "{user.name}" cannot {call.verb} path "{call.path}"'
    where = f'in the namespace "{call.namespace}"' if call.namespace else "at the cluster scope"
    return (
        f'User "{user.name}" cannot {call.verb} resource "{call.full_resource}" in API group "{call.group}" '
        f"{where}"
    )
