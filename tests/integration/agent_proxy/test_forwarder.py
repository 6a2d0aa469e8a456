"""The forwarder in a pod VM: a daemon to play before it, an agent to play behind it; no tunnel."""

import asyncio
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from caa.agent_proxy import TARGET_PATH, Connection, Forwarder, connect
from caa.errors import Code, ConfigError, FailedPreconditionError, StartupError
from caa.podvm import Authority, ForwarderConfig, ForwarderOptions, client_context, forwarder, run_forwarder
from caa.proto import agent_pb2
from caa.ttrpc import MAX_DATA, Frame, FrameType

if TYPE_CHECKING:
    from tests.integration.agent_proxy.conftest import Listener, Peer

PATIENCE = 20.0
VM = "podvm-web-12345678"
PODNS = "/run/netns/podns"
AGENT = "grpc.AgentService"


@dataclass
class Running:
    """A forwarder, told to listen on `port`."""

    options: ForwarderOptions
    port: int
    agent: "Listener"
    task: "asyncio.Task[None]"
    notifications: socket.socket

    async def ready(self) -> None:
        async with asyncio.timeout(PATIENCE):
            said = await asyncio.get_running_loop().sock_recv(self.notifications, 100)
        assert said == b"READY=1"


@pytest.fixture
def config(authority: Authority) -> ForwarderConfig:
    certificate, key = authority.issue(VM)
    return ForwarderConfig(
        pod_network=None,
        pod_namespace="default",
        pod_name="web",
        tls_server_cert=certificate,
        tls_server_key=key,
        tls_client_ca=authority.client_certificate,
    )


@pytest.fixture
def options(config: ForwarderConfig, free_port: int, tmp_path: Path) -> ForwarderOptions:
    path = tmp_path / "apf.json"
    path.write_text(config.to_json())
    return ForwarderOptions(
        config=path,
        listen=f"127.0.0.1:{free_port}",
        kata_agent_socket=tmp_path / "agent.sock",
        pod_namespace=PODNS,
    )


@pytest.fixture
async def running(
    options: ForwarderOptions,
    free_port: int,
    agent_listener: "tuple[Listener, Path]",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Running]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.setblocking(False)
        notifications.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        task = asyncio.create_task(run_forwarder(options))
        running = Running(options, free_port, agent_listener[0], task, notifications)
        await running.ready()
        yield running
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()


@pytest.fixture
async def pair(running: Running, authority: Authority) -> "AsyncIterator[tuple[Peer, Peer]]":
    """A daemon's connection, and the agent's end of it."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", running.port, ssl=client_context(authority), server_hostname=VM
    )
    agent = await running.agent.accept()
    daemon = type(agent)(reader, writer)
    yield daemon, agent
    await daemon.close()


def request(**fields: Any) -> agent_pb2.CreateContainerRequest:
    return agent_pb2.CreateContainerRequest(container_id="c1", **fields)


async def test_calls_pass_untouched(pair: "tuple[Peer, Peer]") -> None:
    daemon, agent = pair
    assert await daemon.call(1, "grpc.Health", "Check") == await agent.receive()
    assert await daemon.call(3, AGENT, "MethodOfTheFuture", b"\xff") == await agent.receive()
    answer = Frame(1, FrameType.RESPONSE, 0, b"r" * MAX_DATA)
    async with asyncio.TaskGroup() as both:
        both.create_task(agent.send(answer))
        assert await daemon.receive() == answer


async def test_the_container_joins_the_pods_network(pair: "tuple[Peer, Peer]") -> None:
    daemon, agent = pair
    namespaces = [
        agent_pb2.LinuxNamespace(Type="ipc"),
        agent_pb2.LinuxNamespace(Type="network", Path="/other"),
    ]
    spec = agent_pb2.Spec(Linux=agent_pb2.Linux(Namespaces=namespaces))
    sent = await daemon.create(1, request(OCI=spec), timeout_nano=60_000_000_000)
    frame, call, created = await agent.receive_create()
    assert frame[:3] == sent[:3]
    assert call.timeout_nano == 60_000_000_000
    got = [(namespace.Type, namespace.Path) for namespace in created.OCI.Linux.Namespaces]
    assert got == [("ipc", ""), ("network", "/other"), ("network", PODNS)]
    assert await agent.answer(1) == await daemon.receive()


async def test_missing_sources_of_bind_mounts_are_made(pair: "tuple[Peer, Peer]", tmp_path: Path) -> None:
    daemon, agent = pair
    file = tmp_path / "file"
    file.touch()
    sources = {
        str(tmp_path / "new" / "folder"): "bind",
        str(file): "bind",
        str(tmp_path / "other"): "tmpfs",
        "relative": "bind",
        f"{file}/impossible": "bind",
    }
    mounts = [agent_pb2.Mount(source=source, type=kind) for source, kind in sources.items()]
    await daemon.create(1, request(OCI=agent_pb2.Spec(Mounts=mounts)))
    await agent.receive_create()
    assert (tmp_path / "new" / "folder").is_dir()
    assert file.is_file()
    assert not (tmp_path / "other").exists()
    assert not Path("relative").exists()


# Volumes that are still to be mounted


def awaiting(*paths: str) -> agent_pb2.CreateContainerRequest:
    mounts = [agent_pb2.Mount(source=path, type="bind") for path in paths]
    return request(OCI=agent_pb2.Spec(Mounts=mounts, Annotations={TARGET_PATH: ", ".join(paths)}))


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What is mounted, for a test to say."""
    points: set[str] = set()
    monkeypatch.setattr(forwarder, "_mount_points", lambda: points)
    return points


