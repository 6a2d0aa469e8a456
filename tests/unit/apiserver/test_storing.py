from copy import deepcopy
from typing import Any

import pytest
from apiserver.errors import StatusError
from apiserver.patches import merge_patch
from apiserver.resources import LEASES, NAMESPACES, NODES, PODS, SECRETS, Object, Resource
from apiserver.scene import Scene

FINALIZER = "peer.pod/finalizer"


def _peer_pods(scene: Scene) -> Resource:
    found = scene.store.resource("confidentialcontainers.org", "peerpods")
    assert found
    return found


def _add_peer_pod(scene: Scene, pod: Object, **metadata: Any) -> Object:
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": pod["metadata"]["name"],
        "uid": pod["metadata"]["uid"],
    }
    return scene.add(
        {
            "apiVersion": "confidentialcontainers.org/v1alpha1",
            "kind": "PeerPod",
            "metadata": {
                "name": "it",
                "finalizers": [FINALIZER],
                "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
                **metadata,
            },
            "spec": {"cloudProvider": "alibabacloud", "instanceID": "i-1"},
        }
    )


def _patch(scene: Scene, resource: Resource, name: str, patch: Any, *, subresource: str = "") -> Object:
    namespace = "default" if resource.namespaced else ""
    return scene.store.update(
        resource, namespace, name, lambda obj: merge_patch(obj, patch), subresource=subresource
    )


def _refused(
    scene: Scene, resource: Resource, name: str, patch: Any, *, subresource: str = ""
) -> StatusError:
    with pytest.raises(StatusError) as refused:
        _patch(scene, resource, name, patch, subresource=subresource)
    return refused.value


def test_finalizer_keeps_a_deleted_object_until_it_is_removed(scene: Scene) -> None:
    peer_pods = _peer_pods(scene)
    _add_peer_pod(scene, scene.add_pod("nginx"))
    obj, gone = scene.store.delete(peer_pods, "default", "it")
    assert not gone
    assert obj["metadata"]["deletionTimestamp"]
    assert obj["metadata"]["generation"] == 2
    again, gone = scene.store.delete(peer_pods, "default", "it")
    assert (again, gone) == (obj, False)
    refused = _refused(scene, peer_pods, "it", {"metadata": {"finalizers": [FINALIZER, "a.b/c"]}})
    assert refused.message == (
        'PeerPod.confidentialcontainers.org "it" is invalid: metadata.finalizers: Forbidden: no new '
        'finalizers can be added if the object is being deleted, found new finalizers []string{"a.b/c"}'
    )
    kept = _patch(scene, peer_pods, "it", {"metadata": {"deletionTimestamp": None, "labels": {"a": "b"}}})
    assert kept["metadata"]["deletionTimestamp"] == obj["metadata"]["deletionTimestamp"]
    _patch(scene, peer_pods, "it", {"metadata": {"finalizers": None}})
    assert scene.objects("PeerPod") == []


def test_garbage_is_what_has_lost_all_its_owners(scene: Scene) -> None:
    first, second = scene.add_pod("first"), scene.add_pod("second")
    _add_peer_pod(scene, first, name="of-first")
    both = [
        {"apiVersion": "v1", "kind": "Pod", "name": each["metadata"]["name"], "uid": each["metadata"]["uid"]}
        for each in (first, second)
    ]
    _add_peer_pod(scene, first, name="of-both", ownerReferences=both)
    _add_peer_pod(scene, first, name="of-no-known-kind", ownerReferences=[{**both[0], "kind": "Mystery"}])
    scene.remove_pod(first)
    scene.collect_garbage()
    left = {each["metadata"]["name"]: each["metadata"] for each in scene.objects("PeerPod")}
    assert "deletionTimestamp" in left["of-first"]
    assert [each["name"] for each in left["of-both"]["ownerReferences"]] == ["second"]
    assert "deletionTimestamp" not in left["of-no-known-kind"]


