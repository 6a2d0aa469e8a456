import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud.errors import ApiError
from caa.fakecloud.parameters import Parameters


@given(st.lists(st.text(min_size=1), max_size=30))
def test_a_list_keeps_its_order(items: list[str]) -> None:
    values = {f"Ids.{n}": item for n, item in enumerate(items, 1)}
    assert Parameters(dict(sorted(values.items()))).texts("Ids") == items


def test_objects() -> None:
    values = {"Tag.10.Key": "j", "Tag.2.Key": "b", "Tag.2.Value": "v", "TagX.1.Key": "x", "Tag.0.Key": "no"}
    assert list(Parameters(values).objects("Tag")) == [{"Key": "b", "Value": "v"}, {"Key": "j"}]


def test_an_absurd_index_is_refused() -> None:
    with pytest.raises(ApiError, match="InvalidParameter"):
        Parameters({"Ids.9999": "x"}).texts("Ids")


def test_booleans_and_numbers() -> None:
    parameters = Parameters({"Yes": "true", "Odd": "maybe", "Empty": ""})
    assert parameters.boolean("Yes")
    assert not parameters.boolean("Empty")
    assert parameters.integer("Empty", 7, low=0, high=9) == 7
    with pytest.raises(ApiError):
        parameters.boolean("Odd")
    with pytest.raises(ApiError):
        parameters.integer("Odd", 7, low=0, high=9)


def test_what_is_not_said_has_a_default() -> None:
    parameters = Parameters({"No": "false"})
    assert not parameters.boolean("No", default=True)
    assert parameters.boolean("Unsaid", default=True)


def test_lists_as_json() -> None:
    parameters = Parameters({"Ids": '["a", "b"]', "None": "[]", "Odd": "[1]", "Text": '"a"', "No": "a"})
    assert (parameters.json_list("Ids"), parameters.json_list("None")) == (["a", "b"], [])
    assert parameters.json_list("Unsaid") is None
    for name in ("Odd", "Text", "No"):
        with pytest.raises(ApiError, match=rf"Invalid{name}\.Malformed"):
            parameters.json_list(name)


def test_names_with_stars() -> None:
    parameters = Parameters({"Name": "podvm-*.1", "Plain": "podvm"})
    assert parameters.name_pattern("Name").fullmatch("podvm-x.1")
    assert not parameters.name_pattern("Name").fullmatch("podvm-x-1")
    assert not parameters.name_pattern("Plain").fullmatch("podvm-1")
    assert parameters.name_pattern("Unsaid").fullmatch("anything")