async def test_a_volume_that_is_mounted_is_not_waited_for(
    pair: "tuple[Peer, Peer]", running: Running, mounted: set[str], tmp_path: Path
) -> None:
    daemon, agent = pair
    mounted.add(str(tmp_path / "volume"))
    await daemon.create(1, awaiting(str(tmp_path / "volume")))
    await agent.receive_create()
    assert len(running.agent.peers) == 1


async def test_others_pass_while_a_request_waits_and_ids_rise_on_each_connection(
    pair: "tuple[Peer, Peer]", running: Running, mounted: set[str], tmp_path: Path
) -> None:
    daemon, agent = pair
    await daemon.call(1, AGENT, "GetOOMEvent")
    await agent.receive()
    volumes = str(tmp_path / "a"), str(tmp_path / "b")
    sent = await daemon.create(3, awaiting(*volumes), timeout_nano=170_000_000_000)
    mounted.add(volumes[0])
    for stream_id in (5, 7, 9):
        assert await daemon.call(stream_id, "grpc.Health", "Check") == await agent.receive()
        assert await agent.answer(stream_id) == await daemon.receive()
    assert len(running.agent.peers) == 1  # the request has not gone to the agent

    mounted.add(volumes[1])
    alone = await running.agent.accept()
    frame, call, created = await alone.receive_create()
    assert frame[:3] == sent[:3]
    assert 0 < call.timeout_nano < 170_000_000_000
    assert [namespace.Path for namespace in created.OCI.Linux.Namespaces] == [PODNS]

    # Its answer comes between those on the main connection, also if one of these is half through.
    whole = Frame(9, FrameType.RESPONSE, 0, b"x" * 300_000)
    async with asyncio.TaskGroup() as both:
        both.create_task(agent.send(whole))
        answer = await alone.answer(3, b"created")
        got = {(await daemon.receive()), (await daemon.receive())}
    assert got == {whole, answer}
    assert await alone.ended() == b""
    assert await daemon.call(11, AGENT, "StartContainer") == await agent.receive()


async def test_a_volume_that_never_comes_fails_its_container_only(
    pair: "tuple[Peer, Peer]",
    running: Running,
    mounted: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forwarder, "_VOLUME_SECONDS", 0.2)
    daemon, agent = pair
    await daemon.create(1, awaiting(str(tmp_path / "volume")))
    status = await daemon.receive_status(1)
    assert status.code == Code.DEADLINE_EXCEEDED
    assert re.search(rf"volumes of container c1 .* nothing mounted at {tmp_path}/volume", status.message)
    assert await daemon.call(3, "grpc.Health", "Check") == await agent.receive()
    assert len(running.agent.peers) == 1