def test_owner_of_the_same_name_is_another(scene: Scene) -> None:
    _add_peer_pod(scene, scene.add_pod("nginx"))
    scene.remove_pod(scene.objects("Pod")[0])
    scene.add_pod("nginx")
    scene.collect_garbage()
    assert "deletionTimestamp" in scene.objects("PeerPod")[0]["metadata"]


@pytest.mark.parametrize("policy", ["Foreground", "Orphan"])
def test_propagation(scene: Scene, policy: str) -> None:
    _add_peer_pod(scene, scene.add_pod("nginx"), finalizers=[])
    _, gone = scene.store.delete(PODS, "default", "nginx", {"propagationPolicy": policy})
    assert not gone
    scene.collect_garbage()
    assert scene.objects("Pod") == []
    left = [each["metadata"].get("ownerReferences") for each in scene.objects("PeerPod")]
    assert left == ([None] if policy == "Orphan" else [])


def test_foreground_waits_for_what_blocks_it(scene: Scene) -> None:
    _add_peer_pod(scene, scene.add_pod("nginx"))
    scene.store.delete(PODS, "default", "nginx", {"propagationPolicy": "Foreground"})
    scene.collect_garbage()
    assert scene.objects("Pod")[0]["metadata"]["finalizers"] == ["foregroundDeletion"]
    _patch(scene, _peer_pods(scene), "it", {"metadata": {"finalizers": []}})
    scene.collect_garbage()
    assert scene.objects("Pod") == scene.objects("PeerPod") == []


def test_pod_on_a_node_is_given_time_to_end(scene: Scene) -> None:
    pod = scene.add_pod("nginx", node="worker-1")
    obj, gone = scene.store.delete(PODS, "default", "nginx")
    assert (gone, obj["metadata"]["deletionGracePeriodSeconds"]) == (False, 30)
    shorter, gone = scene.store.delete(PODS, "default", "nginx", {"gracePeriodSeconds": 5})
    assert (gone, shorter["metadata"]["deletionGracePeriodSeconds"]) == (False, 5)
    assert shorter["metadata"]["deletionTimestamp"] < obj["metadata"]["deletionTimestamp"]
    longer, gone = scene.store.delete(PODS, "default", "nginx", {"gracePeriodSeconds": 20})
    assert (longer, gone) == (shorter, False)
    scene.remove_pod(pod)
    assert scene.objects("Pod") == []
    _, gone = scene.store.delete(PODS, "default", scene.add_pod("waiting")["metadata"]["name"])
    assert gone  # no kubelet has it


def test_namespace_goes_with_all_that_is_in_it(scene: Scene) -> None:
    scene.add_pod("nginx", namespace="web", finalizers=["a.b/c"])
    scene.remove_namespace("web")
    labels = {"metadata": {"labels": {"a": "b"}}}
    scene.store.update(NAMESPACES, "", "web", lambda obj: merge_patch(obj, labels))
    scene.collect_garbage()
    found = scene.object("Namespace", "web")
    assert found
    assert found["status"]["phase"] == "Terminating"
    assert scene.object("ServiceAccount", "default", "web") is None
    with pytest.raises(StatusError) as refused:
        scene.add_pull_secret("late", {}, namespace="web")
    assert refused.value.message == (
        'secrets "late" is forbidden: unable to create new content in namespace web because it is being '
        "terminated"
    )
    where = ("web", "nginx")
    scene.store.update(PODS, *where, lambda obj: merge_patch(obj, {"metadata": {"finalizers": None}}))
    scene.collect_garbage()
    assert scene.object("Namespace", "web") is None


