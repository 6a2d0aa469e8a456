"""The agent protocol forwarder: in a pod VM, joins the pod's network and passes calls to the Kata agent.

Of all calls only CreateContainer is opened. One that waits for a
volume, for up to three minutes, must not make others wait: the shim declares the agent dead when a health
check is not answered within 30 s. But neither may others overtake it, as the agent refuses stream ids that do
not rise on a connection. So a request that has to wait goes to the agent over a connection of its own, where
its id is the first, and its answer is put between those to the others. The order of the shim's calls for one
container stays, since the shim waits for each answer.
"""

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from caa.agent_proxy import TARGET_PATH, Connection, CreateContainer, Pipe, Relay, tune
from caa.errors import (
    ConfigError,
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    StartupError,
    UnavailableError,
)
from caa.podvm.forwarder_config import ForwarderConfig
from caa.podvm.tls import Credentials, read_pem, server_context
from caa.polling import growing, poll
from caa.proto import agent_pb2
from caa.ttrpc import Frame, encode_frame, read_frame
from caa.tunnel import set_up_pod, tear_down_pod

_AGENT_SECONDS = 150.0
"""How long to wait for the agent's socket: the agent starts along with us."""

_VOLUME_SECONDS = 180.0
_HANDSHAKE_SECONDS = 10.0
_LARGEST_CONFIG = 1024 * 1024
_BACKLOG = 128

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ForwarderOptions:
    """The options of `caa agent-protocol-forwarder`. "" means not set.

    Certificates that are given by files go before those in the config.
    """

    config: Path = Path("/run/peerpod/apf.json")
    listen: str = "0.0.0.0:15150"
    kata_agent_socket: Path = Path("/run/kata-containers/agent.sock")
    pod_namespace: str = "/run/netns/podns"
    host_interface: str = ""
    ca_cert_file: str = ""
    cert_file: str = ""
    cert_key: str = ""
    tls_skip_verify: bool = False
    disable_tls: bool = False


async def run_forwarder(options: ForwarderOptions) -> None:
    """Serve until cancelled.

    Raises ConfigError for a wrong config, option or certificate, StartupError if it can't listen, and what
    caa.tunnel.set_up_pod does.
    """
    config = _read_config(options.config)
    tls = _tls(options, config)
    host, port = _split(options.listen)
    async with AsyncExitStack() as closing:
        if config.pod_network is None:
            _log.warning("the config has no pod-network: no tunnel is made", config=str(options.config))
        else:
            closing.push_async_callback(tear_down_pod, config.pod_network, podns=options.pod_namespace)
            await set_up_pod(
                config.pod_network, podns=options.pod_namespace, host_interface=options.host_interface
            )
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise StartupError(f"can't listen on {options.listen}: {error.strerror}") from error
        tune(listening)
        relay = Relay(
            partial(_reach_agent, options.kata_agent_socket),
            partial(_on_create, options),
            _log.bind(pod=config.pod_name),
        )
        server = await asyncio.get_running_loop().create_server(
            relay.accept, sock=listening, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None
        )
        closing.push_async_callback(server.wait_closed)
        closing.push_async_callback(relay.close)
        closing.callback(server.close)
        _log.info("listening", address=options.listen, pod=f"{config.pod_namespace}/{config.pod_name}")
        _notify_systemd("READY=1")
        await asyncio.get_running_loop().create_future()


