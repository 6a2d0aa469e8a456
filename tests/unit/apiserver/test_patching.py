from copy import deepcopy
from typing import Any

import pytest
from apiserver.errors import StatusError
from apiserver.patches import json_patch, merge_patch, strategic_merge_patch
from hypothesis import given
from hypothesis import strategies as st

NODE = {
    "status": {"capacity": {"cpu": "4"}},
    "metadata": {"annotations": {"a/b": "1"}, "finalizers": ["x", "y"]},
}
OWNER = "/metadata/annotations/a~1b"


@pytest.mark.parametrize(
    ("operations", "path", "found"),
    [
        (
            [{"op": "add", "path": "/status/capacity/kata~1vm", "value": "10"}],
            "status.capacity.kata/vm",
            "10",
        ),
        (
            [{"op": "add", "path": "/metadata/finalizers/-", "value": "z"}],
            "metadata.finalizers",
            ["x", "y", "z"],
        ),
        (
            [{"op": "add", "path": "/metadata/finalizers/0", "value": "w"}],
            "metadata.finalizers",
            ["w", "x", "y"],
        ),
        ([{"op": "remove", "path": "/metadata/finalizers/-1"}], "metadata.finalizers", ["x"]),
        ([{"op": "replace", "path": "/status/capacity/gpu", "value": "1"}], "status.capacity.gpu", "1"),
        ([{"op": "move", "from": "/status/capacity/cpu", "path": "/status/cpu"}], "status.cpu", "4"),
        ([{"op": "copy", "from": "/status/capacity", "path": "/status/was"}], "status.was", {"cpu": "4"}),
        ([{"op": "test", "path": "/status/none", "value": None}], "status.none", None),
        (
            [{"op": "test", "path": OWNER, "value": "1"}, {"op": "remove", "path": OWNER}],
            "metadata.annotations",
            {},
        ),
    ],
)
def test_json_patch(operations: list[Any], path: str, found: Any) -> None:
    value: Any = json_patch(deepcopy(NODE), operations)
    for name in path.split("."):
        value = value.get(name)
    assert value == found


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": OWNER, "value": "2"},
        {"op": "test", "path": "/metadata/none/deep", "value": None},
        {"op": "remove", "path": "/status/capacity/kata~1vm"},
        {"op": "add", "path": "/status/none/deep", "value": 1},
        {"op": "add", "path": "/metadata/finalizers/3", "value": "z"},
        {"op": "add", "path": "/metadata/finalizers/first", "value": "z"},
        {"op": "replace", "path": "/metadata/finalizers/2", "value": "z"},
        {"op": "move", "from": "/status/none", "path": "/status/cpu"},
        {"op": "add", "path": "status", "value": 1},
        {"op": "append", "path": "/status", "value": 1},
    ],
)
def test_json_patch_that_does_not_apply(operation: Any) -> None:
    with pytest.raises(StatusError) as refused:
        json_patch(deepcopy(NODE), [operation])
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    assert refused.value.message == "the server rejected our request due to an error in our request"


def test_json_that_is_no_patch() -> None:
    for patch in ({"op": "add"}, ["add"], "add"):
        with pytest.raises(StatusError, match="400 BadRequest"):
            json_patch({}, patch)
    for merge in (merge_patch, strategic_merge_patch):
        with pytest.raises(StatusError, match="400 BadRequest"):
            merge({}, [])


def test_test_tells_json_types_apart() -> None:
    for value in (True, 1.0, "1"):
        with pytest.raises(StatusError):
            json_patch({"one": 1}, [{"op": "test", "path": "/one", "value": value}])


# Appendix A of RFC 7386.
@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(document: Any, patch: Any, result: Any) -> None:
    assert merge_patch(document, patch) == result


_JSON = st.recursive(
    st.none() | st.integers(0, 2) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from("abc"), _JSON), st.dictionaries(st.sampled_from("abc"), _JSON))
def test_a_merge_patch_has_no_second_effect(document: Any, patch: Any) -> None:
    once = merge_patch(deepcopy(document), patch)
    assert merge_patch(deepcopy(once), patch) == once


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"finalizers": ["a"]}, {"finalizers": ["b", "a"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        ({"finalizers": ["a"]}, {"finalizers": None}, {}),
        ({"taints": [{"key": "a"}]}, {"taints": [{"key": "b"}]}, {"taints": [{"key": "b"}]}),
        (
            {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]},
            {"conditions": [{"type": "Ready", "status": "False"}]},
            {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other"}]},
        ),
        (
            {"ownerReferences": [{"uid": "1"}, {"uid": "2"}]},
            {"ownerReferences": [{"$patch": "delete", "uid": "1"}]},
            {"ownerReferences": [{"uid": "2"}]},
        ),
        (
            {"containers": [{"name": "a"}]},
            {"containers": [{"$patch": "replace"}, {"name": "b"}]},
            {"containers": [{"name": "b"}]},
        ),
        ({"labels": {"a": "1"}}, {"labels": {"$patch": "replace", "b": "2"}}, {"labels": {"b": "2"}}),
    ],
)
def test_strategic_merge_patch(document: Any, patch: Any, result: Any) -> None:
    assert strategic_merge_patch(document, patch) == result


def test_strategic_merge_patch_without_the_key_of_its_list() -> None:
    with pytest.raises(StatusError, match="does not contain declared merge key: type"):
        strategic_merge_patch({}, {"conditions": [{"status": "True"}]})
