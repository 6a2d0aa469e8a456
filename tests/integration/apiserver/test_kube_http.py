"""What goes over the wire: statuses, content types, who comes in."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from apiserver import ADMIN, PEER_POD_CRD, ApiServer, User

PEER_PODS = "/apis/confidentialcontainers.org/v1alpha1/namespaces/default/peerpods"
PEER_POD = {
    "apiVersion": "confidentialcontainers.org/v1alpha1",
    "kind": "PeerPod",
    "metadata": {"name": "it"},
}
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"
DAEMON = User.service_account("system", "daemon")


async def test_not_found(client: Any) -> None:
    answer = await client.call("GET", "/api/v1/namespaces/default/pods/nginx")
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
    assert answer.json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": 'pods "nginx" not found',
        "reason": "NotFound",
        "details": {"name": "nginx", "kind": "pods"},
        "code": 404,
    }
    unknown = await client.call("GET", "/api/v1/namespaces/default/services/x")
    assert (unknown.status, unknown.json["message"]) == (
        404,
        "the server could not find the requested resource",
    )


async def test_group_that_nobody_defined_is_not_answered_in_json(api: ApiServer, client: Any) -> None:
    assert (await client.call("GET", PEER_PODS)).status == 200
    api.undefine_peer_pods()
    answer = await client.call("POST", PEER_PODS, PEER_POD)
    assert (answer.status, answer.text) == (404, "404 page not found\n")
    assert answer.headers["Content-Type"].startswith("text/plain")
    crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    assert (await client.call("POST", crds, PEER_POD_CRD)).status == 201
    assert (await client.call("POST", PEER_PODS, PEER_POD)).status == 201


@pytest.mark.parametrize(
    ("path", "type_", "accepted"),
    [
        ("/api/v1/nodes/worker-1", "application/json", [JSON, MERGE, STRATEGIC]),
        ("/api/v1/nodes/worker-1", "application/apply-patch+yaml", [JSON, MERGE, STRATEGIC]),
        (f"{PEER_PODS}/it", STRATEGIC, [JSON, MERGE]),
    ],
)
async def test_patch_of_a_type_that_is_not_served(
    client: Any, path: str, type_: str, accepted: list[str]
) -> None:
    await client.call("POST", PEER_PODS, PEER_POD)
    answer = await client.call("PATCH", path, {}, type_=type_)
    assert (answer.status, answer.json["reason"]) == (415, "UnsupportedMediaType")
    assert answer.json["message"].endswith(f"accepted media types include: {', '.join(accepted)}")


async def test_failed_test_of_a_json_patch(client: Any) -> None:
    patch = [{"op": "test", "path": "/metadata/name", "value": "other"}]
    answer = await client.call("PATCH", "/api/v1/nodes/worker-1", patch, type_=JSON)
    assert (answer.status, answer.json["reason"]) == (422, "Invalid")
    assert answer.json["message"] == "the server rejected our request due to an error in our request"


async def test_bodies_that_are_refused(client: Any) -> None:
    secrets = "/api/v1/namespaces/default/secrets"
    assert (await client.call("POST", secrets, b"{")).status == 400
    assert (await client.call("POST", secrets, [])).status == 400
    assert (await client.call("POST", secrets, {}, type_="text/plain")).status == 415
    large = await client.call("POST", secrets, io.BytesIO(b" " * (3 * 1024 * 1024 + 1)))
    assert (large.status, large.json["reason"]) == (413, "RequestEntityTooLarge")
    other = {"metadata": {"name": "it", "namespace": "kube-system"}}
    assert "namespace of the provided object" in (await client.call("POST", secrets, other)).json["message"]
    yaml = b"metadata: {name: it}\nstringData: {a: b}\n"
    assert (await client.call("POST", secrets, yaml, type_="application/yaml")).json["data"] == {"a": "Yg=="}


async def test_put(client: Any) -> None:
    made = (await client.call("POST", PEER_PODS, PEER_POD)).json
    one = f"{PEER_PODS}/it"
    blind = await client.call("PUT", one, PEER_POD)
    assert (blind.status, blind.json["reason"]) == (422, "Invalid")
    assert (
        "metadata.resourceVersion: Invalid value: 0: must be specified for an update" in blind.json["message"]
    )
    put = await client.call("PUT", one, made | {"spec": {"instanceID": "i-1"}})
    assert put.json["metadata"]["resourceVersion"] > made["metadata"]["resourceVersion"]
    stale = await client.call("PUT", one, made)
    assert (stale.status, stale.json["reason"]) == (409, "Conflict")
    another = json.loads(json.dumps(put.json))
    another["metadata"]["uid"] = "other"
    assert (
        "Precondition failed: UID in precondition: other"
        in (await client.call("PUT", one, another)).json["message"]
    )
    assert (
        await client.call("PUT", f"{PEER_PODS}/none", PEER_POD | {"metadata": {"name": "none"}})
    ).status == 404
    lease = {"metadata": {"name": "it"}, "spec": {"holderIdentity": "a"}}
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases/it"
    assert (await client.call("PUT", leases, lease)).status == 201


async def test_delete(api: ApiServer, client: Any) -> None:
    await client.call("POST", PEER_PODS, PEER_POD)
    answer = await client.call("DELETE", f"{PEER_PODS}/it")
    assert (answer.status, answer.json["kind"], answer.json["status"]) == (200, "Status", "Success")
    assert answer.json["details"]["kind"] == "peerpods"
    api.add_pod("nginx")
    assert (await client.call("DELETE", "/api/v1/namespaces/default/pods/nginx")).json["kind"] == "Pod"
    api.add_pod("nginx", node="worker-1")
    options = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
    await client.call("DELETE", "/api/v1/namespaces/default/pods/nginx", options)
    assert api.objects("Pod") == []
    for name in "abc":
        api.add_pod(name)
    await client.call("DELETE", "/api/v1/namespaces/default/pods?fieldSelector=metadata.name!=b")
    assert [pod["metadata"]["name"] for pod in api.objects("Pod")] == ["b"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/v1/pods", 405),
        ("POST", "/api/v1/nodes/worker-1", 405),
        ("PUT", "/api/v1/nodes", 405),
        ("DELETE", "/api/v1/nodes/worker-1/status", 405),
        ("GET", "/api/v1/namespaces/default/nodes/worker-1", 404),
        ("GET", "/api/v1/pods/nginx", 404),
        ("GET", "/api/v1/namespaces/default/secrets/it/status", 404),
        ("GET", "/api/v2/nodes", 404),
        ("GET", "/none", 404),
    ],
)
async def test_paths_that_lead_nowhere(client: Any, method: str, path: str, status: int) -> None:
    assert (await client.call(method, path, {} if method in ("POST", "PUT") else None)).status == status


async def test_lists(api: ApiServer, client: Any) -> None:
    for index in range(5):
        api.add_pod(f"pod-{index}", node="worker-1")
    pods = "/api/v1/pods"
    first = (await client.call("GET", f"{pods}?limit=2&fieldSelector=spec.nodeName=worker-1")).json
    assert "kind" not in first["items"][0]  # in a list of a built-in kind items don't say what they are
    assert "remainingItemCount" not in first["metadata"]
    api.add_pod("pod-0a")
    rest = (await client.call("GET", f"{pods}?limit=9&continue={first['metadata']['continue']}")).json
    names = [item["metadata"]["name"] for page in (first, rest) for item in page["items"]]
    assert names == [f"pod-{index}" for index in range(5)]  # as it was at the first page
    assert rest["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    api.expire_versions()
    old = await client.call("GET", f"{pods}?continue={first['metadata']['continue']}")
    assert (old.status, old.json["reason"]) == (410, "Expired")
    again = await client.call("GET", f"{pods}?continue={old.json['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in again.json["items"]] == names[2:]
    assert (await client.call("GET", f"{pods}?limit=2")).json["metadata"]["remainingItemCount"] == 4
    future = await client.call("GET", f"{pods}?resourceVersion=99999")
    assert (future.status, future.json["details"]["retryAfterSeconds"]) == (504, 1)
    assert (await client.call("GET", f"{pods}?resourceVersion=new")).status == 400


async def test_who_comes_in(api: ApiServer, client: Any, tmp_path: Path) -> None:
    node = "/api/v1/nodes/worker-1"
    refused = await client.call("GET", node, token="wrong")
    assert (refused.status, refused.json["message"]) == (401, "Unauthorized")
    assert (await client.call("GET", node, token=api.token(ADMIN, lifetime=0))).status == 401
    anonymous = await client.call("GET", node, headers={"Authorization": ""})
    assert (anonymous.status, anonymous.json["message"].split(" cannot")[0]) == (
        403,
        'nodes "worker-1" is forbidden: User "system:anonymous"',
    )
    folder = api.service_account_folder(tmp_path / "account", namespace="system", name="daemon")
    assert {path.name for path in folder.path.iterdir()} == {"token", "ca.crt", "namespace"}
    old = folder.token
    api.rbac.grant(DAEMON.name, [{"verbs": ["get"], "apiGroups": [""], "resources": ["nodes"]}])
    assert (await client.call("GET", node, token=old)).status == 200
    folder.rotate()
    assert (await client.call("GET", node, token=old)).status == 401
    assert (await client.call("GET", node, token=(folder.path / "token").read_text())).status == 200


async def test_what_is_forbidden_is_said_as_the_real_one_says_it(api: ApiServer, client: Any) -> None:
    answer = await client.call_as(DAEMON, "PATCH", "/api/v1/nodes/worker-1/status", {})
    assert answer.status == 403
    assert answer.json["message"] == (
        'nodes "worker-1" is forbidden: User "system:serviceaccount:system:daemon" cannot patch resource '
        '"nodes/status" in API group "" at the cluster scope'
    )
    assert answer.json["details"] == {"name": "worker-1", "kind": "nodes"}
    api.undefine_peer_pods()  # rights come first: who may not ask isn't told what there is
    answer = await client.call_as(DAEMON, "GET", PEER_PODS)
    assert answer.json["message"] == (
        'peerpods.confidentialcontainers.org is forbidden: User "system:serviceaccount:system:daemon" cannot '
        'list resource "peerpods" in API group "confidentialcontainers.org" in the namespace "default"'
    )


async def test_asking_for_ones_rights(api: ApiServer, client: Any) -> None:
    api.rbac.grant(DAEMON.name, [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    for verb, allowed in (("get", True), ("delete", False)):
        review = {"spec": {"resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}}}
        answer = await client.call_as(DAEMON, "POST", path, review)
        assert (answer.status, answer.json["status"]) == (201, {"allowed": allowed})
    assert (await client.call_as(DAEMON, "POST", path, {"spec": {}})).status == 422


async def test_discovery(client: Any) -> None:
    assert (await client.call("GET", "/version")).json["gitVersion"].startswith("v1.")
    assert (await client.call("GET", "/readyz")).text == "ok"
    groups = {group["name"] for group in (await client.call("GET", "/apis")).json["groups"]}
    assert groups >= {"coordination.k8s.io", "confidentialcontainers.org"}
    listed = (await client.call("GET", "/apis/confidentialcontainers.org/v1alpha1")).json["resources"]
    assert [each["name"] for each in listed] == ["peerpods", "peerpods/status"]
    assert "nodes/status" in {
        each["name"] for each in (await client.call("GET", "/api/v1")).json["resources"]
    }


async def test_garbage_is_collected_in_the_background(api: ApiServer, client: Any) -> None:
    pod = api.add_pod("nginx")
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "nginx", "uid": pod["metadata"]["uid"]}
    await client.call("POST", PEER_PODS, PEER_POD | {"metadata": {"name": "it", "ownerReferences": [owner]}})
    async with client.open("GET", f"{PEER_PODS}?watch=1") as watch:
        assert json.loads(await watch.content.readline())["type"] == "ADDED"
        api.remove_pod(pod)
        assert json.loads(await watch.content.readline())["type"] == "DELETED"
    assert api.objects("PeerPod") == []
    api.controllers_run = False
    await client.call("POST", PEER_PODS, PEER_POD | {"metadata": {"name": "it", "ownerReferences": [owner]}})
    assert (await client.call("GET", f"{PEER_PODS}/it")).status == 200


async def test_requests_are_counted(api: ApiServer, client: Any) -> None:
    await client.call_as(DAEMON, "GET", "/api/v1/nodes/worker-1")
    await client.call("GET", "/api/v1/nodes")
    assert api.count() == 2
    assert api.count("get", "nodes", user=DAEMON.name) == api.count("list", "nodes") == 1
    assert [request.status for request in api.requests] == [403, 200]