def test_what_the_server_alone_may_set(scene: Scene) -> None:
    sent = {
        "uid": "mine",
        "creationTimestamp": "2000-01-01T00:00:00Z",
        "deletionTimestamp": "2000-01-01T00:00:00Z",
    }
    pod = scene.add_pod("nginx")
    made = _add_peer_pod(scene, pod, generation=7, **sent)
    metadata = made["metadata"]
    assert metadata["uid"] != "mine"
    assert metadata["creationTimestamp"] > "2026"
    assert "deletionTimestamp" not in metadata
    assert metadata["generation"] == 1
    peer_pods = _peer_pods(scene)
    changed = _patch(scene, peer_pods, "it", {"metadata": {"creationTimestamp": None, "generation": 9}})
    assert changed == made
    assert _patch(scene, peer_pods, "it", {"spec": {"instanceID": "i-2"}})["metadata"]["generation"] == 2
    uid = _refused(scene, peer_pods, "it", {"metadata": {"uid": "mine"}})
    assert (uid.code, uid.reason) == (422, "Invalid")
    assert 'metadata.uid: Invalid value: "mine": field is immutable' in uid.message
    name = _refused(scene, peer_pods, "it", {"metadata": {"name": "other"}})
    assert name.message == "the name of the object (other) does not match the name on the URL (it)"
    dead = _refused(scene, peer_pods, "it", {"metadata": {"deletionTimestamp": "2000-01-01T00:00:00Z"}})
    assert "metadata.deletionTimestamp" in dead.message


def test_change_of_nothing_is_no_change(scene: Scene) -> None:
    node = scene.add_node("worker-1")
    version = scene.store.version
    assert _patch(scene, NODES, "worker-1", {"metadata": {"labels": node["metadata"]["labels"]}}) == node
    assert scene.store.version == version


def test_stale_version_is_a_conflict(scene: Scene) -> None:
    node = scene.add_node("worker-1")
    scene.set_node_ready("worker-1", "False")
    stale = _refused(
        scene, NODES, "worker-1", {"metadata": {"resourceVersion": node["metadata"]["resourceVersion"]}}
    )
    assert (stale.code, stale.reason) == (409, "Conflict")
    assert stale.message == (
        'Operation cannot be fulfilled on nodes "worker-1": the object has been modified; please apply your '
        "changes to the latest version and try again"
    )


def test_status_and_the_rest_are_written_apart(scene: Scene) -> None:
    scene.add_node("worker-1")
    change = {
        "status": {"capacity": {"a.b/vm": 10}},
        "spec": {"unschedulable": True},
        "metadata": {"annotations": {"a": "b"}},
    }
    by_main = _patch(scene, NODES, "worker-1", change)
    assert by_main["spec"] == {"unschedulable": True}
    assert "a.b/vm" not in by_main["status"]["capacity"]
    by_status = _patch(scene, NODES, "worker-1", change | {"spec": None}, subresource="status")
    assert by_status["status"]["capacity"]["a.b/vm"] == "10"
    assert by_status["spec"] == {"unschedulable": True}
    # Of a built-in kind, metadata can be written along with the status; of a custom one it can't.
    assert by_status["metadata"]["annotations"] == {"a": "b"}
    _add_peer_pod(scene, scene.add_pod("nginx"))
    peer_pods = _peer_pods(scene)
    change = {"status": {"cleand": True}, "spec": {"instanceID": "i-2"}, "metadata": {"finalizers": None}}
    by_status = _patch(scene, peer_pods, "it", change, subresource="status")
    assert by_status["status"] == {"cleand": True}
    assert by_status["spec"]["instanceID"] == "i-1"
    assert by_status["metadata"]["finalizers"] == [FINALIZER]
    assert "status" in _patch(scene, peer_pods, "it", {"status": None})


