import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import InvalidArgumentError
from caa.providers.alibabacloud.sizes import SIZES
from caa.providers.instance_types import Demand, Size, fitting

sizes = st.builds(
    Size, gpus=st.integers(0, 8), memory_mib=st.integers(512, 1 << 20), vcpus=st.integers(1, 256)
)
tables = st.dictionaries(st.from_regex(r"ecs\.[a-z]{1,3}", fullmatch=True), sizes, min_size=1, max_size=6)
demands = st.builds(
    Demand, vcpus=st.integers(0, 256), memory_mib=st.integers(0, 1 << 20), gpus=st.integers(0, 8)
)


@given(tables, demands)
def test_the_choice_meets_the_demand_and_nothing_smaller_does(table: dict[str, Size], demand: Demand) -> None:
    candidates = tuple(table)
    enough = {name for name in candidates if demand.met_by(table[name])}
    if not enough and not demand.is_least:
        with pytest.raises(InvalidArgumentError) as caught:
            fitting(candidates, table, demand, default=candidates[0])
        assert all(word in str(caught.value) for word in (str(demand), *candidates))
        return
    first, *others = fitting(candidates, table, demand, default=candidates[0])
    if demand == Demand() or not enough:
        assert first == candidates[0]
    else:
        others.insert(0, first)
    assert set(others) | {first} == enough | {first}
    assert [table[name] for name in others] == sorted(table[name] for name in others)


@given(tables, st.integers(0, 1), st.integers(0, 2048))
def test_what_the_shim_asks_for_on_its_own_never_fails(
    table: dict[str, Size], vcpus: int, memory: int
) -> None:
    candidates = tuple(table)
    assert fitting(candidates, table, Demand(vcpus, memory), default=candidates[-1])[0] in candidates


@given(tables, demands)
def test_types_with_gpus_are_for_those_who_ask(table: dict[str, Size], demand: Demand) -> None:
    plain = Demand(demand.vcpus, demand.memory_mib)
    for size in table.values():
        assert not (plain.met_by(size) and size.gpus)


def test_order_is_gpus_then_memory_then_vcpus() -> None:
    table = {
        "two-gpus": Size(gpus=2, memory_mib=8, vcpus=1),
        "more-memory": Size(gpus=1, memory_mib=16, vcpus=2),
        "more-vcpus": Size(gpus=1, memory_mib=8, vcpus=8),
        "least": Size(gpus=1, memory_mib=8, vcpus=4),
    }
    turns = fitting(list(table), table, Demand(gpus=1), default="two-gpus")
    assert turns == ("least", "more-vcpus", "more-memory", "two-gpus")


def test_a_type_asked_for_by_name_must_be_a_candidate() -> None:
    table = {"ecs.a": Size(0, 1024, 1), "ecs.b": Size(0, 2048, 2)}
    assert fitting(("ecs.a", "ecs.b"), table, Demand(64), default="ecs.a", named="ecs.b") == ("ecs.b",)
    with pytest.raises(InvalidArgumentError, match=r"ecs\.c, which is not one of ecs\.a, ecs\.b"):
        fitting(("ecs.a", "ecs.b"), table, Demand(), default="ecs.a", named="ecs.c")


def test_without_a_demand_the_default_is_taken_even_if_it_is_not_the_smallest() -> None:
    table = {"small": Size(0, 1024, 1), "large": Size(0, 2048, 2)}
    assert fitting(("small", "large"), table, Demand(), default="large") == ("large", "small")


def test_a_type_of_unknown_size_is_better_than_none() -> None:
    table = {"small": Size(0, 4096, 2)}
    assert fitting(("new", "small"), table, Demand(2, 4096), default="new") == ("small", "new")
    assert fitting(("new", "small"), table, Demand(64, 4096), default="small") == ("new",)


def test_the_table_of_sizes() -> None:
    assert SIZES["ecs.g8i.xlarge"] == Size(gpus=0, memory_mib=16 * 1024, vcpus=4)
    assert SIZES["ecs.c8i.large"] == Size(gpus=0, memory_mib=4 * 1024, vcpus=2)
    assert SIZES["ecs.r7.16xlarge"] == Size(gpus=0, memory_mib=512 * 1024, vcpus=64)
    assert SIZES["ecs.gn8is-2x.8xlarge"] == Size(gpus=2, memory_mib=256 * 1024, vcpus=32)
    assert all(size.vcpus > 0 and size.memory_mib > 0 for size in SIZES.values())
