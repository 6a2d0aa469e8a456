"""What an operator does on a node: see its sandboxes, take one down, remove what is left over.

Each asks the running daemon. Where none runs, what can be done without one is done from its journal.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from caa.cli.common import command_with_settings, settings_of
from caa.cli.group import cli
from caa.config import options
from caa.errors import CaaError

if TYPE_CHECKING:
    from caa.admin import Client, Operator, SandboxView
    from caa.sandbox import Step

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


_SETTINGS_MATTER = (
    "The settings matter only while no daemon runs: they are the daemon's then, from its environment."
)


def _place(flag: str) -> Callable[[Command], Command]:
    """One of the folders of the daemon that is asked about."""
    option = next(option for option in options() if option.flag == flag)
    told = f"{option.help}  [env: {', '.join(option.env)}; default: {option.default}]"
    return click.option(f"--{flag}", default="", help=told)


_state_dir = _place("state-dir")


def _places(command: Command) -> Command:
    return _state_dir(_place("pods-dir")(command))


def _output(command: Command) -> Command:
    choice = click.Choice(["table", "json"])
    return click.option("-o", "--output", type=choice, default="table", help="For people, or for programs.")(
        command
    )


@cli.command()
@click.option("--all", "past", is_flag=True, help="Those that have ended lately, too.")
@_output
@_places
def ps(past: bool, output: str, state_dir: str, pods_dir: str) -> None:
    """List this node's sandboxes, each a pod with its VM."""
    from caa.admin import look, tables  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    folder, pods = _folder("state-dir", state_dir), _folder("pods-dir", pods_dir)
    sandboxes = _ask(
        folder,
        lambda client: client.sandboxes(past=past),
        lambda: [each for each in look(folder, pods) if past or each.ended is None],
    )
    if output == "json":
        _print_json([each.brief() for each in sandboxes])
    elif sandboxes:
        tables.show_list(tables.console(), sandboxes, datetime.now(UTC))
    else:
        click.echo("There are no sandboxes on this node.", err=True)


@cli.command()
@click.argument("sandbox")
@_output
@_places
def show(sandbox: str, output: str, state_dir: str, pods_dir: str) -> None:
    """Show one sandbox, and what happened to it.

    SANDBOX is its id, the beginning of that, or its pod as namespace/name. One that has ended lately can be
    shown too.
    """
    from caa.admin import find, look, look_at, tables  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    folder, pods = _folder("state-dir", state_dir), _folder("pods-dir", pods_dir)
    found = _ask(
        folder,
        lambda client: client.sandbox(find(sandbox, client.sandboxes(past=True)).id),
        lambda: look_at(folder, pods, find(sandbox, look(folder, pods)).id),
    )
    if output == "json":
        _print_json(found.model_dump(mode="json"))
    else:
        tables.show_sandbox(tables.console(), found, datetime.now(UTC))


@command_with_settings(cli, epilog=_SETTINGS_MATTER)
@click.argument("sandboxes", metavar="SANDBOX...", nargs=-1, required=True)
@click.option("-y", "--yes", is_flag=True, help="Don't ask before one that runs is taken down.")
def rm(flags: Mapping[str, str], sandboxes: Sequence[str], yes: bool) -> None:
    """Take sandboxes down, as StopVM would.

    SANDBOX is an id, the beginning of one, or a pod as namespace/name. While no daemon runs, it is done here,
    and all other sandboxes are left as they are. The exit status is 1 if something is left.
    """
    from caa.admin import Client, NoDaemonError, find  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    state_dir = _folder("state-dir", flags.get("state-dir"))
    client = Client(state_dir)
    try:
        known, alone = client.sandboxes(past=False), False
    except NoDaemonError:
        known, alone = [each for each in _journal(state_dir, flags) if each.ended is None], True
    chosen = list({each.id: each for each in (find(word, known) for word in sandboxes)}.values())
    for each in chosen:
        if each.state == "running" and not yes and sys.stdin.isatty():
            click.confirm(f"{each.pod_path} runs, on {each.instance}. Take it down?", abort=True, err=True)

    if alone:
        gone = _without_daemon(flags, lambda operator: _remove_here(operator, chosen))
    else:
        gone = [_remove_there(client, each) for each in chosen]
    sys.exit(0 if all(gone) else 1)


def _remove_there(client: "Client", sandbox: "SandboxView") -> bool:
    click.echo(f"{sandbox.pod_path}: taking down {sandbox.id}", err=True)
    try:
        return _tell_end(client.remove(sandbox.id), "the daemon goes on trying")
    except CaaError as error:
        return _tell_failure(sandbox, error)


