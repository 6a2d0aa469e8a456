import pytest

from caa.fakecloud.errors import ApiError
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.tags import TagActions, wanted_tags


def _tags(first: int, last: int) -> dict[str, str]:
    return {f"Tag.{n}.Key": f"k{n}" for n in range(first, last + 1)}


def _resources(*ids: str) -> dict[str, str]:
    return {"ResourceType": "eni"} | {f"ResourceId.{n}": each for n, each in enumerate(ids, 1)}


class TestActions:
    @pytest.fixture
    def books(self) -> dict[str, dict[str, str]]:
        return {"eni-1": {"old": "1"}, "eni-2": {}}

    @pytest.fixture
    def actions(self, books: dict[str, dict[str, str]]) -> TagActions:
        return TagActions({"eni": lambda: books})

    def test_put_on_many_at_once(self, actions: TagActions, books: dict[str, dict[str, str]]) -> None:
        new = {"Tag.1.Key": "new", "Tag.1.Value": "2", "Tag.2.Key": "old", "Tag.2.Value": "3"}
        actions.tag_resources(Parameters(_resources("eni-1", "eni-2") | new))
        assert books == {"eni-1": {"old": "3", "new": "2"}, "eni-2": {"new": "2", "old": "3"}}

    def test_taken_off(self, actions: TagActions, books: dict[str, dict[str, str]]) -> None:
        actions.untag_resources(Parameters(_resources("eni-1")))
        assert books["eni-1"] == {"old": "1"}
        actions.untag_resources(Parameters(_resources("eni-1") | {"TagKey.1": "none", "All": "true"}))
        assert books["eni-1"] == {"old": "1"}
        actions.untag_resources(Parameters(_resources("eni-1") | {"All": "true"}))
        assert books["eni-1"] == {}

    @pytest.mark.parametrize(
        ("parameters", "code"),
        [
            (_resources("eni-1"), "MissingParameter"),
            (_resources() | _tags(1, 1), "MissingParameter"),
            (_resources("eni-1", "eni-none") | _tags(1, 1), "InvalidResourceId.NotFound"),
            (_resources("eni-1") | _tags(1, 21), "NumberExceed.Tags"),
            (_resources("eni-1") | _tags(1, 20), "OperationDenied.QuotaExceed"),
            (_resources(*["eni-1"] * 51) | _tags(1, 1), "NumberExceed.ResourceIds"),
            (_tags(1, 1) | {"ResourceType": "moon"}, "InvalidResourceType.NotFound"),
        ],
    )
    def test_refusals_change_nothing(
        self, actions: TagActions, books: dict[str, dict[str, str]], parameters: dict[str, str], code: str
    ) -> None:
        with pytest.raises(ApiError) as refusal:
            actions.tag_resources(Parameters(parameters))
        assert refusal.value.code == code
        assert books == {"eni-1": {"old": "1"}, "eni-2": {}}


def test_wanted_are_all_that_are_named() -> None:
    wanted = wanted_tags(Parameters({"Tag.1.Key": "a", "Tag.2.Key": "b", "Tag.2.Value": "2"}))
    assert wanted({"a": "anything", "b": "2", "c": ""})
    assert not wanted({"a": "1", "b": "3"})
    assert not wanted({"b": "2"})
    assert wanted_tags(Parameters({}))({})
