"""Follows a Dockerfile, one instruction after the other, in bare Debian roots."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from deploy.proof.containers import Container, copy, debian, with_network
from deploy.proof.dockerfile import Ignore, Instruction, Stage, parse


@dataclass
class Image:
    """A stage's files, and what the engine is told about them."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    user: str = ""
    workdir: str = "/"
    stopsignal: str = ""

    def configure(self, instruction: Instruction) -> None:
        """Follow an instruction that changes no file."""
        words = instruction.words
        match instruction.name:
            case "ENV":
                self.env |= dict(_pair(word) for word in words)
            case "LABEL":
                self.labels |= dict(_pair(word) for word in words)
            case "ENTRYPOINT":
                self.entrypoint, self.command = words, []
            case "CMD":
                self.command = words
            case "USER":
                (self.user,) = words
            case "STOPSIGNAL":
                (self.stopsignal,) = words

    def argv(self, arguments: Sequence[str] = ()) -> list[str]:
        """What a container starts with, as a manifest's `args` change it."""
        return [*self.entrypoint, *(arguments or self.command)]


def python_base(image: str) -> Path:
    """A Debian that stands for python:VERSION-slim-SUITE: same suite, same Python, `python` on the PATH.

    It differs in where Python is (/usr, not /usr/local) and in its patch release.
    """
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-([a-z]+)", image)
    if found is None:
        raise ValueError(f"FROM {image}: only python:VERSION-slim-SUITE can be stood for")
    root = debian(found[2], "ca-certificates", "python-is-python3", "python3-venv")
    assert (root / f"usr/bin/python{found[1]}").exists(), f"Debian {found[2]} has no Python {found[1]}"
    # The official image has no bytecode of its standard library, so neither has this one.
    for compiled in (root / f"usr/lib/python{found[1]}").rglob("*.pyc"):
        compiled.unlink()
    return root


class Build:
    """Builds the last stage of the Dockerfile in the folder `context`, with all files below `work`."""

    def __init__(self, context: Path, work: Path, arguments: dict[str, str]) -> None:
        self._context = context
        self._work = work
        self._arguments = arguments
        self._ignored = Ignore((context / ".dockerignore").read_text())
        self._stages: dict[str, Container] = {}

    def run(self) -> Image:
        with ExitStack() as stages:
            for number, stage in enumerate(parse((self._context / "Dockerfile").read_text())):
                image = Image(self._work / f"stage{number}")
                copy(python_base(stage.base), image.root)
                container = stages.enter_context(with_network(image.root))
                self._stages[stage.name or str(number)] = container
                self._build(stage, image, container)
        return image

    def _build(self, stage: Stage, image: Image, container: Container) -> None:
        arguments: dict[str, str] = {}
        for instruction in stage.instructions:
            variables = {**arguments, **image.env}
            match instruction.name:
                case "ARG":
                    name, _, default = instruction.text.partition("=")
                    arguments[name] = self._arguments.get(name, default)
                case "RUN":
                    print(f"RUN {instruction.text}", flush=True)
                    command = ("/bin/sh", "-c", instruction.text)
                    container.run(*command, cwd=image.workdir, env=variables)
                case "COPY":
                    self._copy(instruction.expanded(variables).words, image, container)
                case "WORKDIR":
                    image.workdir = instruction.expanded(variables).text
                    container.run("mkdir", "-p", image.workdir)
                case _:
                    image.configure(instruction.expanded(variables))

    def _copy(self, words: list[str], image: Image, container: Container) -> None:
        """Several sources need a target that ends in /; a folder is copied as what is in it."""
        *sources, target = words
        stage = ""
        if sources[0].startswith("--from="):
            stage = sources.pop(0).removeprefix("--from=")
        into = target.endswith("/")
        assert into or len(sources) == 1, f"COPY {shlex.join(words)}: the target must end with /"
        for source in sources:
            path = self._stages[stage].outside(source) if stage else self._context / source
            assert path.exists(), f"COPY {source}: it is not there"
            inside = PurePosixPath(image.workdir, target)
            to = container.outside(str(inside / path.name if into and not path.is_dir() else inside))
            if not stage:
                assert not self._ignored(PurePosixPath(source)), f"COPY {source}: .dockerignore leaves it out"
            to.parent.mkdir(parents=True, exist_ok=True)
            if stage:
                subprocess.run(["cp", "--archive", "--no-target-directory", path, to], check=True)
            elif path.is_dir():
                shutil.copytree(path, to, ignore=self._left_out, dirs_exist_ok=True)
            else:
                shutil.copy2(path, to)

    def _left_out(self, folder: str, names: list[str]) -> list[str]:
        below = PurePosixPath(folder).relative_to(self._context)
        return [name for name in names if self._ignored(below / name)]


def _pair(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    return name, value
