import ast
import asyncio
import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from caa import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NODE_NAME", raising=False)
    before, handlers = structlog.get_config(), list(logging.getLogger().handlers)
    yield
    structlog.contextvars.clear_contextvars()
    structlog.configure(**before)
    logging.getLogger().handlers = handlers
    logging.captureWarnings(False)
    logs.set_level("info")


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_values(form: str, stream: io.StringIO) -> None:
    logs.configure("info", form, stream)
    log = structlog.get_logger()
    secret = "s3cr" + "3t"  # noqa: F841  a local variable, which rich would show
    try:
        _ = 1 // 0
    except ZeroDivisionError:
        log.exception("a call failed")
    assert "ZeroDivisionError" in stream.getvalue()
    assert "Traceback" in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


def test_the_level_counts(stream: io.StringIO) -> None:
    logs.configure("warning", "json", stream)
    log = structlog.get_logger()
    log.info("quiet")
    log.warning("loud", sandbox="s1")
    assert "quiet" not in stream.getvalue()
    assert '"sandbox": "s1"' in stream.getvalue()


def test_what_a_line_is_about_comes_first_and_under_one_name_each(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    structlog.contextvars.bind_contextvars(sandbox="s1", pod="shop/web", instance="i-1", trace="abc")
    structlog.get_logger().info("cloud call", seconds=1.0, request_id="8F3A")
    [line] = lines(stream)
    assert list(line) == [*logs.FIRST, "seconds", "request_id"]
    assert line["event"] == "cloud call"
    assert (line["namespace"], line["pod"], line["sandbox"]) == ("shop", "web", "s1")


@pytest.mark.parametrize(
    ("form", "stream_", "node", "is_json"),
    [
        ("", Terminal(), "", False),
        ("", Terminal(), "cn-beijing.10.0.0.7", True),
        ("", io.StringIO(), "", True),
        ("console", io.StringIO(), "cn-beijing.10.0.0.7", False),
        ("json", Terminal(), "", True),
    ],
    ids=["terminal", "terminal of a cluster's node", "file", "asked for console", "asked for json"],
)
def test_the_form_follows_from_the_place(
    form: str, stream_: io.StringIO, node: str, is_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_NAME", node)
    logs.configure("info", form, stream_)
    structlog.get_logger().info("hello")
    assert stream_.getvalue().startswith("{") == is_json


class TestLibraries:
    def test_their_lines_have_the_same_form_and_names(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        structlog.contextvars.bind_contextvars(sandbox="s1", pod="shop/web")
        logging.getLogger("urllib3.connectionpool").warning("Connection pool is full: %s", "host")
        [line] = lines(stream)
        assert line["event"] == "Connection pool is full: host"
        assert line["level"] == "warning"
        assert line["logger"] == "urllib3.connectionpool"
        assert (line["namespace"], line["pod"], line["sandbox"]) == ("shop", "web", "s1")

    def test_they_never_go_below_warnings(self, stream: io.StringIO) -> None:
        """The SDK logs whole requests at debug."""
        logs.configure("debug", "json", stream)
        logging.getLogger("darabonba").info("POST / AccessKeyId=LTAI")
        assert stream.getvalue() == ""

    def test_they_follow_a_higher_level(self, stream: io.StringIO) -> None:
        logs.configure("error", "json", stream)
        logging.getLogger("urllib3").warning("quiet")
        assert stream.getvalue() == ""

    async def test_a_task_that_failed_unseen(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        loop = asyncio.get_running_loop()
        loop.call_exception_handler(
            {"message": "Task exception was never retrieved", "exception": OSError(5, "disk")}
        )
        [line] = lines(stream)
        assert line["logger"] == "asyncio"
        assert "disk" in line["exception"]

    def test_a_warning(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            logging.captureWarnings(True)
            warnings.warn("this will go", DeprecationWarning, stacklevel=1)
            logging.captureWarnings(False)
        [line] = lines(stream)
        assert "this will go" in line["event"]

    def test_configuring_anew_does_not_double_them(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        logs.configure("info", "json", stream)
        logging.getLogger("urllib3").warning("once")
        assert len(lines(stream)) == 1

    @pytest.mark.parametrize(
        "text",
        [
            "GET https://me:hunter2@proxy.example/",
            "retrying /?SecurityToken=hunter2&Action=AssumeRole",
            "headers: {'x-acs-security-token': 'hunter2', 'host': 'ecs'}",
            "Authorization: Bearer hunter2 and more",
            '{"AccessKeySecret": "hunter2"}',
            "-----BEGIN EC PRIVATE KEY-----\nhunter2\n-----END EC PRIVATE KEY-----",
        ],
    )
    def test_their_secrets_do_not_show(self, text: str, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        log = logging.getLogger("some.library")
        log.error("failed: %s", text)
        log.error("failed", exc_info=ValueError(text))
        told, raised = lines(stream)
        assert told["event"].startswith("failed: ")
        assert "hunter2" not in told["event"]
        assert "ValueError" in raised["exception"]
        assert "hunter2" not in raised["exception"]

    def test_a_text_without_end_is_cut(self, stream: io.StringIO) -> None:
        logs.configure("info", "json", stream)
        logging.getLogger("some.library").error("x" * 1_000_000)
        assert len(stream.getvalue()) < 10_000


def test_a_secret_in_the_text_of_our_own_exception_does_not_show(stream: io.StringIO) -> None:
    logs.configure("info", "json", stream)
    failure = OSError(5, "token=hunter2")
    structlog.get_logger().error("a call failed", error="kept as it is: token=1", exc_info=failure)
    [line] = lines(stream)
    assert "hunter2" not in line["exception"]
    assert line["error"] == "kept as it is: token=1"


@pytest.mark.parametrize(
    ("given", "levels"),
    [("info", ["debug", "info", "debug"]), ("error", ["debug", "error"]), ("debug", ["info", "debug"])],
)
def test_hanging_up_goes_to_debug_and_back(given: str, levels: list[str], stream: io.StringIO) -> None:
    logs.configure(given, "json", stream)
    log = structlog.get_logger()
    for level in levels:
        logs.toggle_debug()
        log.debug("shown", at=level)
    shown = [line["at"] for line in lines(stream) if line["event"] == "shown"]
    assert shown == [level for level in levels if level == "debug"]
    told = [(line["to"], line["by"]) for line in lines(stream) if line["event"] == "log level changed"]
    assert told == [(level, "SIGHUP") for level in levels]


OTHER_NAMES = (
    "sandbox_id",
    "instance_id",
    "pod_name",
    "pod_namespace",
    "requestid",
    "trace_id",
    "duration",
    "err",
)


def test_each_thing_has_one_name_in_all_lines() -> None:
    package = Path(logs.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        if "fakecloud" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and re.search(r"log\.[a-z]+$", ast.unparse(node.func)):
                given = [keyword.arg for keyword in node.keywords if keyword.arg in OTHER_NAMES]
                found += [f"{path.name}:{node.lineno}: {name}" for name in given]
    assert found == []