async def _remove_here(operator: "Operator", sandboxes: Sequence["SandboxView"]) -> list[bool]:
    gone = []
    for each in sandboxes:
        click.echo(f"{each.pod_path}: taking down {each.id}", err=True)
        try:
            left = await operator.remove(each.id)
            gone.append(_tell_end(left, "try again, or start the daemon, which goes on with it"))
        except CaaError as error:
            gone.append(_tell_failure(each, error))
    return gone


def _tell_end(left: "SandboxView", what_then: str) -> bool:
    """Say whether the sandbox is gone, and return that."""
    if left.ended is not None:
        _say(f"{left.pod_path}: gone, with {left.instance or 'no instance'}")
        return True
    _say(f"{left.pod_path}: not gone yet: {left.error or 'it takes long'}; {what_then}")
    return False


def _tell_failure(sandbox: "SandboxView", error: CaaError) -> bool:
    _say(f"{sandbox.pod_path}: {error}")
    return False


def _say(sentence: str) -> None:
    from caa.admin import tables  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    tables.say(tables.console(), sentence)


@command_with_settings(cli, epilog=_SETTINGS_MATTER)
@click.option("--dry-run", is_flag=True, help="Only tell what is left over.")
@_output
def gc(flags: Mapping[str, str], dry_run: bool, output: str) -> None:
    """Remove what is left over.

    That is sandboxes that were half made or half removed, and what has this node's tags in the cloud and
    belongs to no sandbox. Never touches what a running pod uses, what has no tags of ours or another node's,
    and what was made in the last minutes. The exit status is 1 if something is left over at the end.
    """
    from caa.admin import Client, NoDaemonError, tables  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    state_dir = _folder("state-dir", flags.get("state-dir"))
    try:
        found = Client(state_dir).collect(dry_run=dry_run)
    except NoDaemonError:
        # Without its journal, every VM of the node would seem to be left over.
        _journal(state_dir, flags)
        found = _without_daemon(flags, lambda operator: operator.collect(dry_run=dry_run))
    if output == "json":
        _print_json(found.model_dump(mode="json"))
    elif found.leftovers:
        tables.show_collection(tables.console(), found, datetime.now(UTC))
    else:
        click.echo(f"Nothing is left over{' in the journal' if found.unseen else ''}.", err=True)
    if found.unseen:
        click.echo(f"caa: only the journal was looked at, not the cloud: {found.unseen}", err=True)
    fates = {each.fate for each in found.leftovers}
    sys.exit(1 if fates & {"failed", "to be removed"} or (found.unseen and not found.denied) else 0)


@cli.command("log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@_state_dir
def log_level(level: str, state_dir: str) -> None:
    """Change what the running daemon logs, until it ends.

    SIGHUP does so too: to debug and, the next time, back to LOG_LEVEL.
    """
    from caa.admin import Client  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    Client(_folder("state-dir", state_dir)).set_log_level(level)


def _ask(state_dir: Path, online: Callable[["Client"], T], offline: Callable[[], T]) -> T:
    """Ask the daemon or, if none runs, the journal."""
    from caa.admin import Client, NoDaemonError  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    try:
        return online(Client(state_dir))
    except NoDaemonError as error:
        answer = offline()
        click.echo(f"caa: the daemon is not running: this is what the journal says ({error})", err=True)
        return answer


def _without_daemon(flags: Mapping[str, str], work: Callable[["Operator"], Awaitable[T]]) -> T:
    """Do here what the daemon would do, with its settings and its journal."""
    settings = settings_of(flags)
    click.echo("caa: the daemon is not running: it is done here", err=True)

    from caa import daemon, logs  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    logs.configure("warning", settings.log_format)

    async def alone() -> T:
        async with daemon.standing_in(settings, on_step=_tell_step) as operator:
            return await work(operator)

    return asyncio.run(alone())


def _tell_step(_sandbox: str, step: "Step") -> None:
    click.echo(f"  {step.name.lower().replace('_', ' ')}", err=True)


def _journal(state_dir: Path, flags: Mapping[str, str]) -> list["SandboxView"]:
    from caa.admin import look  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    return look(state_dir, _folder("pods-dir", flags.get("pods-dir")))


def _folder(flag: str, given: str | None) -> Path:
    """One of the daemon's folders, as it would find it, without its other settings."""
    option = next(option for option in options() if option.flag == flag)
    from_environ = (os.environ[name] for name in option.env if os.environ.get(name))
    text = given or next(from_environ, option.default)
    try:
        path: Path = option.parse(text)
    except ValueError as error:
        raise click.UsageError(f"{option.given_as}: {text!r}; {error}") from None
    return path


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
