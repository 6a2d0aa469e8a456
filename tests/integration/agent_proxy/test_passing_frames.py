"""Frames between a shim and a forwarder, through the proxy and TLS."""

import asyncio
import base64
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from caa.agent_proxy import create_container
from caa.errors import Code
from caa.proto import agent_pb2
from caa.ttrpc import MAX_DATA, Flag, Frame, FrameType, Oversized

if TYPE_CHECKING:
    from tests.integration.agent_proxy.conftest import Proxied

AGENT = "grpc.AgentService"


async def test_any_call_passes_untouched(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    sent = [
        await shim.call(1, "grpc.Health", "Check", timeout_nano=5),
        await shim.call(3, AGENT, "MethodOfTheFuture", b"\xff\x00 no protobuf"),
        await shim.call(5, "some.other.Service", "CreateContainer", b"\xff"),
    ]
    for frame in (
        Frame(7, FrameType.REQUEST, Flag.REMOTE_OPEN, b""),
        Frame(7, FrameType.DATA, Flag.REMOTE_CLOSED | Flag.NO_DATA, b""),
        Frame(8, 200, 255, b"a type of the future"),
    ):
        await shim.send(frame)
        sent.append(frame)
    assert [await forwarder.receive() for _ in sent] == sent
    answers = [await forwarder.answer(5, b"later first"), Frame(1, FrameType.DATA, 0, b"x")]
    await forwarder.send(answers[1])
    assert [await shim.receive() for _ in answers] == answers


async def test_the_largest_frames_pass_both_ways(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    request = Frame(1, FrameType.REQUEST, 0, b"\x1a" + b"q" * (MAX_DATA - 1))
    response = Frame(1, FrameType.RESPONSE, 0, b"r" * MAX_DATA)
    async with asyncio.TaskGroup() as both:
        both.create_task(shim.send(request))
        assert await forwarder.receive() == request
    async with asyncio.TaskGroup() as both:
        both.create_task(forwarder.send(response))
        assert await shim.receive() == response


async def test_an_oversized_frame_is_left_to_its_receiver(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    length = MAX_DATA + 12_345
    header = Oversized(1, FrameType.REQUEST, 0, length).encode_header()
    async with asyncio.TaskGroup() as both:
        both.create_task(shim.send(header, bytes(length)))
        assert await forwarder.reader.readexactly(len(header)) == header
        assert await forwarder.reader.readexactly(length) == bytes(length)
    assert await shim.call(3, AGENT, "StartContainer") == await forwarder.receive()


async def test_many_calls_hang_side_by_side(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    ids = range(1, 1001, 2)
    for stream_id in ids:
        await shim.call(stream_id, AGENT, "WaitProcess")
    waiting = [(await forwarder.receive()).stream_id for _ in ids]
    assert waiting == list(ids)
    await shim.call(1001, "grpc.Health", "Check")
    assert (await forwarder.receive()).stream_id == 1001
    await forwarder.answer(1001)
    assert (await shim.receive()).stream_id == 1001
    for stream_id in reversed(waiting):
        await forwarder.answer(stream_id)
    assert [(await shim.receive()).stream_id for _ in ids] == waiting[::-1]


async def fill(writer: asyncio.StreamWriter, chunk: bytes, limit: int) -> int:
    """Write until whoever should read has stopped taking; how many bytes were taken."""
    taken = 0
    while taken < limit:
        writer.write(chunk)
        taken += len(chunk)
        try:
            # Drains at once as long as somebody takes: this only decides when nobody does any more.
            async with asyncio.timeout(1):
                await writer.drain()
        except TimeoutError:
            break
    return taken


@pytest.mark.parametrize("towards", ["shim", "forwarder"])
async def test_a_slow_reader_slows_its_writer_down(proxied: "Proxied", towards: str) -> None:
    """What is under way towards a reader that does not read stays far below what could be written."""
    shim, forwarder = await proxied.pair()
    # `reader` has read nothing so far; its own stream holds 128 KiB, the rest is in kernels and in the proxy.
    writer, reader = (forwarder, shim) if towards == "shim" else (shim, forwarder)
    await shim.call(1, AGENT, "ReadStdout")
    await forwarder.receive()
    body = 256 * 1024
    chunk = struct.pack(">IIBB", body, 1, FrameType.DATA, 0) + bytes(body)
    limit = 128 * 2**20
    taken = await fill(writer.writer, chunk, limit)
    assert taken < 32 * 2**20
    async with asyncio.TaskGroup() as both:
        both.create_task(writer.send(Frame(9, FrameType.DATA, 0, b"last")))
        frames = 0
        while (frame := await reader.receive()).stream_id != 9:
            assert len(frame.data) == body
            frames += 1
    assert frames * len(chunk) == taken


async def test_the_other_direction_flows_while_one_is_blocked(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    chunk = struct.pack(">IIBB", 2**20, 1, FrameType.DATA, 0) + bytes(2**20)
    await shim.call(1, AGENT, "ReadStdout")
    await forwarder.receive()
    assert await fill(forwarder.writer, chunk, 128 * 2**20) < 128 * 2**20
    for stream_id in range(3, 203, 2):
        await shim.call(stream_id, AGENT, "WriteStdin", bytes(1000))
        assert (await forwarder.receive()).stream_id == stream_id


# CreateContainer


def request(**annotations: str) -> agent_pb2.CreateContainerRequest:
    spec = agent_pb2.Spec(
        Mounts=[agent_pb2.Mount(destination="/data", source=VOLUME, type="bind")], Annotations=annotations
    )
    made = agent_pb2.CreateContainerRequest(container_id="c1", OCI=spec)
    return agent_pb2.CreateContainerRequest.FromString(made.SerializeToString() + UNKNOWN)


VOLUME = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~csi/pv/mount"
UNKNOWN = b"\xfa\x3f\x07unknown"  # field 1023
GPUS = {"io.katacontainers.config.hypervisor.default_gpus": "1"}


@pytest.fixture
def direct_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "direct-volumes"
    (folder / base64.urlsafe_b64encode(VOLUME.encode()).decode()).mkdir(parents=True)
    monkeypatch.setattr(create_container, "DIRECT_VOLUMES", folder)
    return folder


async def test_create_container_is_rewritten_in_its_place(proxied: "Proxied", direct_volumes: Path) -> None:
    shim, forwarder = await proxied.pair()
    before = await shim.call(1, "grpc.Health", "Check")
    sent = await shim.create(
        3, request(**GPUS), timeout_nano=60_000_000_000, metadata=[{"key": "k", "value": "v"}]
    )
    after = await shim.call(5, "grpc.Health", "Check")
    assert await forwarder.receive() == before
    frame, call, created = await forwarder.receive_create()
    assert frame[:3] == sent[:3]
    assert (call.timeout_nano, call.metadata[0].key, call.metadata[0].value) == (60_000_000_000, "k", "v")
    assert dict(created.OCI.Annotations) == GPUS | {
        "cdi.k8s.io/peer-pods": "nvidia.com/gpu=all",
        "io.confidentialcontainers.org.peerpodvolumes.target_path": VOLUME,
    }
    assert created.SerializeToString().endswith(UNKNOWN)
    assert await forwarder.receive() == after


async def test_one_with_nothing_to_change_passes_as_it_is(proxied: "Proxied", logged: list[Any]) -> None:
    shim, forwarder = await proxied.pair()
    plain = agent_pb2.CreateContainerRequest(
        container_id="c1", storages=[agent_pb2.Storage(driver="image_guest_pull")]
    )
    assert await shim.create(1, plain) == await forwarder.receive()
    assert not [entry for entry in logged if entry["log_level"] == "warning"]


async def test_an_image_that_does_not_get_into_the_vm_is_warned_of(
    proxied: "Proxied", logged: list[Any]
) -> None:
    shim, forwarder = await proxied.pair()
    await shim.create(1, agent_pb2.CreateContainerRequest(container_id="c1"))
    await forwarder.receive()
    (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
    assert "not pulled in the pod VM" in warning["event"]
    assert warning["container"] == "c1"


async def test_one_that_does_not_decode_passes_with_a_warning(proxied: "Proxied", logged: list[Any]) -> None:
    shim, forwarder = await proxied.pair()
    assert await shim.call(1, AGENT, "CreateContainer", b"\xff\xff") == await forwarder.receive()
    assert [entry["log_level"] for entry in logged if "does not decode" in entry["event"]] == ["warning"]


async def test_one_that_outgrows_a_frame_is_answered(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    large = request(**GPUS)
    large.exec_id = "e" * (MAX_DATA - len(large.SerializeToString()) - 60)
    async with asyncio.TaskGroup() as both:
        both.create_task(shim.create(1, large))
        status = await shim.receive_status(1)
    assert status.code == Code.RESOURCE_EXHAUSTED
    assert "4194304" in status.message
    assert await shim.call(3, "grpc.Health", "Check") == await forwarder.receive()


async def test_a_fault_of_ours_costs_one_call_and_not_the_pod(
    proxied: "Proxied", monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    def stumble(*_: object) -> bool:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(create_container, "rewrite", stumble)
    shim, forwarder = await proxied.pair()
    await shim.create(1, request())
    status = await shim.receive_status(1)
    assert (status.code, "oops" in status.message) == (Code.INTERNAL, True)
    assert await shim.call(3, "grpc.Health", "Check") == await forwarder.receive()
    assert [entry for entry in logged if entry["log_level"] == "error"]


async def test_our_answer_waits_for_the_end_of_the_agents_frame(proxied: "Proxied") -> None:
    shim, forwarder = await proxied.pair()
    await shim.call(1, "grpc.Health", "Check")
    await forwarder.receive()
    answer = Frame(1, FrameType.RESPONSE, 0, b"agent" * 1000)
    head, tail = struct.pack(">IIBB", 5000, 1, FrameType.RESPONSE, 0) + answer.data[:2000], answer.data[2000:]
    await forwarder.send(head)
    assert await shim.reader.readexactly(len(head)) == head
    large = request(**GPUS)
    large.exec_id = "e" * (MAX_DATA - len(large.SerializeToString()) - 60)
    async with asyncio.TaskGroup() as both:
        both.create_task(shim.create(3, large))
    # The proxy has refused the last request once it has passed the next one on.
    assert await shim.call(5, "grpc.Health", "Check") == await forwarder.receive()
    await forwarder.send(tail)
    assert await shim.reader.readexactly(len(tail)) == tail
    assert (await shim.receive_status(3)).code == Code.RESOURCE_EXHAUSTED
