"""What is decided before anything is sent: the cut into parts, the names, and how progress is told."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from caa.config import load_cloud
from caa.errors import InvalidArgumentError
from caa.image import Bar, ImportOrder, Lines
from caa.image.bucket import combined, crc64_of
from caa.image.importing import check
from caa.image.upload import MIB, sections

GIB = 2**30


@given(size=st.integers(1, 3000 * GIB))
def test_the_parts_make_up_the_file_and_are_what_oss_takes(size: int) -> None:
    cut = sections(size)
    assert [part.number for part in cut] == list(range(1, len(cut) + 1))
    assert [part.offset for part in cut[1:]] == [part.offset + part.size for part in cut[:-1]]
    assert cut[-1].offset + cut[-1].size == size
    assert len(cut) <= 10_000
    assert all(MIB <= part.size <= 5 * GIB for part in cut[:-1])
    assert {part.size for part in cut[:-1]} <= {cut[0].size}


@given(pieces=st.lists(st.binary(max_size=50), max_size=6))
def test_the_sum_of_the_whole_follows_from_the_sums_of_its_pieces(pieces: list[bytes]) -> None:
    whole = crc64_of(iter([b"".join(pieces)]))
    assert combined([(crc64_of(iter([piece])), len(piece)) for piece in pieces]) == whole


def test_the_crc_is_the_one_of_ecma_182() -> None:
    assert crc64_of(iter([b"123456789"])) == 0x995DC9BBDF1939FA


def test_names_come_from_the_file() -> None:
    order = ImportOrder(file=Path("/tmp/podvm fedora.qcow2"), bucket="images")
    assert (order.key, order.image_name) == ("podvm fedora.qcow2", "podvm-fedora")


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"bucket": "Upper"}, "--bucket"),
        ({"bucket": "no"}, "--bucket"),
        ({"object_name": "/rooted"}, "--object"),
        ({"object_name": "a\nb"}, "--object"),
        ({"name": "1podvm"}, "--name"),
        ({"name": "aliyun-podvm"}, "--name"),
        ({"name": "x" * 129}, "--name"),
        ({"name": "see-https://x"}, "--name"),
    ],
)
def test_names_that_the_cloud_would_refuse_are_refused_here(changes: dict[str, str], option: str) -> None:
    given_: dict[str, str] = {"bucket": "images"}
    with pytest.raises(InvalidArgumentError, match=option):
        check(ImportOrder(file=Path("/nowhere/podvm.qcow2"), **(given_ | changes)))  # type: ignore[arg-type]  # texts only


def test_reaching_the_cloud_takes_few_settings() -> None:
    environment = {"REGION": "cn-hangzhou", "ALIBABACLOUD_ACCESS_KEY_ID": "key", "TAGS": "not pairs"}
    settings = load_cloud({"alibabacloud-secret-access-key": "x"}, environment)
    assert (settings.region, settings.access_key_id) == ("cn-hangzhou", "key")
    assert (settings.image_id, settings.vswitch_ids, dict(settings.tags)) == ("", (), {})


def test_a_bar_leaves_only_what_was_said() -> None:
    out = io.StringIO()
    bar = Bar(Console(file=out, force_terminal=True, width=80))
    bar.step("Uploading", 200, in_bytes=True)
    bar.advance(150)
    bar.advance(-50)
    bar.done()
    bar.say("uploaded: oss://images/podvm.qcow2 [200 bytes]")
    bar.done()
    assert "Uploading" in out.getvalue()
    assert out.getvalue().splitlines()[-1].endswith("uploaded: oss://images/podvm.qcow2 [200 bytes]")


def test_lines_tell_of_a_step_now_and_then() -> None:
    now = 0.0
    out = io.StringIO()
    lines = Lines(out, clock=lambda: now)
    lines.step("Uploading", 200, in_bytes=True)
    lines.advance(50)
    now = 11.0
    lines.advance(50)
    lines.advance(50)
    lines.done()
    assert out.getvalue().splitlines() == ["Uploading …", "Uploading: 50 %"]
