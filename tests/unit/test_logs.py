import io
from collections.abc import Iterator

import pytest
import structlog

from caa import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_shows_no_values(form: str) -> None:
    stream = io.StringIO()
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


def test_the_level_counts() -> None:
    stream = io.StringIO()
    logs.configure("warning", "json", stream)
    log = structlog.get_logger()
    log.info("quiet")
    log.warning("loud", sandbox="s1")
    assert "quiet" not in stream.getvalue()
    assert '"sandbox": "s1"' in stream.getvalue()
