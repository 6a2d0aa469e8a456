import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from caa.providers import Holding
from caa.providers.alibabacloud.holding import Held, Kind, Order, Place, Resource

requests = st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.lists(st.integers()), max_size=3)
orders = st.builds(
    Order,
    request=requests,
    token=st.text(),
    places=st.lists(st.builds(Place, st.text(), st.text())).map(tuple),
    interface=st.none() | requests,
    eip=st.none() | requests,
)
resources = st.builds(Resource, request=st.none() | requests, id=st.text(), vswitch=st.text())


class Kept:
    def __init__(self) -> None:
        self.holdings: list[Holding] = [{}]

    async def __call__(self, holding: Holding) -> None:
        self.holdings.append(json.loads(json.dumps(holding)))


async def nowhere(_holding: Holding) -> None:
    raise AssertionError


def same(one: Held, other: Held) -> bool:
    kinds: tuple[Kind, ...] = ("instance", "eni", "eip")
    return (one.order, one.seen) == (other.order, other.seen) and all(one[k] == other[k] for k in kinds)


@given(
    st.none() | orders,
    st.dictionaries(st.sampled_from(["instance", "eni", "eip"]), resources),
    st.booleans(),
)
def test_a_holding_is_what_was_kept(
    order: Order | None, held_resources: Mapping[Any, Resource], seen: bool
) -> None:
    held = Held({}, nowhere)
    held.order, held._resources, held.seen = order, dict(held_resources), seen
    assert same(Held(json.loads(json.dumps(held.to_json())), nowhere), held)


async def test_every_change_is_kept_at_once() -> None:
    kept = Kept()
    held = Held({}, kept)
    await held.set("eni", Resource({"ClientToken": "t"}, vswitch="vsw-1"))
    assert same(Held(kept.holdings[-1], nowhere), held)
    await held.set("eni", Resource(id="eni-1", vswitch="vsw-1"))
    await held.launched("i-1")
    await held.found()
    again = Held(kept.holdings[-1], nowhere)
    assert (again["eni"], again["instance"]) == (Resource(id="eni-1", vswitch="vsw-1"), Resource(id="i-1"))
    assert again.seen
    await held.set("eni", None)
    assert Held(kept.holdings[-1], nowhere)["eni"] is None
    assert len(kept.holdings) == 6
