"""What a bad day of the API server does to a call: it is told for what it is, once, and passes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apiserver import ApiServer, Fault, ServiceAccountFolder, listen_on_loopback
from structlog.testing import capture_logs

from caa.errors import (
    AbortedError,
    CaaError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from caa.kubernetes import RIGHTS, Cluster, NoPeerPodsError, NotSentError, Right, join
from caa.kubernetes import cluster as cluster_module
from caa.polling import growing, poll

NODE = "worker-1"
ACCOUNT = "system:serviceaccount:confidential-containers-system:cloud-api-adaptor"
UNREACHABLE, WELL = "the API server can't be used: it is asked again", "the API server can be used again"


@pytest.mark.parametrize(
    ("fault", "error", "word"),
    [
        (Fault(answer="drop"), UnavailableError, "broke"),
        (Fault(answer="cut"), UnavailableError, "broke"),
        (Fault(answer="garbage"), UnavailableError, "can't be read"),
        (Fault(status=500), UnavailableError, "500"),
        (Fault(status=503), UnavailableError, "503"),
        (Fault(status=429, headers={"Retry-After": "1"}), UnavailableError, "429"),
        (Fault(status=409), AbortedError, "changed"),
        (Fault(status=410), UnavailableError, "410"),
        (Fault(status=404), NotFoundError, "get nodes"),
        (Fault(status=401, times=2), UnavailableError, "token"),
        (Fault(status=403), PermissionDeniedError, "“get nodes”"),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Fault) else "",
)
async def test_answer_that_is_none(
    server: ApiServer, cluster: Cluster, fault: Fault, error: type[CaaError], word: str
) -> None:
    server.faults.add(fault)
    with capture_logs() as told:
        with pytest.raises(error, match=word):
            await cluster.readvertise(10, "me")
        await cluster.readvertise(10, "me")
    assert not any("Bearer" in str(line) for line in told)


async def test_lasting_trouble_is_told_once_and_so_is_its_end(server: ApiServer, cluster: Cluster) -> None:
    with capture_logs() as told:
        await server.stop()
        for _ in range(3):
            with pytest.raises(NotSentError, match="connect"):
                await cluster.unready_pods("kata-remote")
        await server.start()
        for _ in range(3):
            await cluster.unready_pods("kata-remote")
    assert [(line["log_level"], line["event"]) for line in told] == [("warning", UNREACHABLE), ("info", WELL)]


async def test_call_that_hangs_has_an_end(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caa.kubernetes.api._TIMEOUT", 0.2)
    server.faults.add(Fault(answer="hang", times=None))
    with pytest.raises(UnavailableError, match=r"within 0\.2 s"):
        await cluster.readvertise(10, "me")


async def test_missing_right_is_named_once(server: ApiServer, cluster: Cluster) -> None:
    server.rbac.revoke(ACCOUNT)
    with capture_logs() as told:
        for _ in range(3):
            with pytest.raises(
                PermissionDeniedError, match=r"“create peerpods\.confidentialcontainers\.org” in default"
            ):
                await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
        server.rbac.grant(ACCOUNT, [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])
        await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
    assert [line["log_level"] for line in told] == ["warning", "info"]
    assert "ClusterRole" in told[0]["error"]
    assert "create peerpods" in told[1]["right"]


async def test_cluster_without_peer_pods_is_told_once(server: ApiServer, cluster: Cluster) -> None:
    server.undefine_peer_pods()
    with capture_logs() as told:
        for _ in range(2):
            with pytest.raises(NoPeerPodsError):
                await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
            with pytest.raises(NoPeerPodsError):
                await cluster.disclaim("default", "web-resource-aaaaa", "i-1")
        server.define_peer_pods()
        await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
    assert [line["log_level"] for line in told] == ["warning", "info"]
    assert "no PeerPod objects" in told[0]["event"]


async def test_object_in_a_namespace_that_ends_or_is_gone(server: ApiServer, cluster: Cluster) -> None:
    server.add_pod("web", namespace="ending", finalizers=["test/keep"])
    server.remove_namespace("ending")
    with capture_logs() as told:
        with pytest.raises(FailedPreconditionError, match="terminated"):
            await cluster.claim("ending", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
        with pytest.raises(NotFoundError, match="gone"):
            await cluster.claim("gone", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
    assert told == []  # neither is a right that is missing


async def test_uid_is_looked_up_of_the_pod_that_is_here(server: ApiServer, cluster: Cluster) -> None:
    pod = server.add_pod("web", node=NODE)
    await cluster.claim("default", "web", "", "web-resource-aaaaa", "i-1", "sandbox")
    made = server.object("PeerPod", "web-resource-aaaaa")
    assert made is not None
    assert made["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]

    server.add_pod("db", node="worker-2")
    with pytest.raises(NotFoundError, match="elsewhere"):
        await cluster.claim("default", "db", "", "db-resource-aaaaa", "i-2", "sandbox")
    with pytest.raises(NotFoundError):
        await cluster.claim("default", "lost", "", "lost-resource-aaaaa", "i-3", "sandbox")


async def test_create_whose_answer_was_lost_is_found_again(server: ApiServer, cluster: Cluster) -> None:
    server.faults.add(Fault(verb="create", resource="peerpods", answer="drop", after_effect=True))
    with pytest.raises(UnavailableError) as lost:
        await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
    assert not isinstance(lost.value, NotSentError)
    await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
    assert len(server.objects("PeerPod")) == 1


async def test_finalizer_is_removed_in_spite_of_others_at_the_same_object(
    server: ApiServer, cluster: Cluster
) -> None:
    await cluster.claim("default", "web", "uid", "web-resource-aaaaa", "i-1", "sandbox")
    server.faults.add(Fault(verb="patch", resource="peerpods", status=409, times=3))
    assert await cluster.disclaim("default", "web-resource-aaaaa", "i-1")
    server.faults.add(Fault(verb="patch", resource="peerpods", status=409, times=None))
    await cluster.claim("default", "web", "uid", "web-resource-bbbbb", "i-1", "sandbox")
    with pytest.raises(AbortedError, match="again and again"):
        await cluster.disclaim("default", "web-resource-bbbbb", "i-1")


async def test_finalizer_that_another_adds_meanwhile_stays(server: ApiServer, cluster: Cluster) -> None:
    pod = server.add_pod("web", node=NODE)
    await cluster.claim("default", "web", pod["metadata"]["uid"], "web-resource-aaaaa", "i-1", "sandbox")
    server.faults.add(Fault(verb="patch", resource="peerpods", delay=0.3))
    async with asyncio.TaskGroup() as side_by_side:
        side_by_side.create_task(cluster.disclaim("default", "web-resource-aaaaa", "i-1"))
        await seen(lambda: server.count("patch", "peerpods") == 1)

        def change(obj: dict[str, Any]) -> dict[str, Any]:
            obj["metadata"]["finalizers"].append("a.example/b")
            return obj

        peer_pods = server.store.resource("confidentialcontainers.org", "peerpods")
        assert peer_pods is not None
        server.store.update(peer_pods, "default", "web-resource-aaaaa", change)
    [left] = server.objects("PeerPod")
    assert left["metadata"]["finalizers"] == ["a.example/b"]
    assert server.count("patch", "peerpods") == 2


async def test_capacity_that_is_taken_over_while_it_is_taken_back_stays(
    server: ApiServer, cluster: Cluster
) -> None:
    await cluster.advertise(7, "old")
    server.faults.add(Fault(verb="patch", resource="nodes/status", delay=0.3))
    async with asyncio.TaskGroup() as side_by_side:
        side_by_side.create_task(cluster.withdraw("old"))
        await seen(lambda: server.count("patch", "nodes/status") == 2)
        await cluster.advertise(8, "new")
    node = server.object("Node", NODE)
    assert node is not None
    assert node["status"]["capacity"]["kata.peerpods.io/vm"] == "8"


async def seen(what: Callable[[], bool]) -> None:
    async def look() -> tuple[bool | None, str]:
        return what() or None, "not yet"

    await poll(look, what="the request to arrive", pauses=growing(0.01, 1.3, 0.1), timeout=10)


# Pull secrets, for which a pod waits


async def test_pod_waits_for_its_pull_secrets_only_so_long(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cluster_module.PATIENCE == 2.0
    monkeypatch.setattr(cluster_module, "PATIENCE", 0.2)
    server.add_pull_secret("pull", {"a.example": {"auth": "aHVudGVyMg=="}})
    server.add_pod("web", pull_secrets=["pull"])
    server.faults.add(Fault(resource="secrets", answer="hang", times=None))
    with capture_logs() as told:
        for _ in range(2):
            async with asyncio.timeout(2):
                assert await cluster.auth_json("default", "web") is None
        server.faults.clear()
        assert b"a.example" in (await cluster.auth_json("default", "web") or b"")
    assert [line["log_level"] for line in told] == ["warning", "info", "info", "info"]
    assert "hunter2" not in str(told)
    assert "aHVudGVyMg" not in str(told)


@pytest.mark.parametrize("resource", ["secrets", "serviceaccounts"])
async def test_one_secret_that_cant_be_had_does_not_keep_the_others_out(
    server: ApiServer, cluster: Cluster, resource: str
) -> None:
    server.add_pull_secret("own", {"own.example": {"auth": "b3du"}})
    server.add_pull_secret("shared", {"shared.example": {"auth": "c2hhcmVk"}})
    server.add_service_account("default", pull_secrets=["shared"])
    server.add_pod("web", pull_secrets=["own"])
    name = {"secrets": "shared", "serviceaccounts": "default"}[resource]
    server.faults.add(Fault(resource=resource, name=name, status=403, times=None))
    assert await cluster.auth_json("default", "web") == b'{"auths":{"own.example":{"auth":"b3du"}}}'


async def test_secrets_that_came_in_time_are_taken(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "PATIENCE", 0.5)
    server.add_pull_secret("own", {"own.example": {"auth": "b3du"}})
    server.add_pod("web", pull_secrets=["own"])
    server.faults.add(Fault(resource="serviceaccounts", answer="hang", times=None))
    assert await cluster.auth_json("default", "web") == b'{"auths":{"own.example":{"auth":"b3du"}}}'


@pytest.mark.parametrize("resource", ["pods", "secrets"])
async def test_trouble_that_passes_costs_no_secret(
    server: ApiServer, cluster: Cluster, resource: str
) -> None:
    server.add_pull_secret("own", {"own.example": {"auth": "b3du"}})
    server.add_pod("web", pull_secrets=["own"])
    server.faults.add(Fault(resource=resource, status=503))
    server.faults.add(Fault(resource=resource, answer="drop"))
    assert await cluster.auth_json("default", "web") == b'{"auths":{"own.example":{"auth":"b3du"}}}'


async def test_broken_secret_is_left_out_and_not_told(server: ApiServer, cluster: Cluster) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "broken"}}
    server.add(secret | {"data": {".dockerconfigjson": "aHVudGVyMg=="}})
    server.add_pod("web", pull_secrets=["broken"])
    with capture_logs() as told:
        assert await cluster.auth_json("default", "web") is None
        assert await cluster.auth_json("default", "web") is None
    assert [line["log_level"] for line in told] == ["warning"]
    assert told[0]["secret"] == "broken"
    assert "hunter2" not in str(told)


# Trust


async def test_token_is_read_again_when_it_was_replaced(
    server: ApiServer, cluster: Cluster, service_account: ServiceAccountFolder
) -> None:
    with capture_logs() as told:
        for _ in range(3):
            await cluster.unready_pods("kata-remote")
            service_account.rotate()
        await cluster.unready_pods("kata-remote")
    assert sum(request.status == 401 for request in server.requests) == 3
    assert told == []


async def test_malformed_token_is_not_told(
    server: ApiServer, cluster: Cluster, service_account: ServiceAccountFolder
) -> None:
    (service_account.path / "token").write_text("hunter2\nhunter2")
    with capture_logs() as told, pytest.raises(NotSentError, match="malformed") as refused:
        await cluster.unready_pods("kata-remote")
    assert "hunter2" not in f"{told}{refused.value}"


async def test_fault_of_ours_does_not_stop_a_pod(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(_data: object) -> None:
        raise TypeError("hunter2")

    monkeypatch.setattr("caa.kubernetes.pull_secrets.read", faulty)
    server.add_pull_secret("pull", {"a.example": {"auth": "aaaa"}})
    server.add_pod("web", pull_secrets=["pull"])
    with capture_logs() as told:
        assert await cluster.auth_json("default", "web") is None
    assert "hunter2" not in str(told)


async def test_ca_is_read_again_when_it_was_replaced(
    server: ApiServer, cluster: Cluster, service_account: ServiceAccountFolder
) -> None:
    await cluster.unready_pods("kata-remote")
    await server.stop()
    port = int(server.environment["KUBERNETES_SERVICE_PORT"])
    async with ApiServer(listen=lambda _: listen_on_loopback(port)) as successor:
        successor.rbac.grant(ACCOUNT, [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])
        with pytest.raises(NotSentError, match="CERTIFICATE_VERIFY_FAILED"):
            await cluster.unready_pods("kata-remote")
        successor.service_account_folder(service_account.path)
        assert await cluster.unready_pods("kata-remote") == []


async def test_service_account_that_is_not_there_yet(server: ApiServer, tmp_path: Path) -> None:
    cluster = join({"NODE_NAME": NODE, "KUBECONFIG": str(tmp_path / "kubeconfig")})
    with pytest.raises(NotSentError, match="kubeconfig"):
        await cluster.unready_pods("kata-remote")
    server.kubeconfig(tmp_path / "kubeconfig")
    assert await cluster.unready_pods("kata-remote") == []
    await cluster.close()


async def test_proxy_for_the_outside_is_not_used(
    server: ApiServer, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert await cluster.unready_pods("kata-remote") == []


# Rights


async def test_rights_are_those_that_are_used(server: ApiServer, cluster: Cluster) -> None:
    server.add_pull_secret("pull", {"a.example": {"auth": "aaaa"}})
    server.add_pod("web", node=NODE, pull_secrets=["pull"])
    await cluster.auth_json("default", "web")
    await cluster.claim("default", "web", "", "web-resource-aaaaa", "i-1", "sandbox")
    await cluster.disclaim("default", "web-resource-aaaaa", "i-1")
    await cluster.readvertise(10, "me")
    await cluster.withdraw("me")
    await cluster.unready_pods("kata-remote")
    asked = {
        Right(request.call.verb, request.call.full_resource, request.call.group)
        for request in server.requests
    }
    assert asked == set(RIGHTS)
    assert all(request.status < 400 for request in server.requests)
