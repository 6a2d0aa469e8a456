from typing import Any

import pytest
from apiserver.calls import Call, understand
from apiserver.rbac import NOBODY, Rbac, User, refusal

DAEMON = User.service_account("system", "daemon")


@pytest.mark.parametrize(
    ("request_line", "call"),
    [
        ("GET /api/v1/nodes/a", Call("get", "", "", "v1", "nodes", name="a")),
        ("PATCH /api/v1/nodes/a/status", Call("patch", "", "", "v1", "nodes", "status", name="a")),
        ("GET /api/v1/pods", Call("list", "", "", "v1", "pods")),
        ("GET /api/v1/namespaces/x/pods", Call("list", "", "", "v1", "pods", namespace="x")),
        ("GET /api/v1/namespaces/x", Call("get", "", "", "v1", "namespaces", namespace="x", name="x")),
        (
            "PUT /api/v1/namespaces/x/status",
            Call("update", "", "", "v1", "namespaces", "status", namespace="x", name="x"),
        ),
        ("GET /apis/g.io/v2/things?watch=1", Call("watch", "", "g.io", "v2", "things")),
        ("GET /apis/g.io/v2/things/a?watch=1", Call("get", "", "g.io", "v2", "things", name="a")),
        (
            "GET /api/v1/pods?watch=true&fieldSelector=metadata.name=a",
            Call("watch", "", "", "v1", "pods", name="a"),
        ),
        ("POST /apis/g.io/v2/namespaces/x/things", Call("create", "", "g.io", "v2", "things", namespace="x")),
        (
            "DELETE /apis/g.io/v2/namespaces/x/things",
            Call("deletecollection", "", "g.io", "v2", "things", namespace="x"),
        ),
        ("GET /version", Call("get", "")),
        ("GET /apis/g.io/v2", Call("get", "")),
    ],
)
def test_what_a_request_is_about(request_line: str, call: Call) -> None:
    method, url = request_line.split()
    path, _, query = url.partition("?")
    understood = understand(method, path, dict(part.split("=", 1) for part in query.split("&") if part))
    assert understood == Call(**{**call.__dict__, "path": path})


def _granted(*rules: dict[str, Any], namespace: str = "") -> Rbac:
    rbac = Rbac()
    rbac.grant(DAEMON.name, rules, namespace=namespace)
    return rbac


@pytest.mark.parametrize(
    ("rule", "call", "allowed"),
    [
        ({}, Call("get", "", "", "v1", "pods", name="a"), True),
        ({}, Call("list", "", "", "v1", "pods"), False),
        ({}, Call("get", "", "", "v1", "pods", "status", name="a"), False),
        ({}, Call("get", "", "apps", "v1", "pods", name="a"), False),
        ({"verbs": ["*"]}, Call("patch", "", "", "v1", "pods", name="a"), True),
        ({"apiGroups": ["*"]}, Call("get", "", "apps", "v1", "pods", name="a"), True),
        ({"resources": ["*"]}, Call("get", "", "", "v1", "nodes", "status", name="a"), True),
        ({"resources": ["pods/status"]}, Call("get", "", "", "v1", "pods", "status", name="a"), True),
        ({"resources": ["pods/status"]}, Call("get", "", "", "v1", "pods", name="a"), False),
        ({"resources": ["*/status"]}, Call("get", "", "", "v1", "pods", "status", name="a"), True),
        ({"resourceNames": ["a"]}, Call("get", "", "", "v1", "pods", name="a"), True),
        ({"resourceNames": ["a"]}, Call("get", "", "", "v1", "pods", name="b"), False),
        ({"resourceNames": ["a"], "verbs": ["list"]}, Call("list", "", "", "v1", "pods"), False),
        ({}, Call("get", "/metrics"), False),
        ({"nonResourceURLs": ["/metr*"]}, Call("get", "/metrics"), True),
    ],
)
def test_rule(rule: dict[str, Any], call: Call, allowed: bool) -> None:
    usual = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}
    assert _granted(usual | rule).allows(DAEMON, call) is allowed


def test_role_holds_in_its_namespace_only() -> None:
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}
    rbac = _granted(rule, namespace="web")
    assert rbac.allows(DAEMON, Call("get", "", "", "v1", "secrets", namespace="web", name="a"))
    assert not rbac.allows(DAEMON, Call("get", "", "", "v1", "secrets", namespace="db", name="a"))
    assert not rbac.allows(DAEMON, Call("get", "", "", "v1", "secrets", name="a"))


def test_manifests() -> None:
    rbac = Rbac()
    rule = {"verbs": ["list"], "apiGroups": [""], "resources": ["pods"]}
    subject = {"kind": "ServiceAccount", "namespace": "system", "name": "daemon"}
    role = {"kind": "ClusterRole", "name": "reader"}
    pods = Call("list", "", "", "v1", "pods", namespace="web")
    about = {"name": "b", "namespace": "web"}
    binding = {"kind": "RoleBinding", "metadata": about, "roleRef": role, "subjects": [subject]}
    rbac.add({"kind": "ConfigMap", "metadata": {"name": "unrelated"}}, binding)
    assert not rbac.allows(DAEMON, pods)  # the role is still missing
    rbac.add({"kind": "ClusterRole", "metadata": {"name": "reader"}, "rules": [rule]})
    assert rbac.allows(DAEMON, pods)
    assert not rbac.allows(DAEMON, Call("list", "", "", "v1", "pods"))
    rbac.revoke(DAEMON.name)
    assert not rbac.allows(DAEMON, pods)


def test_everyone_may_look_around() -> None:
    rbac = Rbac()
    assert rbac.allows(NOBODY, Call("get", "/version"))
    assert not rbac.allows(NOBODY, Call("get", "/apis"))
    assert rbac.allows(DAEMON, Call("get", "/apis/coordination.k8s.io/v1"))


def test_refusal_in_the_servers_words() -> None:
    user = "system:serviceaccount:system:daemon"
    assert refusal(DAEMON, Call("patch", "", "", "v1", "nodes", "status", name="a")) == (
        f'User "{user}" cannot patch resource "nodes/status" in API group "" at the cluster scope'
    )
    assert refusal(DAEMON, Call("list", "", "g.io", "v1", "things", namespace="x")) == (
        f'User "{user}" cannot list resource "things" in API group "g.io" in the namespace "x"'
    )
    assert refusal(NOBODY, Call("get", "/apis")) == 'User "system:anonymous" cannot get path "/apis"'
