"""A part of a list, and where the next one begins."""

from collections.abc import Sequence
from typing import Any, TypeVar

from caa.fakecloud.parameters import Parameters

T = TypeVar("T")

MAX_PAGE = 100


def page(
    parameters: Parameters, items: Sequence[T], *, default: int = 10, largest: int = MAX_PAGE
) -> tuple[Sequence[T], dict[str, Any]]:
    """The wanted part, and the answer's fields that go with it: by MaxResults and NextToken if one of them
    is sent, else by PageNumber and PageSize.
    """
    if "MaxResults" in parameters.values or "NextToken" in parameters.values:
        part, answer = token_page(parameters, items, default=default, largest=largest)
        return part, answer | {"TotalCount": len(items)}
    return number_page(parameters, items, default=default, largest=largest)


def number_page(
    parameters: Parameters, items: Sequence[T], *, default: int = 10, largest: int = MAX_PAGE
) -> tuple[Sequence[T], dict[str, Any]]:
    """By PageNumber and PageSize."""
    size = parameters.integer("PageSize", default, low=1, high=largest)
    number = parameters.integer("PageNumber", 1, low=1, high=10**6)
    start = (number - 1) * size
    answer = {"TotalCount": len(items), "PageNumber": number, "PageSize": size}
    return items[start : start + size], answer


def token_page(
    parameters: Parameters, items: Sequence[T], *, default: int = 10, largest: int = MAX_PAGE
) -> tuple[Sequence[T], dict[str, Any]]:
    """By MaxResults and NextToken. The token is empty on the last page."""
    size = parameters.integer("MaxResults", default, low=1, high=largest)
    start = parameters.integer("NextToken", 0, low=0, high=10**9)
    end = start + size
    return items[start:end], {"NextToken": str(end) if end < len(items) else ""}
