"""What the API server and a cautious operator ask of the manifests."""

import re
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

import jsonschema
import kubernetes_validate
import manifests
import pytest
from manifests import NAMESPACE, OVERLAYS, Manifest, Manifests

from caa import __version__
from caa.check.host import _CAPABILITIES
from caa.kubernetes import GROUP, KIND, PLURAL, RIGHTS, VERSION, Right, peer_pod
from caa.reaper import CLUSTER_RIGHTS, LEASE, OWN_RIGHTS

Build = Callable[[str], Manifests]

KUBERNETES = ("1.25", kubernetes_validate.latest_version())
"""The oldest that docs/install.md allows, and the newest that has a schema."""
NOT_KUBERNETES = {"PodMonitor", "PrometheusRule"}
"""Of the Prometheus Operator; test_monitoring.py has their checks."""


def test_there_are_four_overlays() -> None:
    assert OVERLAYS == ("access-key", "ack", "custom-certificates", "reaper", "everything")


@pytest.mark.parametrize("version", KUBERNETES)
def test_the_schemas_of_kubernetes_hold(built: Manifests, version: str) -> None:
    for each in built:
        if each["kind"] not in NOT_KUBERNETES:
            kubernetes_validate.validate(each, version, strict=True)


def test_a_schema_refuses_what_is_wrong(build: Build) -> None:
    spec = build("ack").one("DaemonSet", "cloud-api-adaptor-daemonset")
    wrong = {**spec, "spec": {**spec["spec"], "maxUnavailable": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_names_are_unique_and_namespaces_given(built: Manifests) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in built]
    assert len(names) == len(set(names))
    cluster_wide = {
        "Namespace",
        "CustomResourceDefinition",
        "RuntimeClass",
        "ClusterRole",
        "ClusterRoleBinding",
    }
    for each in built:
        namespace = None if each["kind"] in cluster_wide else NAMESPACE
        assert each["metadata"].get("namespace") == namespace, each["metadata"]["name"]


def test_what_pods_refer_to_is_there(built: Manifests) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in built}
    for spec, container in built.workloads():
        assert ("ServiceAccount", spec["serviceAccountName"]) in there
        for source in container["envFrom"]:
            (reference,) = source.items()
            kind = {"secretRef": "Secret", "configMapRef": "ConfigMap"}[reference[0]]
            assert (kind, reference[1]["name"]) in there
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in there
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}


# Policy


def test_no_container_has_more_than_it_needs(built: Manifests) -> None:
    for spec, container in built.workloads():
        security = container["securityContext"]
        assert not security.get("privileged")
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "hostPID" not in spec
        assert "hostIPC" not in spec


def test_the_daemon_has_the_capabilities_that_caa_check_looks_for(built: Manifests) -> None:
    for spec, container in built.workloads():
        added = container["securityContext"]["capabilities"].get("add", [])
        if spec.get("hostNetwork"):
            # With CAP_ before SYS_ADMIN the API server refuses allowPrivilegeEscalation: false.
            assert {f"CAP_{name}" for name in added} == set(_CAPABILITIES)
        else:
            assert not added
            assert spec["securityContext"]["runAsNonRoot"]
            assert not any("hostPath" in volume for volume in spec["volumes"])


def test_images_are_the_release(built: Manifests) -> None:
    for _, container in built.workloads():
        assert container["image"] == f"cloud-api-adaptor:{__version__}"


def test_an_image_that_is_set_once_is_set_everywhere(overlays: Path) -> None:
    overlay = overlays / "ack" / "kustomization.yaml"
    text = overlay.read_text()
    mirrored = text.replace("newName: cloud-api-adaptor ", "newName: registry.example/caa\n    newTag: v9 ")
    assert mirrored != text
    overlay.write_text(mirrored)
    try:
        images = [each.container["image"] for each in manifests.build(overlays / "reaper").workloads()]
    finally:
        overlay.write_text(text)
    assert images == ["registry.example/caa:v9"] * 2


def test_resources_are_asked_for_and_limited(built: Manifests) -> None:
    for _, container in built.workloads():
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][bound])


