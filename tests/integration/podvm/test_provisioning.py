"""Provisioning against a metadata service on loopback."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from caa.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from caa.podvm import ProvisionOptions, build_user_data, initdata, provision, provision_files

CONFIG = '{"pod-name": "web"}'
USER_DATA = build_user_data(CONFIG)
TOML = b"""\
algorithm = "sha512"
version = "0.1.0"
[data]
"aa.toml" = "aa"
"cdh.toml" = "cdh"
"policy.rego" = "policy"
"../evil" = "evil"
"other.toml" = "other"
"""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def metadata_service(handler: Handler) -> AsyncIterator[str]:
    server = web.Server(handler)  # type: ignore[arg-type]  # its annotation asks for BaseRequest
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def metadata() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Starts a service that gives these answers to GETs, the last one for ever, and returns its URL."""
    async with AsyncExitStack() as stack:

        async def start(*answers: bytes | int) -> str:
            left = list(answers)

            async def handler(request: web.Request) -> web.Response:
                assert (request.method, request.path) == ("GET", "/latest/user-data")
                answer = left.pop(0) if len(left) > 1 else left[0]
                return web.Response(status=answer) if isinstance(answer, int) else web.Response(body=answer)

            return await stack.enter_async_context(metadata_service(handler))

        yield start


@pytest.fixture
async def nobody() -> str:
    """The URL of a service that does not run."""
    async with metadata_service(lambda _request: asyncio.sleep(0, web.Response())) as url:
        pass
    return url


def written(root: Path) -> dict[str, str]:
    folder = root / "run/peerpod"
    return {file.name: file.read_text() for file in folder.iterdir()} if folder.exists() else {}


async def test_waits_for_user_data_that_is_there_and_valid(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    url = await metadata(404, 500, b"", b"<html>", b"#cloud-config\nruncmd: [ls]\n", USER_DATA)
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path)["apf.json"] == CONFIG
    assert written(tmp_path)["daemon.json"] == CONFIG


async def test_the_files_are_private(tmp_path: Path, metadata: Callable[..., Awaitable[str]]) -> None:
    url = await metadata(build_user_data(CONFIG, auth_json="{}", initdata=TOML, scratch_space=True))
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    folder = tmp_path / "run/peerpod"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}


async def test_initdata_and_its_digest(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    write = provision._write

    def noting(path: Path, text: str) -> None:
        order.append(path.name)
        write(path, text)

    monkeypatch.setattr(provision, "_write", noting)
    url = await metadata(build_user_data(CONFIG, auth_json="{}", initdata=TOML))
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    files = written(tmp_path)
    assert files["initdata.digest"] == hashlib.sha512(TOML).hexdigest()
    assert (files["aa.toml"], files["cdh.toml"], files["policy.rego"]) == ("aa", "cdh", "policy")
    assert files.keys() == {
        *("apf.json", "daemon.json", "auth.json", "initdata", "initdata.digest"),
        *("aa.toml", "cdh.toml", "policy.rego"),
    }
    assert not (tmp_path / "run/evil").exists()
    assert order[-1] == "aa.toml", "images start the attestation agent when it appears"


async def test_initdata_in_the_form_of_older_images(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    url = await metadata(build_user_data(CONFIG, podvm_version="0.13", initdata=TOML))
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path)["initdata.digest"] == hashlib.sha512(TOML).hexdigest()


async def test_without_initdata_there_is_a_digest_all_the_same(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=await metadata(USER_DATA)))
    files = written(tmp_path)
    assert files["aa.toml"] == ""
    assert files["initdata.digest"] == hashlib.sha256(initdata.decode(files["initdata"])).hexdigest()


async def test_bad_initdata_fails_at_once_and_writes_nothing(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    url = await metadata(build_user_data(CONFIG, initdata=b'algorithm = "md5"'))
    with pytest.raises(InvalidArgumentError, match="md5"):
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path) == {}


async def test_files_of_unknown_names_are_not_written(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    hostile = USER_DATA + b"".join(
        b"- path: %s\n  content: evil\n" % path
        for path in (
            b"/etc/passwd",
            b"/run/peerpod/../evil",
            b"run/peerpod/apf.json",
            b"/run/peerpod/aa.toml",
        )
    )
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=await metadata(hostile)))
    assert "evil" not in "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())


async def test_a_token_where_the_service_wants_one(tmp_path: Path) -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path))
        if request.method == "PUT":
            assert 1 <= int(request.headers["X-aliyun-ecs-metadata-token-ttl-seconds"]) <= 21_600
            return web.Response(text="T0k3n==\n")
        if request.headers.get("X-aliyun-ecs-metadata-token") != "T0k3n==":
            return web.Response(status=403)
        return web.Response(body=USER_DATA)

    async with metadata_service(handler) as url:
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert seen == [
        ("GET", "/latest/user-data"),
        ("PUT", "/latest/api/token"),
        ("GET", "/latest/user-data"),
    ]
    assert written(tmp_path)["apf.json"] == CONFIG


