"""Each cause is told once, and once more when it is over."""

from structlog.testing import capture_logs

from caa.kubernetes import Complaints


def test_told_once_until_it_is_over() -> None:
    now = 1000.0
    complaints = Complaints(lambda: now)
    with capture_logs() as told:
        complaints.over("a", "a is well")
        complaints.about("a", "a is ill", error="first")
        complaints.about("a", "a is ill", error="second")
        complaints.about("b", "b is ill")
        complaints.over("a", "a is well")
        complaints.over("a", "a is well")
        now += 60
        complaints.about("a", "a is ill", error="third")
    assert [(line["log_level"], line["event"], line.get("error")) for line in told] == [
        ("warning", "a is ill", "first"),
        ("warning", "b is ill", None),
        ("info", "a is well", None),
        ("warning", "a is ill", "third"),
    ]


def test_what_comes_and_goes_is_told_once_a_minute() -> None:
    now = 1000.0
    complaints = Complaints(lambda: now)
    with capture_logs() as told:
        for _ in range(121):
            complaints.about("a", "a is ill")
            complaints.over("a", "a is well")
            now += 1
    assert [line["event"] for line in told] == ["a is ill", "a is well"] * 3


def test_memory_is_bounded() -> None:
    complaints = Complaints()
    with capture_logs() as told:
        for number in range(3000):
            complaints.about(f"cause {number}", "ill")
        complaints.about("cause 2999", "ill")
    assert len(told) == 3000
    assert len(complaints._present) <= 1000
    assert len(complaints._told) <= 1000
