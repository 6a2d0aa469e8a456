"""Whether everything is there."""

import asyncio
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import click

from caa.cli.common import command_with_settings, settings_of
from caa.cli.group import cli

if TYPE_CHECKING:
    from collections.abc import Sequence

    from caa.checking import Check, Result
    from caa.config import Settings


@command_with_settings(
    cli, epilog="Exit status: 0 all fine, warnings allowed; 1 something failed; 2 the settings are wrong."
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(flags: Mapping[str, str], output: Literal["table", "json"]) -> None:
    """Check all that the daemon needs, on this node and in the cloud, and say how to mend what is missing.

    Takes the daemon's settings. Makes, changes and leaves nothing; a daemon may run meanwhile.

    \b
    In the daemon's pod, which has the settings in its environment:
      kubectl -n confidential-containers-system exec ds/… -- caa check
    """  # noqa: D301  \b tells click not to wrap what follows
    settings = settings_of(flags)

    from caa.check import Table, as_json, exit_status  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    results = asyncio.run(_run(settings))
    if output == "json":
        click.echo(as_json(results))
    else:
        Table(sys.stdout).print(results)
    sys.exit(exit_status(results))


async def _run(settings: "Settings") -> "list[Result]":
    from rich.console import Console  # noqa: PLC0415  as above
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415  as above

    from caa import logs  # noqa: PLC0415  as above
    from caa.check import run_all  # noqa: PLC0415  as above

    # What is worth telling is in the results.
    logs.configure("error", settings.log_format)
    console = Console(stderr=True)
    with Progress(
        TextColumn("checking"),
        BarColumn(24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[waiting]}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("", total=None, waiting="")
        waiting: list[str] = []

        def begin(checks: "Sequence[Check]") -> None:
            waiting.extend(check.what for check in checks)
            progress.update(bar, total=len(checks))

        def ended(result: "Result") -> None:
            waiting.remove(result.what)
            progress.update(bar, advance=1, waiting=waiting[0] if waiting else "")

        return await run_all(settings, on_begin=begin, on_result=ended)
