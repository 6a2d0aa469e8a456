"""How commands show sandboxes to people: tables that fit 80 columns, plain where nobody watches."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from caa.admin.events import words
from caa.admin.views import ENDED, Collection, EventView, SandboxView
from caa.sandbox import FIRST_KEPT, State, Step

SHORT_ID = 8

_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"

_COLOURS = {State.RUNNING: "green", State.STOPPING: "yellow", ENDED: "dim"}
_FATES = {"removed": "green", "failed": "red", "to be removed": "yellow"}


def console() -> Console:
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False)


def say(out: Console, sentence: str) -> None:
    out.print(_text(sentence))


def show_list(out: Console, sandboxes: Sequence[SandboxView], now: datetime) -> None:
    """A table of the sandboxes, and below it what went wrong last with each."""
    length = _id_length([each.id for each in sandboxes])
    table = _table()
    table.add_column("POD\n", overflow="fold")
    table.add_column("SANDBOX\n", no_wrap=True)
    table.add_column("STATE\n", no_wrap=True)
    table.add_column("AGE\n", no_wrap=True, justify="right")
    table.add_column(f"INSTANCE\n{'ADDRESS':<15} VNI", overflow="fold")
    for each in sandboxes:
        place = f"{each.instance or '-'}\n{next(iter(each.addresses), '-'):<15} {each.vni or '-'}"
        since = each.ended or each.began
        table.add_row(
            _text(each.pod_path),
            _text(each.id[:length]),
            _text(each.state, _COLOURS.get(each.state, "")),
            age(now - since) if since else "-",
            _text(place),
        )
    out.print(table)
    wrong = [each for each in sandboxes if each.error]
    if wrong:
        out.print()
    for each in wrong:
        line = _text(f"{each.id[:length]}: {each.error}", "red")
        line.truncate(out.width, overflow="ellipsis")
        out.print(line)


def show_sandbox(out: Console, sandbox: SandboxView, now: datetime) -> None:
    """All that is known of one sandbox, and its timeline."""
    state = sandbox.state
    if sandbox.ended is not None:
        state = f"ended {age(now - sandbox.ended)} ago, at {_moment(sandbox.ended)}"
    elif sandbox.since is not None:
        state += f" for {age(now - sandbox.since)}, since {_moment(sandbox.since)}"
    facts = {
        "pod": sandbox.pod_path,
        "state": state,
        "began": _moment(sandbox.began) if sandbox.began else "under an earlier version",
        "sandbox": sandbox.id,
        "instance": f"{sandbox.instance or '-'}, named {sandbox.name}",
        "addresses": ", ".join(sandbox.addresses) or "-",
        "VNI": str(sandbox.vni or "-"),
        "netns": sandbox.netns,
        "folder": sandbox.folder,
    }
    table = _table(show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _text(value))
    if sandbox.error:
        table.add_row("last error", _text(sandbox.error, "red"))
    out.print(table)
    if sandbox.events:
        out.print()
        out.print(_timeline(sandbox))


def show_collection(out: Console, found: Collection, now: datetime) -> None:
    table = _table()
    table.add_column("WHAT", no_wrap=True)
    table.add_column("ID", overflow="fold")
    table.add_column("AGE", no_wrap=True, justify="right")
    table.add_column("OUTCOME", no_wrap=True)
    table.add_column("OF, WHY", overflow="fold")
    for each in found.leftovers:
        table.add_row(
            _text(each.kind),
            _text(_short(each.id)),
            age(now - each.since) if each.since else "-",
            _text(each.fate, _FATES.get(each.fate, "")),
            _text(f"{_short(each.of) or '-'}: {each.why}"),
        )
    out.print(table)


def age(span: timedelta) -> str:
    """In its largest unit, as kubectl has it: 42s, 3m, 5h, 12d."""
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def offset(span: timedelta) -> str:
    """From a timeline's beginning, the more precise the closer to that."""
    seconds = span.total_seconds()
    if seconds < 100:
        return f"{seconds:+.3f} s"
    whole = int(seconds)
    if whole < 3600:
        return f"+{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"+{whole // 3600}h{whole // 60 % 60:02}m"
    return f"+{whole // 86400}d{whole // 3600 % 24:02}h"


def plain(text: str) -> str:
    """Without what would steer a terminal: the text may come from a pod's name or the cloud."""
    return "".join(letter if letter.isprintable() or letter == "\n" else _UNPRINTABLE for letter in text)


def _timeline(sandbox: SandboxView) -> Table:
    began = min(event.at for event in sandbox.events)
    table = _table()
    table.add_column(f"{began:%H:%M:%S}", no_wrap=True, justify="right")
    table.add_column("WHAT HAPPENED; OF CALLS THE REQUEST ID", overflow="fold")
    for number, event in enumerate(sandbox.events):
        if number == FIRST_KEPT and sandbox.left_out:
            table.add_row("…", f"({sandbox.left_out} more)")
        what = _text(_what(sandbox, event), "red" if _is_bad(event) else "")
        table.add_row(offset(event.at - began), what)
    return table


def _what(sandbox: SandboxView, event: EventView) -> str:
    details = event.details
    if event.kind == "call":
        told = f"{event.text}: {details.get('outcome', '?')}, {details.get('seconds', '?')} s"
        request_id = details.get("request id")
        return f"{told}, {request_id}" if request_id else told
    if event.kind == "step" and event.text == words(Step.LAUNCHED):
        details = {"instance": sandbox.instance, **details}
    if event.kind == "step" and event.text == words(Step.ADDRESS_KNOWN):
        details = {"addresses": ", ".join(sandbox.addresses), **details}
    more = ", ".join(f"{name} {value}" for name, value in details.items() if value)
    return f"{event.text} ({more})" if more else event.text


def _is_bad(event: EventView) -> bool:
    return event.kind == "error" or (event.kind == "call" and event.details.get("outcome") != "ok")


def _table(*, show_header: bool = True) -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=show_header)


def _text(text: str, style: str = "") -> Text:
    return Text(plain(text), style)


def _short(name: str) -> str:
    """A sandbox id, as containerd makes them, is 64 hexadecimal digits."""
    return name[:12] if re.fullmatch("[0-9a-f]{64}", name) else name


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _id_length(ids: Sequence[str]) -> int:
    """How much of each id tells it from the others."""
    different = set(ids)
    longest = max(map(len, different), default=SHORT_ID)
    return next(
        (
            length
            for length in range(SHORT_ID, longest)
            if len({each[:length] for each in different}) == len(different)
        ),
        longest,
    )