def test_custom_resource_is_what_its_schema_says(scene: Scene) -> None:
    _add_peer_pod(scene, scene.add_pod("nginx"))
    peer_pods = _peer_pods(scene)
    pruned = _patch(scene, peer_pods, "it", {"spec": {"nodeName": "w"}, "more": {}, "metadata": {"more": 1}})
    assert pruned["spec"] == {"cloudProvider": "alibabacloud", "instanceID": "i-1"}
    assert "more" not in pruned.keys() | pruned["metadata"].keys()
    refused = _refused(scene, peer_pods, "it", {"spec": {"instanceID": 1}})
    assert refused.message == (
        'PeerPod.confidentialcontainers.org "it" is invalid: spec.instanceID: Invalid value: "integer": '
        'spec.instanceID in body must be of type string: "integer"'
    )


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"name": "Upper"}, 'metadata.name: Invalid value: "Upper": a lowercase RFC 1123 subdomain must'),
        ({"name": "a" * 254}, "must be no more than 253 bytes"),
        ({"labels": {"a": "not this"}}, "a valid label must be an empty string or consist of"),
        ({"labels": {"a": "b" * 64}}, "must be no more than 63 bytes"),
        ({"annotations": {"a/b/c": "x"}}, "metadata.annotations: Invalid value"),
        ({"annotations": {"a": "x" * 2**18}}, "metadata.annotations: Too long"),
        ({"finalizers": ["not this"]}, "metadata.finalizers: Invalid value"),
        ({"ownerReferences": [{"uid": "1"}]}, "metadata.ownerReferences[0].kind: Required value"),
        (
            {
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": n, "uid": n, "controller": True} for n in "ab"
                ]
            },
            "Only one reference can have Controller set to true",
        ),
    ],
)
def test_metadata_that_is_refused(scene: Scene, metadata: Any, problem: str) -> None:
    with pytest.raises(StatusError) as refused:
        _add_peer_pod(scene, scene.add_pod("nginx"), **metadata)
    assert refused.value.code == 422
    assert problem in refused.value.message
    assert refused.value.body["details"]["causes"][0]["field"].startswith("metadata.")


@pytest.mark.parametrize(
    ("resource", "spec", "code", "problem"),
    [
        (LEASES, {"spec": {"renewTime": "2026-01-01T00:00:00Z"}}, 400, 'parsing time "2026-01-01T00:00:00Z"'),
        (LEASES, {"spec": {"renewTime": "2026-01-01T00:00:00.123Z"}}, 400, "cannot be handled as a Lease"),
        (LEASES, {"spec": {"leaseDurationSeconds": 0}}, 422, "must be greater than 0"),
        (LEASES, {"spec": {"leaseDurationSeconds": "15"}}, 400, "cannot unmarshal string"),
        (SECRETS, {"data": {"a": "not base64"}}, 400, "illegal base64 data"),
        (NODES, {"status": {"capacity": {"a.b/vm": "many"}}}, 400, "quantities must match"),
        (NODES, {"status": {"capacity": {"a.b/vm": "1500m"}}}, 422, "must be an integer"),
        (NODES, {"status": {"capacity": {"a.b/vm": -1}}}, 422, "must be greater than or equal to 0"),
        (PODS, {"metadata": {"annotations": {"a": 1}}}, 400, "cannot unmarshal number"),
        (PODS, {"spec": {"containers": []}}, 422, "spec.containers: Required value"),
        (PODS, {"spec": {"serviceAccountName": "x"}}, 403, 'serviceaccount "x" not found'),
        (PODS, {"kind": "Node"}, 400, 'Node in version "v1" cannot be handled as a Pod'),
        (PODS, {"apiVersion": "v2"}, 400, "does not match the expected API version (v1)"),
    ],
)
def test_objects_that_are_refused(
    scene: Scene, resource: Resource, spec: Any, code: int, problem: str
) -> None:
    obj = {**spec, "metadata": {"name": "it", **spec.get("metadata", {})}}
    with pytest.raises(StatusError) as refused:
        scene.store.create(resource, "default", obj)
    assert refused.value.code == code
    assert problem in refused.value.message


def test_lease_with_its_times_to_the_microsecond(scene: Scene) -> None:
    spec = {"renewTime": "2026-01-01T00:00:00.000001Z", "holderIdentity": "", "leaseDurationSeconds": 15}
    assert scene.store.create(LEASES, "default", {"metadata": {"name": "it"}, "spec": spec})["spec"] == spec


