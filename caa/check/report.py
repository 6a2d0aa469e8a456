"""What `caa check` prints: for people, and for programs."""

import json
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TextIO

from caa.checking import Result, Verdict

WIDTH = 80
_SIGNS = {Verdict.OK: "✓", Verdict.WARNING: "!", Verdict.FAILED: "✗", Verdict.SKIPPED: "·"}
_PLAIN = {Verdict.OK: "+", Verdict.WARNING: "!", Verdict.FAILED: "x", Verdict.SKIPPED: "-"}
_COLOURS = {Verdict.OK: "32", Verdict.WARNING: "33", Verdict.FAILED: "31", Verdict.SKIPPED: "90"}


def exit_status(results: Sequence[Result]) -> int:
    return int(any(result.finding.verdict is Verdict.FAILED for result in results))


def as_json(results: Sequence[Result]) -> str:
    """One object with the counts and every check."""
    counts = Counter(result.finding.verdict for result in results)
    return json.dumps(
        {
            "ok": exit_status(results) == 0,
            "counts": {verdict.value: counts[verdict] for verdict in Verdict},
            "checks": [
                {
                    "group": result.group,
                    "check": result.what,
                    "verdict": result.finding.verdict.value,
                    "seen": result.finding.seen,
                    "remedy": result.finding.remedy,
                }
                for result in results
            ],
        },
        indent=2,
        ensure_ascii=False,
    )


class Table:
    """Groups of ticks and crosses, at most 80 columns wide, in characters that the stream can take."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._colours = stream.isatty() and not os.environ.get("NO_COLOR")
        encoding = stream.encoding or "ascii"
        try:
            "".join(_SIGNS.values()).encode(encoding)
            self._signs = _SIGNS
        except (UnicodeEncodeError, LookupError):
            self._signs = _PLAIN

    def print(self, results: Sequence[Result]) -> None:
        for line in self._lines(results):
            encoding = self._stream.encoding or "ascii"
            print(line.encode(encoding, "replace").decode(encoding), file=self._stream)

    def _lines(self, results: Sequence[Result]) -> Iterator[str]:
        groups: dict[str, list[Result]] = {}
        for result in results:
            groups.setdefault(result.group, []).append(result)
        for group, members in groups.items():
            yield f"\033[1m{group}\033[0m" if self._colours else group
            yield from self._group(_gathered(members))
            yield ""
        yield _summary(results)

    def _group(self, results: list[Result]) -> Iterator[str]:
        column = max((len(result.what) for result in results if not result.what.endswith(":")), default=0)
        for index, result in enumerate(results):
            finding = result.finding
            sign = self._signs[finding.verdict]
            if self._colours:
                sign = f"\033[{_COLOURS[finding.verdict]}m{sign}\033[0m"
            if result.what.endswith(":"):
                text, indent = f"{result.what} {finding.seen}", "  "
            else:
                text, indent = f"{result.what:<{column}}  {finding.seen}", " " * (column + 2)
            first, *rest = _wrapped(text, indent, WIDTH - 4)
            yield f"  {sign} {first}"
            yield from (f"    {line}" for line in rest)
            following = results[index + 1].finding.remedy if index + 1 < len(results) else ""
            if finding.remedy and finding.remedy != following:
                yield from (f"      {line}" for line in _wrapped(f"=> {finding.remedy}", "   ", WIDTH - 6))


def _gathered(results: list[Result]) -> list[Result]:
    """Those that were skipped for the same reason, as one at the end."""
    kept = [result for result in results if result.finding.verdict is not Verdict.SKIPPED]
    skipped = sorted(
        (result for result in results if result.finding.verdict is Verdict.SKIPPED),
        key=lambda result: result.finding.seen,
    )
    for seen, same in groupby(skipped, key=lambda result: result.finding.seen):
        members = list(same)
        if len(members) < 3:
            kept += members
        else:
            about = type(members[0].finding)(Verdict.SKIPPED, ", ".join(each.what for each in members))
            kept.append(Result(members[0].group, f"{seen}:", about))
    return kept


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _summary(results: Sequence[Result]) -> str:
    counts = Counter(result.finding.verdict for result in results)
    failed, warnings = counts[Verdict.FAILED], counts[Verdict.WARNING]
    told = [f"{counts[Verdict.OK]} fine"]
    if warnings:
        told.append(f"{warnings} warning{'s' if warnings > 1 else ''}")
    if counts[Verdict.SKIPPED]:
        told.append(f"{counts[Verdict.SKIPPED]} skipped")
    if failed:
        told.append(f"{failed} failed")
    head = "This node is not ready" if failed else "This node is ready"
    return f"{head}: {', '.join(told)}."
