"""The parameters of one call, as RPC-style requests carry them.

A list's items are `Name.1`, `Name.2`; an object's fields `Name.Field`; a list of objects has `Name.1.Field`.
"""

import json
import re
from collections.abc import Iterator, Mapping

from caa.fakecloud.errors import ApiError, invalid, missing

LARGEST_INDEX = 1000
LONGEST_JSON_LIST = 100


class Parameters:
    """Typed reading of a flat mapping. All methods raise ApiError for what the real API refuses."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = dict(values)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name) or default

    def required(self, name: str) -> str:
        value = self.values.get(name)
        if not value:
            raise missing(name)
        return value

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        text = self.values.get(name)
        if not text:
            return default
        if not re.fullmatch(r"-?\d{1,12}", text) or not low <= int(text) <= high:
            raise invalid(name, f"It must be a whole number from {low} to {high}.")
        return int(text)

    def boolean(self, name: str, *, default: bool = False) -> bool:
        match self.values.get(name, "").lower():
            case "":
                return default
            case "false":
                return False
            case "true":
                return True
        raise invalid(name, "It must be true or false.")

    def json_list(self, name: str) -> list[str] | None:
        """A list that is written as JSON, of no more than 100 texts; None if it is not given."""
        text = self.values.get(name)
        if not text:
            return None
        try:
            values = json.loads(text)
        except ValueError:
            values = None
        if (
            not isinstance(values, list)
            or len(values) > LONGEST_JSON_LIST
            or not all(isinstance(value, str) for value in values)
        ):
            raise ApiError(400, f"Invalid{name}.Malformed", f"The specified {name} are not valid.")
        return values

    def name_pattern(self, name: str) -> re.Pattern[str]:
        """A name in which * stands for anything; of no name, the pattern of every one."""
        return re.compile(".*".join(map(re.escape, self.text(name, "*").split("*"))))

    def texts(self, name: str) -> list[str]:
        """`name.1`, `name.2`, … in order of their numbers."""
        return [self.values[f"{name}.{index}"] for index in self._indexes(name, r"")]

    def objects(self, name: str) -> Iterator[dict[str, str]]:
        """The fields of `name.1.*`, `name.2.*`, … in order of their numbers."""
        for index in self._indexes(name, r"\..+"):
            prefix = f"{name}.{index}."
            yield {
                key.removeprefix(prefix): self.values[key] for key in self.values if key.startswith(prefix)
            }

    def accept(self, *patterns: str) -> None:
        """Refuse every parameter that no pattern (`Name`, `List.*`) covers. The real API ignores what it
        does not know; here an ignored parameter would be a promise that is silently not kept.
        """
        for name in self.values:
            if not any(name == p or (p.endswith(".*") and name.startswith(p[:-1])) for p in patterns):
                raise ApiError(400, "UnsupportedParameter", f"The parameter {name} is not supported.")

    def _indexes(self, name: str, rest: str) -> list[int]:
        found = re.compile(rf"{re.escape(name)}\.([1-9]\d{{0,3}}){rest}")
        matches = (found.fullmatch(key) for key in self.values)
        indexes = sorted({int(match[1]) for match in matches if match})
        if indexes and indexes[-1] > LARGEST_INDEX:
            raise invalid(name)
        return indexes