def rules_of(built: Manifests, account: str) -> dict[str, set[tuple[str, str, str]]]:
    """What an account may do, (verb, resource, group), by the kind of role that grants it."""
    rights: dict[str, set[tuple[str, str, str]]] = {"ClusterRole": set(), "Role": set()}
    for binding in built:
        if not binding["kind"].endswith("RoleBinding"):
            continue
        (subject,) = binding["subjects"]
        assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", NAMESPACE)
        if subject["name"] != account:
            continue
        role = built.one(binding["roleRef"]["kind"], binding["roleRef"]["name"])
        for rule in role["rules"]:
            assert rule.keys() - {"resourceNames"} == {"apiGroups", "resources", "verbs"}
            for verb, resource in ((v, r) for v in rule["verbs"] for r in rule["resources"]):
                right = (verb, resource, rule["apiGroups"][0])
                assert right not in chain(*rights.values()), "granted twice"
                rights[role["kind"]].add(right)
    return rights


def test_the_daemon_may_do_what_it_does_and_no_more(built: Manifests) -> None:
    used = {(right.verb, right.resource, right.group) for right in RIGHTS}
    assert rules_of(built, "cloud-api-adaptor") == {"ClusterRole": used, "Role": set()}


@pytest.mark.parametrize("overlay", ["reaper", "everything"])
def test_the_reaper_may_do_what_it_does_and_no_more(overlay: str, build: Build) -> None:
    def of(rights: Iterable[Right]) -> set[tuple[str, str, str]]:
        return {(right.verb, right.resource, right.group) for right in rights}

    built = build(overlay)
    assert rules_of(built, "cloud-api-adaptor-reaper") == {
        "ClusterRole": of(CLUSTER_RIGHTS),
        "Role": of(OWN_RIGHTS),
    }
    (named,) = (
        rule for rule in built.one("Role", "cloud-api-adaptor-reaper")["rules"] if rule["verbs"] != ["create"]
    )
    assert named["resourceNames"] == [LEASE]


def test_roles_are_all_bound(built: Manifests) -> None:
    bound = {
        (each["roleRef"]["kind"], each["roleRef"]["name"])
        for each in built
        if each["kind"].endswith("RoleBinding")
    }
    roles = {
        (each["kind"], each["metadata"]["name"]) for each in built if each["kind"] in ("Role", "ClusterRole")
    }
    assert bound == roles


# PeerPod objects


def closed(schema: Manifest) -> Manifest:
    """The schema with unknown fields refused: the API server drops them in silence."""
    properties = {name: closed(each) for name, each in schema.get("properties", {}).items()}
    if not properties:
        return schema
    return {**schema, "properties": properties, "additionalProperties": False}


@pytest.fixture
def peer_pods(build: Build) -> Manifest:
    made = build("ack").one("CustomResourceDefinition", "peerpods.confidentialcontainers.org")
    spec: Manifest = made["spec"]
    return spec


def test_the_kind_is_the_one_that_the_daemon_makes(peer_pods: Manifest) -> None:
    (version,) = peer_pods["versions"]
    assert (peer_pods["group"], version["name"]) == (GROUP, VERSION)
    assert (peer_pods["names"]["kind"], peer_pods["names"]["plural"]) == (KIND, PLURAL)
    for column in version["additionalPrinterColumns"]:
        assert re.fullmatch(
            r"\.(spec\.(cloudProvider|instanceID)|metadata\.creationTimestamp)", column["jsonPath"]
        )


@pytest.mark.parametrize(
    "more", [{}, {"status": {"cleand": True}}], ids=["the daemon's", "the Go controller's"]
)
def test_objects_are_kept_as_they_are(peer_pods: Manifest, more: Manifest) -> None:
    made = {**peer_pod.manifest("default", "web-resource-abcde", "web", "a-uid", "i-1", "sandbox-1"), **more}
    schema = closed(peer_pods["versions"][0]["schema"]["openAPIV3Schema"])
    jsonschema.validate(made, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**made, "spec": {"instanceID": 1}}, schema)
