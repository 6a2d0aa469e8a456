"""What a pod VM does first: fetch the user data and write the files in it.

The user data comes from the cloud, which a confidential VM does not trust: it is bounded in size, parsed
strictly, and only files of known names are written. Whether it may be believed is for attestation to say,
with the digest that is left here.

The metadata service is asked wherever there is no user data file. DMI would tell what cloud this is, but
it too is the host's word, it costs nothing to ask in vain, and a local cloud has no DMI to show.

Only the standard library's HTTP is used: a client library's import takes longer than all of this.
"""

import asyncio
import http.client
import io
import os
import re
import tempfile
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from caa.errors import CaaError, UnavailableError
from caa.podvm import initdata, userdata
from caa.polling import growing, poll

log = structlog.get_logger(__name__)

USER_DATA_FILE = "/media/cidata/user-data"
INITDATA_DIGEST = f"{userdata.FOLDER}/initdata.digest"
INITDATA_FILES = ("cdh.toml", "policy.rego", "aa.toml")
"""What may come out of initdata. aa.toml is last: images start the attestation agent, and after it all
that needs it, as soon as that file appears."""

MAX_ANSWER = 256 * 1024
"""Bytes of user data, or of an HTTP answer with its headers, that are read at most."""
_ATTEMPT = 5.0
"""Seconds for one attempt at the metadata service, which is next door."""


@dataclass(frozen=True)
class ProvisionOptions:
    timeout: float = 180
    """Seconds until the user data must have been there, and valid."""
    root: Path = Path("/")
    """Prefix of all paths, for tests."""
    metadata_url: str = "http://100.100.100.200"


async def provision_files(options: ProvisionOptions) -> None:
    """Wait for the user data, and write its files, then those of its initdata and the initdata's digest.

    Raises DeadlineExceededError, saying what was seen last, or InvalidArgumentError for initdata that can't
    be used. Then nothing has been written.
    """

    async def ask() -> tuple[dict[str, str] | None, str]:
        try:
            return userdata.parse_user_data(await _fetch(options)), ""
        except (CaaError, OSError, http.client.HTTPException) as error:
            return None, str(error) or type(error).__name__

    given = await poll(ask, what="user data", pauses=growing(0.1), timeout=options.timeout)
    files = {path: text for path, text in given.items() if path in userdata.KNOWN_FILES}
    if unknown := given.keys() - files.keys():
        log.warning("files of the user data ignored: not known here", paths=sorted(unknown))

    wire = files.setdefault(userdata.INITDATA, initdata.encode(initdata.MINIMAL))
    document = initdata.parse(initdata.decode(wire))
    if unknown := document.data.keys() - set(INITDATA_FILES):
        log.warning("files of the initdata ignored: not known here", names=sorted(unknown))
    files[INITDATA_DIGEST] = document.digest
    files |= {
        f"{userdata.FOLDER}/{name}": document.data[name] for name in INITDATA_FILES if name in document.data
    }

    for path, text in files.items():
        _write(options.root / path.lstrip("/"), text)
    log.info("pod VM provisioned", files=list(files), initdata_digest=document.digest)


async def _fetch(options: ProvisionOptions) -> bytes:
    try:
        with (options.root / USER_DATA_FILE.lstrip("/")).open("rb") as file:
            return _bounded(file.read(MAX_ANSWER + 1), file.name)
    except FileNotFoundError:
        return await _fetch_from_metadata(options.metadata_url)


async def _fetch_from_metadata(base: str) -> bytes:
    url = f"{base}/latest/user-data"
    try:
        async with asyncio.timeout(_ATTEMPT):
            status, body = await _http("GET", url, {})
            if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
                # The instance was made with metadata access by token only.
                token = await _token(base)
                status, body = await _http("GET", url, {"X-aliyun-ecs-metadata-token": token})
    except TimeoutError:
        raise UnavailableError(f"{base} did not answer within {_ATTEMPT:g} s") from None
    if status != HTTPStatus.OK:
        raise UnavailableError(f"GET {url} was answered with HTTP {status}")
    return body


async def _token(base: str) -> str:
    url = f"{base}/latest/api/token"
    status, body = await _http("PUT", url, {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"})
    if status != HTTPStatus.OK:
        raise UnavailableError(f"PUT {url} was answered with HTTP {status}")
    if not re.fullmatch(rb"[!-~]{1,4096}", token := body.strip()):
        raise UnavailableError(f"PUT {url} was not answered with a token")
    return token.decode()


async def _http(method: str, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body. Each on a connection of its own: its end ends the answer, and it can be dropped."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
    try:
        lines = [f"{method} {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
        if method == "PUT":
            lines.append("Content-Length: 0")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        raw = b""
        while chunk := await reader.read(MAX_ANSWER):
            raw = _bounded(raw + chunk, url)
    finally:
        writer.transport.abort()
    response = http.client.HTTPResponse(_Received(raw))  # type: ignore[arg-type]  # all that it uses of a socket
    response.begin()
    return response.status, response.read()


class _Received:
    """Stands for the socket of an answer that is all here already."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _bounded(content: bytes, source: str) -> bytes:
    if len(content) > MAX_ANSWER:
        raise UnavailableError(f"{source} holds more than {MAX_ANSWER} bytes, which user data never does")
    return content


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes it 0600. Nobody is to see half of it: other services wait for these names to appear.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
