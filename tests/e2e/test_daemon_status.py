"""What Prometheus and the kubelet see of a daemon at work, from its own node."""

import http.client
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from caa.fakecloud import Fault
from caa.ttrpc import RpcError

if TYPE_CHECKING:
    from tests.e2e.conftest import Node

pytestmark = pytest.mark.root

PORT = 8000


class Status:
    def __init__(self, node: "Node") -> None:
        self._node = node

    async def get(self, path: str) -> tuple[int, str]:
        def ask() -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        return await self._node.worker._in_namespace(ask)

    async def scrape(self) -> None:
        _, text = await self.get("/metrics")
        self._samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._samples.get((name, *sorted(labels.items())))


async def test_a_pod_shows_in_the_metrics_and_a_restart_forgets_no_sandbox(node: "Node") -> None:
    status = Status(node)
    netns, _ = await node.worker.add_pod("web")
    async with node.daemon(), node.shim() as shim:
        assert (await status.get("/healthz"))[0] == 200
        assert (await status.get("/readyz"))[0] == 200
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        await shim.start_vm()
        await status.scrape()
        assert status("caa_sandboxes", state="running") == 1
        for method in ("CreateVM", "StartVM"):
            assert status("caa_rpcs_total", method=method, code="OK") == 1
        for phase in ("launch", "journal", "address", "tunnel", "agent", "start"):
            assert status("caa_phase_seconds_count", phase=phase) == 1
        assert status("caa_cloud_calls_total", action="RunInstances", outcome="ok") == 1
        assert (status("caa_credentials_remaining_seconds") or 0) > 0
    async with node.daemon(), node.shim() as other:
        await status.scrape()
        assert status("caa_sandboxes", state="running") == 1
        other.sandbox_id = shim.sandbox_id
        await other.stop_vm()
        await status.scrape()
        assert status("caa_sandboxes", state="running") == 0
        assert status("caa_phase_seconds_count", phase="stop") == 1
        assert status("caa_phase_seconds_count", phase="instance_removal") == 1


async def test_a_start_that_fails_shows_by_both_codes(node: "Node") -> None:
    status = Status(node)
    netns, _ = await node.worker.add_pod("web")
    node.cloud.faults.add(Fault(action="RunInstances", code="OperationDenied.NoStock", status=403, share=1.0))
    async with node.daemon(), node.shim() as shim:
        await shim.create_vm(pod="web", namespace="default", netns=netns)
        with pytest.raises(RpcError, match="NoStock"):
            await shim.start_vm()
        await status.scrape()
    assert status("caa_rpcs_total", method="StartVM", code="RESOURCE_EXHAUSTED") == 1
    noted = status("caa_cloud_calls_total", action="RunInstances", outcome="OperationDenied.NoStock")
    assert noted is not None
    assert status("caa_phase_seconds_count", phase="start") == 0
