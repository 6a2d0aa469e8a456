import re

from hypothesis import example, given
from hypothesis import strategies as st

from caa.podvm import instance_name

SANDBOX = "4ef7f83bbef5404d0db7915191b739ef535d97a17659a87851f3d33a4da3a936"


def test_an_ordinary_pod() -> None:
    assert instance_name("nginx-866fdb5bfb-b98nw", SANDBOX) == "podvm-nginx-866fdb5bfb-b98nw-4ef7f83b"


def test_the_pod_part_is_cut_and_the_id_is_not() -> None:
    assert instance_name("a" * 49, SANDBOX) == f"podvm-{'a' * 48}-4ef7f83b"
    assert instance_name("a" * 48, SANDBOX) == f"podvm-{'a' * 48}-4ef7f83b"


def test_foreign_characters_become_dashes() -> None:
    assert instance_name("Web.Front_End", "ABCDEF0123") == "podvm-web-front-end-abcdef01"


@given(st.text(max_size=300), st.text(max_size=70))
@example("", "")
@example("İ", "4ef7f83b")
def test_always_a_name_that_clouds_and_dns_take(pod: str, sandbox: str) -> None:
    name = instance_name(pod, sandbox)
    assert re.fullmatch(r"podvm-[a-z0-9-]*", name)
    assert len(name) <= 63


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", fullmatch=True))
def test_a_short_pod_name_is_kept_whole(pod: str) -> None:
    assert instance_name(pod, SANDBOX) == f"podvm-{pod}-4ef7f83b"
