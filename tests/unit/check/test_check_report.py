import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.check import Table, as_json, exit_status
from caa.checking import Finding, Result, Verdict, failed, ok, skipped, warning

RESULTS = [
    Result("Rights", "ecs:RunInstances", ok("creates the pod VM")),
    Result("Rights", "ecs:DescribeInstances", warning("not granted: no gc", "grant it")),
    Result("Rights", "ecs:DescribeImages", warning("not granted: no look", "grant it")),
    *(Result("Rights", name, skipped("not needed")) for name in ("vpc:A", "vpc:B", "vpc:C")),
    Result("Folders", "state folder", failed("/var/lib/caa: Permission denied", "make it writable")),
]


def printed(results: list[Result], encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding)
    Table(stream).print(results)
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_table() -> None:
    assert printed(RESULTS) == (
        "Rights\n"
        "  ✓ ecs:RunInstances       creates the pod VM\n"
        "  ! ecs:DescribeInstances  not granted: no gc\n"
        "  ! ecs:DescribeImages     not granted: no look\n"
        "      => grant it\n"
        "  · not needed: vpc:A, vpc:B, vpc:C\n"
        "\n"
        "Folders\n"
        "  ✗ state folder  /var/lib/caa: Permission denied\n"
        "      => make it writable\n"
        "\n"
        "This node is not ready: 1 fine, 2 warnings, 3 skipped, 1 failed.\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_characters_that_the_stream_lacks(encoding: str) -> None:
    told = printed(RESULTS, encoding)
    assert "  + ecs:RunInstances " in told
    assert "  x state folder " in told


texts = st.text(max_size=200)
findings = st.builds(Finding, st.sampled_from(Verdict), texts, texts)
results = st.lists(st.builds(Result, st.sampled_from("ab"), st.sampled_from(["c", "d" * 29]), findings))


@given(results)
def test_it_fits_the_screen(results: list[Result]) -> None:
    told = printed(results)
    assert max(map(len, told.split("\n"))) <= 80
    assert told.endswith(".\n")


@given(results)
def test_json(results: list[Result]) -> None:
    told = json.loads(as_json(results))
    assert told["ok"] is (exit_status(results) == 0)
    assert sum(told["counts"].values()) == len(results) == len(told["checks"])


def test_exit_status() -> None:
    assert exit_status(RESULTS) == 1
    assert exit_status(RESULTS[:-1]) == 0
    assert "This node is ready: 1 fine" in printed(RESULTS[:-1])
