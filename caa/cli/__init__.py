"""Every command. Nothing but argument handling: each command calls one function of one folder.

What a command needs is imported when it runs, so that `caa version` stays quick and a pod VM's programs
don't pay for the cloud's SDK. Each module here adds its commands to `group.cli` when it is imported.
"""

import os
import re
import sys
from typing import NoReturn

import click

from caa.cli import check, daemon, image, local, operate, podvm, ram, reaper  # noqa: F401  each adds its commands
from caa.cli.group import cli
from caa.errors import CaaError, ConfigError

__all__ = ["main"]


def main() -> NoReturn:
    """Entry point of `caa`, and of `cloud-api-adaptor`, the name that existing manifests use."""
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # what a shell says of a program that SIGPIPE ended


def _run() -> NoReturn:
    try:
        cli.main(args=[_two_dashes(word) for word in sys.argv[1:]], standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ConfigError as error:
        problems = "\n".join(f"  {line}" for line in str(error).splitlines())
        command = " ".join(["caa", *sys.argv[1:2]])
        click.echo(f"caa: can't start with these settings:\n{problems}\nSee `{command} --help`.", err=True)
        sys.exit(2)
    except CaaError as error:
        click.echo(f"caa: {error}", err=True)
        sys.exit(1)
    sys.exit(0)


def _two_dashes(word: str) -> str:
    """`-vswitch-id` of the Go daemon's manifests becomes `--vswitch-id`."""
    return f"-{word}" if re.match(r"-[a-z][a-z0-9]*-?[a-z0-9]", word) else word