def _read_config(path: Path) -> ForwarderConfig:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_CONFIG + 1)
        if len(text) > _LARGEST_CONFIG:
            raise ConfigError(f"{path} is larger than a forwarder config can be: {_LARGEST_CONFIG} bytes")
        return ForwarderConfig.parse(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except InvalidArgumentError as error:
        raise ConfigError(f"{path}: {error}") from error


def _tls(options: ForwarderOptions, config: ForwarderConfig) -> ssl.SSLContext | None:
    if options.disable_tls:
        _log.warning("TLS is off: everybody who reaches this port controls the pod")
        return None
    if options.tls_skip_verify:
        _log.warning("client certificates are not checked: everybody who reaches this port controls the pod")
    if options.cert_file:
        credentials = Credentials(read_pem(options.cert_file), read_pem(options.cert_key))
    else:
        credentials = Credentials(config.tls_server_cert, config.tls_server_key)
    if not credentials.certificate:
        raise ConfigError(f"no certificate: neither --cert-file nor tls-server-cert in {options.config}")
    return server_context(
        credentials,
        client_ca=read_pem(options.ca_cert_file) if options.ca_cert_file else config.tls_client_ca,
        skip_verify=options.tls_skip_verify,
        min_version=config.tls_min_version,
        cipher_suites=config.tls_cipher_suites,
    )


def _split(address: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[(?P<v6>[0-9a-fA-F:]+)\]|(?P<v4>[^:]*)):(?P<port>\d{1,5})", address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"--listen {address!r} is not valid; allowed: ADDRESS:PORT, or [IPV6]:PORT")
    return match["v6"] or match["v4"], int(match["port"])


def _notify_systemd(state: str) -> None:
    """sd_notify(3): where systemd started us, the socket for this is in the environment."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract socket
        address = f"\0{address[1:]}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notification:
        try:
            notification.sendto(state.encode(), address)
        except OSError as error:
            _log.warning("systemd could not be told", state=state, error=str(error))


async def _reach_agent(path: Path) -> Connection:
    async def ask() -> tuple[Connection | None, str]:
        try:
            return (await asyncio.get_running_loop().create_unix_connection(Connection, str(path)))[1], ""
        except OSError as error:
            return None, os.strerror(error.errno) if error.errno else str(error)

    pauses = growing(0.02, 1.5, 0.5)
    return await poll(ask, what=f"the Kata agent at {path}", pauses=pauses, timeout=_AGENT_SECONDS)


def _on_create(options: ForwarderOptions, pipe: Pipe, create: CreateContainer) -> None:
    request = create.request
    request.OCI.Linux.Namespaces.add(Type="network", Path=options.pod_namespace)
    _make_bind_sources(request.OCI.Mounts)
    volumes = [path.strip() for path in request.OCI.Annotations.get(TARGET_PATH, "").split(",")]
    missing = _not_mounted(path for path in volumes if path)
    if missing:
        pipe.answer_later(create, partial(_create_when_mounted, options.kata_agent_socket, create, missing))
    else:
        pipe.pass_on(create, changed=True)


def _make_bind_sources(mounts: Iterable[agent_pb2.Mount]) -> None:
    for mount in mounts:
        source = Path(mount.source)
        if mount.type != "bind" or not source.is_absolute():
            continue
        try:
            if not source.exists():
                source.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            _log.warning(
                "the source of a bind mount could not be made", source=mount.source, error=str(error)
            )


async def _create_when_mounted(agent: Path, create: CreateContainer, paths: list[str]) -> bytes:
    """The agent's answer, as a frame. A caller whose deadline has passed gets no container any more."""
    loop = asyncio.get_running_loop()
    given = create.call.timeout_nano / 1e9 if create.call.timeout_nano > 0 else None
    deadline = None if given is None else loop.time() + given

    async def ask() -> tuple[bool | None, str]:
        missing = _not_mounted(paths)
        return not missing or None, f"nothing mounted at {', '.join(missing)}"

    _log.info("CreateContainer waits for volumes", container=create.request.container_id, paths=paths)
    await poll(
        ask,
        what=f"the volumes of container {create.request.container_id}",
        pauses=growing(0.1, 1.5, 2.0),
        timeout=_VOLUME_SECONDS if given is None else min(_VOLUME_SECONDS, given),
    )
    if deadline is not None:
        create.call.timeout_nano = max(1, int((deadline - loop.time()) * 1e9))
    try:
        async with asyncio.timeout_at(deadline):
            return await _call_alone(agent, create.encode())
    except TimeoutError:
        raise DeadlineExceededError("CreateContainer: the agent did not answer before the deadline") from None


async def _call_alone(agent: Path, request: bytes) -> bytes:
    try:
        reader, writer = await asyncio.open_unix_connection(agent)
        try:
            writer.write(request)
            response = await read_frame(reader)
        finally:
            writer.close()
    except (OSError, asyncio.IncompleteReadError) as error:
        raise UnavailableError(
            f"CreateContainer: the connection to the Kata agent failed: {error}"
        ) from error
    match response:
        case Frame():
            return encode_frame(response)
        case None:
            raise UnavailableError("CreateContainer: the Kata agent closed the connection")
    raise ResourceExhaustedError(f"CreateContainer: the Kata agent's answer has {response.length} bytes")


def _not_mounted(paths: Iterable[str]) -> list[str]:
    mounted = _mount_points()
    return [path for path in paths if os.path.realpath(path) not in mounted]


def _mount_points() -> set[str]:
    """In this process's namespace (proc(5), mountinfo: the fifth field, with blanks as octal escapes)."""
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) for line in lines}