@pytest.mark.parametrize("token", ["", "a\r\nX-Evil: 1", "x" * 5000])
async def test_a_token_that_is_none(token: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert "X-aliyun-ecs-metadata-token" not in request.headers
        return web.Response(text=token) if request.method == "PUT" else web.Response(status=401)

    async with metadata_service(handler) as url:
        with pytest.raises(UnavailableError, match="not answered with a token"):
            await provision._fetch_from_metadata(url)


async def test_more_than_user_data_can_be_is_not_read() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        endless = web.StreamResponse()
        await endless.prepare(request)
        while True:
            await endless.write(bytes(64 * 1024))

    async with metadata_service(handler) as url:
        with pytest.raises(UnavailableError, match="more than 262144 bytes"):
            await provision._fetch_from_metadata(url)


async def test_a_chunked_answer(tmp_path: Path) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        for start in range(0, len(USER_DATA), 10):
            await answer.write(USER_DATA[start : start + 10])
        return answer

    async with metadata_service(handler) as url:
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path)["apf.json"] == CONFIG


async def test_half_an_answer_is_not_taken(tmp_path: Path) -> None:
    """A cut literal block would be valid YAML, and half a config."""
    whole = f"HTTP/1.1 200 OK\r\nContent-Length: {len(USER_DATA)}\r\n\r\n".encode() + USER_DATA
    answers = [whole[:-5], whole[:20], b"", b"nonsense\r\n\r\n", whole]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=f"http://{host}:{port}"))
    assert not answers
    assert written(tmp_path)["daemon.json"] == CONFIG


async def test_a_service_that_does_not_answer_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provision, "_ATTEMPT", 0.1)
    silent = True

    async def handler(_request: web.Request) -> web.Response:
        nonlocal silent
        if silent:
            silent = False
            await asyncio.Event().wait()
        return web.Response(body=USER_DATA)

    async with metadata_service(handler) as url:
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path)["apf.json"] == CONFIG


async def test_cancelled_while_the_service_is_silent(tmp_path: Path) -> None:
    asked, hung_up = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        assert await reader.read() == b""
        writer.close()
        hung_up.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        options = ProvisionOptions(root=tmp_path, metadata_url=f"http://{host}:{port}")
        task = asyncio.create_task(provision_files(options))
        await asked.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await hung_up.wait()
    assert written(tmp_path) == {}


async def test_the_deadline_says_what_was_seen_last(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    url = await metadata(404)
    with pytest.raises(DeadlineExceededError, match=rf"user data after 1 s; .*GET {url}.* HTTP 404"):
        await provision_files(ProvisionOptions(timeout=1, root=tmp_path, metadata_url=url))
    assert written(tmp_path) == {}


async def test_a_service_that_is_not_up_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nobody: str
) -> None:
    """A VM asks before its network is up."""
    fetch = provision._fetch_from_metadata
    async with metadata_service(lambda _request: asyncio.sleep(0, web.Response(body=USER_DATA))) as url:
        urls = [nobody, "http://[::1]:9", url]
        monkeypatch.setattr(provision, "_fetch_from_metadata", lambda _base: fetch(urls.pop(0)))
        await provision_files(ProvisionOptions(root=tmp_path))
    assert written(tmp_path)["apf.json"] == CONFIG


async def test_the_file_goes_before_the_service(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    file = tmp_path / "media/cidata/user-data"
    file.parent.mkdir(parents=True)
    file.write_bytes(build_user_data("from the file"))
    url = await metadata(build_user_data("from the service"))
    await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path)["apf.json"] == "from the file"


async def test_a_file_that_appears_late(tmp_path: Path) -> None:
    file = tmp_path / "media/cidata/user-data"
    file.parent.mkdir(parents=True)

    async def handler(_request: web.Request) -> web.Response:
        file.write_bytes(USER_DATA)
        return web.Response(status=404)

    async with metadata_service(handler) as url:
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=url))
    assert written(tmp_path)["apf.json"] == CONFIG


async def test_a_second_run_replaces_what_is_there(tmp_path: Path, nobody: str) -> None:
    file = tmp_path / "media/cidata/user-data"
    file.parent.mkdir(parents=True)
    for text in ("first", "second"):
        file.write_bytes(build_user_data(text))
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=nobody))
        assert written(tmp_path)["apf.json"] == text


async def test_a_write_that_fails_leaves_nothing_half_made(
    tmp_path: Path, metadata: Callable[..., Awaitable[str]]
) -> None:
    in_the_way = tmp_path / "run/peerpod/apf.json"
    in_the_way.mkdir(parents=True)
    with pytest.raises(OSError, match=r"apf\.json"):
        await provision_files(ProvisionOptions(root=tmp_path, metadata_url=await metadata(USER_DATA)))
    assert list(in_the_way.parent.iterdir()) == [in_the_way]