async def test_a_callers_deadline_bounds_the_wait(
    pair: "tuple[Peer, Peer]", running: Running, mounted: set[str], tmp_path: Path
) -> None:
    daemon, _ = pair
    await daemon.create(1, awaiting(str(tmp_path / "volume")), timeout_nano=200_000_000)
    assert (await daemon.receive_status(1)).code == Code.DEADLINE_EXCEEDED
    mounted.add(str(tmp_path / "volume"))
    assert len(running.agent.peers) == 1


async def test_an_agent_that_fails_the_late_call_is_told_of(
    pair: "tuple[Peer, Peer]", running: Running, mounted: set[str], tmp_path: Path
) -> None:
    daemon, agent = pair
    await daemon.create(1, awaiting(str(tmp_path / "volume")))
    assert await daemon.call(3, "grpc.Health", "Check") == await agent.receive()  # so it waits by now
    mounted.add(str(tmp_path / "volume"))
    alone = await running.agent.accept()
    await alone.receive_create()
    await alone.close()
    assert (await daemon.receive_status(1)).code == Code.UNAVAILABLE


async def test_waiting_ends_with_the_connection(
    pair: "tuple[Peer, Peer]", running: Running, mounted: set[str], tmp_path: Path
) -> None:
    daemon, agent = pair
    before = asyncio.all_tasks()
    await daemon.create(1, awaiting(str(tmp_path / "volume")))
    await daemon.call(3, "grpc.Health", "Check")
    await agent.receive()
    (waiting,) = asyncio.all_tasks() - before
    await daemon.close()
    done, _ = await asyncio.wait((waiting,), timeout=PATIENCE)
    assert done
    assert await agent.ended() == b""
    assert len(running.agent.peers) == 1


async def test_waiting_requests_are_bounded(
    pair: "tuple[Peer, Peer]", mounted: set[str], tmp_path: Path
) -> None:
    daemon, _ = pair
    for stream_id in range(1, 35, 2):
        await daemon.create(stream_id, awaiting(str(tmp_path / "volume")))
    assert (await daemon.receive_status(33)).code == Code.RESOURCE_EXHAUSTED


@pytest.mark.root
async def test_a_real_mount_is_seen(pair: "tuple[Peer, Peer]", running: Running, real_mount: Path) -> None:
    daemon, agent = pair
    await daemon.create(1, awaiting(str(real_mount)))
    assert await daemon.call(3, "grpc.Health", "Check") == await agent.receive()  # so it waits by now
    subprocess.run(["mount", "-t", "tmpfs", "caat", real_mount], check=True)
    await (await running.agent.accept()).receive_create()


@pytest.fixture
def real_mount(tmp_path: Path) -> Iterator[Path]:
    """A place to mount something at; a blank, a backslash and a symbolic link are in its path."""
    place = tmp_path / "a \\ volume"
    place.mkdir()
    (tmp_path / "link").symlink_to(place)
    yield tmp_path / "link"
    if os.path.ismount(place):
        subprocess.run(["umount", place], check=True)


# The agent's socket and the forwarder's own end


