"""The documentation says what the code does: names, options, messages and links."""

import ast
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from prometheus_client import CollectorRegistry

import caa.cli  # noqa: F401  makes the commands
from caa.cli.group import cli
from caa.config import options, reaper_options
from caa.providers.alibabacloud.errors import RULES
from caa.reaper.metrics import ReaperMetrics

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deploy" / "README.md", *(ROOT / "docs").glob("*.md")]
)
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text()
GUIDE = (ROOT / "docs" / "alibabacloud.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
ALERTS = (ROOT / "deploy" / "kustomize" / "components" / "monitoring" / "prometheusrule.yaml").read_text()

ELSEWHERE = {"fakecloud", "kata_agent", "demo"}
"""What runs in no cluster."""


TELLS = {"StartupError", "ConfigError", "problems.append"}


def plain(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def literals(pattern: str) -> str:
    """The first literal part of a code's pattern: `Invalid[Vv][Ss]witchI*` -> InvalidVSwitchI."""
    return next(part for part in re.sub(r"\[(.)[^]]*]", r"\1", pattern).split("*") if len(part) > 1).strip(
        "."
    )


@pytest.mark.parametrize(
    "pattern", sorted({code for rule in RULES for code in rule.codes if code.strip("*")}), ids=str
)
def test_every_code_of_the_cloud_is_explained(pattern: str) -> None:
    assert literals(pattern) in TROUBLESHOOTING


def first_words(message: ast.expr) -> str:
    """The first part of a message that has three words or, if there is none, two."""
    parts = message.values if isinstance(message, ast.JoinedStr) else [message]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    found = [piece.strip(" .,") for text in texts for piece in re.split(r"[;:(]|\. ", text)]
    for least in (3, 2):
        for words in found:
            if len(words.split()) >= least:
                return words
    return ""


def raised() -> Iterator[tuple[str, str]]:
    """Where a daemon refuses to start, and the first words that are always in what it says then."""
    for path in sorted((ROOT / "caa").rglob("*.py")):
        if ELSEWHERE & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in TELLS:
                words = first_words(node.args[0])
                if words:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", words


def warned() -> Iterator[tuple[str, str]]:
    """What a daemon warns of in its log."""
    for path in sorted((ROOT / "caa").rglob("*.py")):
        if (ELSEWHERE | {"podvm", "image", "cli"}) & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            told = re.search(r"log\.(warning|error|exception)$", ast.unparse(node.func))
            if told and isinstance(node.args[0], ast.Constant):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", first_words(node.args[0])


@pytest.mark.parametrize(("where", "words"), sorted(warned()), ids=lambda value: value.replace(" ", "-"))
def test_every_warning_is_explained(where: str, words: str) -> None:
    assert plain(words) in plain(TROUBLESHOOTING), f"{where}: {words!r} is not in docs/troubleshooting.md"


@pytest.mark.parametrize(("where", "words"), sorted(raised()), ids=lambda value: value.replace(" ", "-"))
def test_every_refusal_to_start_is_explained(where: str, words: str) -> None:
    assert plain(words) in plain(TROUBLESHOOTING), f"{where}: {words!r} is not in docs/troubleshooting.md"


def test_every_alert_leads_to_a_recipe() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    table = OPERATIONS.partition("## Alerts")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \| .*\|$", table, re.MULTILINE) == alerts


def test_every_metric_of_the_reaper_is_explained() -> None:
    registry = CollectorRegistry()
    ReaperMetrics(registry)
    families = [(family, "_total" if family.type == "counter" else "") for family in registry.collect()]
    assert set(re.findall(r"^\| `(caa_reaper_\w+)` \|", OPERATIONS, re.MULTILINE)) == {
        family.name + suffix for family, suffix in families
    }


def test_settings_of_the_guide_exist() -> None:
    table = GUIDE.partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| .*? \| (.*?) \|$", table, re.MULTILINE)
    assert len(rows) > 10
    known = {name: option for option in options() for name in option.env}
    for names, default in rows:
        for name in re.findall(r"`(\w+)`", names):
            option = known[name]
            assert option.required == (default == "required"), name
            if re.fullmatch(r"`?[\w./-]+`?", default) and default != "required" and ", " not in names:
                assert default.strip("`") == option.default, name


def test_variables_that_pages_name_exist() -> None:
    known = {name for option in (*options(), *reaper_options()) for name in option.env}
    for page in PAGES:
        for name in re.findall(r"\b(?:ALIBABA_?CLOUD|PODVM|CAA|REAPER)_\w+\b", page.read_text()):
            assert name in known, f"{page.name}: {name}"


def code(page: str) -> Iterator[str]:
    """Lines of shell blocks, continued ones joined, and what is in backticks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for block in blocks:
        yield from block.replace("\\\n", " ").splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))


COMMAND = re.compile(r"(?:^|[(\s])caa ([a-z][^)#|&>\"]*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in code(page.read_text()):
        for given in COMMAND.findall(line):
            words = shlex.split(given)
            command: click.Command = cli
            while words and isinstance(command, click.Group) and words[0] in command.commands:
                command = command.commands[words.pop(0)]
            if isinstance(command, click.Group):
                assert not words or words[0] in ("--help", "version"), f"no such command: caa {given}"
            known = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
            assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, given


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_headings_go_down_one_level_at_a_time() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
        assert all(after <= before + 1 for before, after in pairwise(levels)), page.name