def test_pod_is_given_its_accounts_pull_secrets(scene: Scene) -> None:
    scene.add_service_account("default", pull_secrets=["shared"])
    assert scene.add_pod("a")["spec"]["imagePullSecrets"] == [{"name": "shared"}]
    assert scene.add_pod("b", pull_secrets=["own"])["spec"]["imagePullSecrets"] == [{"name": "own"}]


def test_pod_runs_what_it_was_made_for(scene: Scene) -> None:
    pod = scene.add_pod("nginx", node="worker-1")
    _patch(scene, PODS, "nginx", {"spec": {"activeDeadlineSeconds": 5}})
    refused = _refused(scene, PODS, "nginx", {"spec": {"runtimeClassName": "kata-remote"}})
    assert "spec: Forbidden: pod updates may not change fields other than" in refused.message
    ready = scene.set_ready(pod)
    assert ready["status"]["phase"] == "Running"
    assert ready["status"]["qosClass"] == "BestEffort"


def test_put_of_what_one_has_without_its_defaults(scene: Scene) -> None:
    secret = {"metadata": {"name": "it"}, "data": {"a": "Yg=="}}
    made = scene.store.create(SECRETS, "default", deepcopy(secret))
    assert scene.store.update(SECRETS, "default", "it", lambda _: secret, replace=True) == made


def test_generated_names(scene: Scene) -> None:
    made = {
        scene.store.create(SECRETS, "default", {"metadata": {"generateName": "it-"}})["metadata"]["name"]
        for _ in range(20)
    }
    assert len(made) == 20
    assert all(name.startswith("it-") and len(name) == 8 for name in made)


def test_what_is_there_already(scene: Scene) -> None:
    _add_peer_pod(scene, scene.add_pod("nginx"))
    with pytest.raises(StatusError) as exists:
        _add_peer_pod(scene, scene.objects("Pod")[0])
    assert exists.value.message == 'peerpods.confidentialcontainers.org "it" already exists'
    assert exists.value.body["details"] == {
        "name": "it",
        "group": "confidentialcontainers.org",
        "kind": "peerpods",
    }
    scene.store.delete(_peer_pods(scene), "default", "it")
    with pytest.raises(StatusError, match="object is being deleted: peerpods"):
        _add_peer_pod(scene, scene.objects("Pod")[0])


def test_deleting_what_is_not_meant(scene: Scene) -> None:
    pod = scene.add_pod("nginx")
    for asked, words in (({"uid": "other"}, "UID"), ({"resourceVersion": "1"}, "ResourceVersion")):
        with pytest.raises(StatusError) as refused:
            scene.store.delete(PODS, "default", "nginx", {"preconditions": asked})
        assert refused.value.code == 409
        assert refused.value.message.startswith('Operation cannot be fulfilled on Pod "nginx": the ')
        assert (
            f"the {words} in the precondition ({next(iter(asked.values()))}) does not match"
            in refused.value.message
        )
    _, gone = scene.store.delete(PODS, "default", "nginx", {"preconditions": {"uid": pod["metadata"]["uid"]}})
    assert gone


def test_kind_that_is_undefined_takes_its_objects_along(scene: Scene) -> None:
    _add_peer_pod(scene, scene.add_pod("nginx"))
    scene.undefine_peer_pods()
    assert scene.store.resource("confidentialcontainers.org", "peerpods") is None
    scene.define_peer_pods()
    assert scene.objects("PeerPod") == []


def test_namespaces_that_are_not_there(scene: Scene) -> None:
    with pytest.raises(StatusError, match='namespaces "none" not found'):
        scene.add_pull_secret("it", {}, namespace="none")
    assert scene.object("Namespace", "default")
    assert NAMESPACES in scene.store.resources
