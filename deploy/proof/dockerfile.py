"""Reads a Dockerfile and the .dockerignore beside it: as much of both as ours use, and no more."""

import fnmatch
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_IN_STAGE = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "LABEL", "RUN", "STOPSIGNAL", "USER", "WORKDIR",
}  # fmt: skip
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str
    """All after the name, continuation lines joined, variables as they are written."""

    @property
    def words(self) -> list[str]:
        """Of the exec form (a JSON list), or of a line with quotes as in a shell."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)

    def expanded(self, variables: dict[str, str]) -> "Instruction":
        return Instruction(self.name, expand(self.text, variables))


@dataclass
class Stage:
    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def parse(text: str) -> list[Stage]:
    """The stages, in order. Raises ValueError for what this does not understand."""
    stages: list[Stage] = []
    arguments: dict[str, str] = {}
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            base, *rest = instruction.words
            if rest and (len(rest) != 2 or rest[0].upper() != "AS"):
                raise ValueError(f"FROM {instruction.text}: only FROM image [AS name] is understood")
            stages.append(Stage(expand(base, arguments), rest[1] if rest else ""))
        elif instruction.name == "ARG" and not stages:
            name, _, value = instruction.text.partition("=")
            arguments[name] = value
        elif instruction.name in _IN_STAGE and stages:
            stages[-1].instructions.append(instruction)
        else:
            raise ValueError(f"{instruction.name} {instruction.text}: not understood here")
    if not stages:
        raise ValueError("there is no FROM")
    return stages


def expand(text: str, variables: dict[str, str]) -> str:
    """`text` with $name and ${name} replaced; a name that is not set is nothing."""
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), text)


def _instructions(text: str) -> Iterator[Instruction]:
    pending = ""
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pending += line.rstrip()
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        name, _, rest = pending.strip().partition(" ")
        yield Instruction(name.upper(), rest.strip())
        pending = ""
    if pending:
        raise ValueError(f"the last instruction has no end: {pending}")


class Ignore:
    """A .dockerignore. Of the patterns that match a path or a folder above it the last decides."""

    def __init__(self, text: str) -> None:
        lines = (line.strip() for line in text.splitlines())
        self._patterns = [line for line in lines if line and not line.startswith("#")]

    def __call__(self, path: PurePosixPath) -> bool:
        ignored = False
        for pattern in self._patterns:
            if any(_matches(above, pattern.removeprefix("!")) for above in (path, *path.parents)):
                ignored = not pattern.startswith("!")
        return ignored


def _matches(path: PurePosixPath, pattern: str) -> bool:
    anywhere = pattern.startswith("**/")
    wanted = PurePosixPath(pattern.removeprefix("**/")).parts
    parts = path.parts[-len(wanted) :] if anywhere else path.parts
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))
