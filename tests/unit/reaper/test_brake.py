from caa.reaper.brake import Brake


def test_a_share_of_all_is_too_much() -> None:
    brake = Brake(per_minute=100, share=0.5, always=10)
    assert brake.holds(50, 100, 0.0) == ""
    assert "51 of 100" in brake.holds(51, 100, 0.0)


def test_a_small_cluster_may_lose_all() -> None:
    assert Brake(per_minute=100, share=0.5, always=10).holds(10, 10, 0.0) == ""


def test_what_has_gone_within_the_hour_counts() -> None:
    brake = Brake(per_minute=100, share=0.5, always=1)
    assert all(brake.take(0.0) for _ in range(40))
    assert brake.holds(10, 60, 1800.0) == ""
    assert brake.holds(11, 60, 1800.0)
    assert brake.holds(11, 60, 3600.0) == ""


def test_everything_may_be_allowed() -> None:
    assert Brake(per_minute=1, share=1.0, always=10).holds(1000, 1000, 0.0) == ""


def test_so_many_a_minute() -> None:
    brake = Brake(per_minute=2, share=1.0, always=10)
    assert [brake.take(now) for now in (0.0, 1.0, 2.0, 59.0, 60.0, 60.5, 61.5)] == [
        True,
        True,
        False,
        False,
        True,
        False,
        True,
    ]