async def test_the_agent_may_start_later(
    options: ForwarderOptions, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    task = asyncio.create_task(run_forwarder(options))
    host, port = options.listen.split(":")
    connection = await connect(Forwarder(host, int(port), VM, client_context(authority)), timeout=PATIENCE)
    connection.write(b"\0\0\0\0\0\0\0\1\1\0")
    arrived = asyncio.get_running_loop().create_future()

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data := await reader.read(10):  # else it is that of an attempt which another one overtook
            arrived.set_result(data)
        writer.close()

    server = await asyncio.start_unix_server(agent, options.kata_agent_socket)
    async with asyncio.timeout(PATIENCE):
        assert await arrived == b"\0\0\0\0\0\0\0\1\1\0"
        await connection.lost
        task.cancel()
        await asyncio.wait((task,))
    server.close()
    await server.wait_closed()


async def test_a_daemon_is_let_go_if_there_is_no_agent(
    options: ForwarderOptions, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarder, "_AGENT_SECONDS", 0.1)
    task = asyncio.create_task(run_forwarder(options))
    host, port = options.listen.split(":")
    connection = await connect(Forwarder(host, int(port), VM, client_context(authority)), timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await connection.lost
        task.cancel()
        await asyncio.wait((task,))


async def test_the_agents_end_is_the_daemons(pair: "tuple[Peer, Peer]") -> None:
    daemon, agent = pair
    await agent.close()
    assert await daemon.ended() == b""


# Who is let in


@pytest.mark.parametrize("who", ["another daemon", "nobody"])
async def test_others_are_refused(
    running: Running, authority: Authority, stranger: Authority, who: str
) -> None:
    tls = client_context(replace(authority, client=stranger.client))
    if who == "nobody":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=authority.ca.certificate)
    with pytest.raises(FailedPreconditionError, match="it refuses our certificate"):
        await connect(Forwarder("127.0.0.1", running.port, VM, tls), timeout=PATIENCE)
    assert running.agent.peers == []


async def test_certificates_given_by_files_come_first(
    options: ForwarderOptions, stranger: Authority, tmp_path: Path
) -> None:
    certificate, key = stranger.issue("podvm-server")
    for name, text in {"ca": stranger.client_certificate, "cert": certificate, "key": key}.items():
        (tmp_path / name).write_text(text)
    given = replace(
        options,
        ca_cert_file=str(tmp_path / "ca"),
        cert_file=str(tmp_path / "cert"),
        cert_key=str(tmp_path / "key"),
    )
    task = asyncio.create_task(run_forwarder(given))
    host, port = options.listen.split(":")
    connection = await connect(
        Forwarder(host, int(port), "podvm-server", client_context(stranger)), timeout=PATIENCE
    )
    connection.abort()
    await connection.lost
    task.cancel()
    await asyncio.wait((task,))


@pytest.mark.parametrize(
    ("off", "warning"), [("disable_tls", "TLS is off"), ("tls_skip_verify", "not checked")]
)
async def test_protection_that_is_off_is_warned_of(
    options: ForwarderOptions, authority: Authority, off: str, warning: str, logged: list[Any]
) -> None:
    task = asyncio.create_task(run_forwarder(replace(options, **{off: True})))  # type: ignore[arg-type]  # both are bool
    host, port = options.listen.split(":")
    tls = None
    if off == "tls_skip_verify":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.load_verify_locations(cadata=authority.ca.certificate)
    connection: Connection = await connect(Forwarder(host, int(port), VM, tls), timeout=PATIENCE)
    connection.abort()
    await connection.lost
    task.cancel()
    await asyncio.wait((task,))
    assert [entry for entry in logged if entry["log_level"] == "warning" and warning in entry["event"]]


# What keeps it from starting


@pytest.mark.parametrize("listen", ["", "15150", "1.2.3.4", "1.2.3.4:99999", "::1:15150", "a:b:1"])
async def test_an_address_that_is_none_is_named(options: ForwarderOptions, listen: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        await run_forwarder(replace(options, listen=listen))


async def test_an_address_that_is_taken_is_named(options: ForwarderOptions, free_port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", free_port)),
        pytest.raises(StartupError, match=f"can't listen on 127.0.0.1:{free_port}: Address already in use"),
    ):
        await run_forwarder(options)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "No such file"), ("{", "not JSON"), ("{}", "pod-name"), ("x" * 2_000_000, "larger than")],
)
async def test_a_config_that_is_none_is_named(
    options: ForwarderOptions, text: str | None, message: str
) -> None:
    options.config.unlink()
    if text is not None:
        options.config.write_text(text)
    with pytest.raises(ConfigError, match=rf"apf\.json.*{message}"):
        await run_forwarder(options)


async def test_it_does_not_serve_without_certificates(
    options: ForwarderOptions, config: ForwarderConfig
) -> None:
    options.config.write_text(
        config.model_copy(update={"tls_server_cert": "", "tls_server_key": ""}).to_json()
    )
    with pytest.raises(ConfigError, match="no certificate: neither --cert-file nor tls-server-cert"):
        await run_forwarder(options)
    options.config.write_text(config.model_copy(update={"tls_client_ca": ""}).to_json())
    with pytest.raises(ConfigError, match="would serve anybody"):
        await run_forwarder(options)
