from hypothesis import given
from hypothesis import strategies as st

from caa.fakecloud.paging import number_page, page, token_page
from caa.fakecloud.parameters import Parameters

items = st.lists(st.integers(), max_size=30)
size = st.integers(1, 10)


@given(items, size)
def test_tokens_lead_through_all(items: list[int], size: int) -> None:
    found: list[int] = []
    token = ""
    while True:
        part, answer = token_page(Parameters({"MaxResults": str(size), "NextToken": token}), items)
        assert len(part) <= size
        found += part
        token = answer["NextToken"]
        if not token:
            break
    assert found == items


@given(items, size)
def test_numbers_lead_through_all(items: list[int], size: int) -> None:
    pages = [
        number_page(Parameters({"PageSize": str(size), "PageNumber": str(number)}), items)[0]
        for number in range(1, len(items) // size + 2)
    ]
    assert [item for part in pages for item in part] == items


def test_a_token_or_a_size_of_its_own_asks_for_tokens() -> None:
    items = range(30)
    part, answer = page(Parameters({}), items)
    assert (list(part), answer) == (
        list(range(10)),
        {"TotalCount": 30, "PageNumber": 1, "PageSize": 10},
    )
    part, answer = page(Parameters({"NextToken": "20"}), items)
    assert (list(part), answer) == (list(range(20, 30)), {"TotalCount": 30, "NextToken": ""})
