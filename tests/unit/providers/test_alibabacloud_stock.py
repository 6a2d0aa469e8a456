from caa.providers.alibabacloud.holding import Place
from caa.providers.alibabacloud.stock import REMEMBERED, Stock

BIG_1, SMALL_1, BIG_2, SMALL_2 = PLACES = [
    Place(instance_type, vswitch) for vswitch in ("vsw-1", "vsw-2") for instance_type in ("big", "small")
]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_places_are_tried_in_their_order() -> None:
    assert Stock().in_turn(PLACES) == PLACES


def test_one_without_stock_is_tried_last_for_a_while() -> None:
    clock = Clock()
    stock = Stock(clock)
    stock.ran_out(BIG_1, "NoStock", whole_vswitch=False)
    assert stock.in_turn(PLACES) == [SMALL_1, BIG_2, SMALL_2, BIG_1]
    assert stock.wall(BIG_1) == "NoStock"
    clock.now = REMEMBERED
    assert stock.in_turn(PLACES) == PLACES


def test_a_full_vswitch_is_so_for_every_type() -> None:
    stock = Stock()
    stock.ran_out(BIG_1, "full", whole_vswitch=True)
    assert stock.in_turn(PLACES) == [BIG_2, SMALL_2, BIG_1, SMALL_1]
    assert stock.wall(SMALL_1) == "full"


def test_all_are_tried_though_none_had_stock() -> None:
    stock = Stock()
    for place in PLACES:
        stock.ran_out(place, "NoStock", whole_vswitch=False)
    assert stock.in_turn(PLACES) == PLACES


def test_what_is_found_again_is_no_wall_any_more() -> None:
    stock = Stock()
    stock.ran_out(BIG_1, "full", whole_vswitch=True)
    stock.ran_out(BIG_1, "NoStock", whole_vswitch=False)
    stock.found(BIG_1)
    assert not stock.wall(BIG_1)
    assert not stock.wall(SMALL_1)
