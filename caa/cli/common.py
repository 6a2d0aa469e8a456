"""What several commands share."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

import click

from caa.config import (
    GROUPS,
    AlibabaCloudSettings,
    Option,
    ReaperSettings,
    Settings,
    load,
    load_cloud,
    load_reaper,
    options,
    parse_duration,
)


def until_signal(work: Coroutine[Any, Any, None], on_hangup: Callable[[], None] | None = None) -> None:
    """Run `work`; SIGINT and SIGTERM cancel it, and it ends in its own time. SIGHUP calls `on_hangup`."""
    import uvloop  # noqa: PLC0415  slow to import, see `caa/cli/__init__.py`

    async def supervised() -> bool:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        if on_hangup is not None:
            loop.add_signal_handler(signal.SIGHUP, on_hangup)
        await asyncio.wait([task])
        if task.cancelled():
            return False
        task.result()
        return True

    uvloop.run(supervised())


def seconds(_ctx: click.Context, _parameter: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise click.BadParameter(f"{text!r}; {error}") from None


class _GroupedCommand(click.Command):
    """Shows the daemon's settings in the groups of `caa/config.py`, with environment names and defaults,
    after the command's own options.
    """

    def __init__(self, *arguments: Any, settings: Iterable[Option], **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self._settings = tuple(settings)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        settings = {option.flag for option in self._settings}
        flags = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        own = [each for each in flags if f"{each.opts[-1][2:]}" not in settings]
        rows = [row for row in (each.get_help_record(ctx) for each in own) if row]
        with formatter.section("Options"):
            formatter.write_dl(rows)
        for group in GROUPS:
            if rows := [_help_row(option) for option in self._settings if option.group == group]:
                with formatter.section(group):
                    formatter.write_dl(rows)


def _help_row(option: Option) -> tuple[str, str]:
    notes = [f"env: {', '.join(option.env)}"] if option.env else []
    if option.required:
        notes.append("required")
    elif option.default:
        notes.append(f"default: {option.default}")
    return f"--{option.flag}", option.help + (f"  [{'; '.join(notes)}]" if notes else "")


def command_with_settings(
    group: click.Group, *, settings: Callable[[], Iterable[Option]] = options, **attributes: Any
) -> Callable[..., click.Command]:
    """Like `group.command()`, for a command that also takes the daemon's settings as flags, or some of them.

    The function gets its own options by name, and the flags that were given as `flags`, for `settings_of`,
    or for `cloud_settings_of` if `settings` are the `cloud_options`.
    """
    names = {option.flag.replace("-", "_"): option for option in settings()}

    def decorate(function: Callable[..., None]) -> click.Command:
        def call(**given: Any) -> None:
            own = {name: value for name, value in given.items() if name not in names}
            flags = {
                names[name].flag: text for name, text in given.items() if name in names and text is not None
            }
            function(flags=flags, **own)

        call.__name__ = function.__name__
        call.__doc__ = function.__doc__
        call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        for option in names.values():
            # The flag alone means true for a boolean, as in Go: -disable-cvm.
            boolean: dict[str, Any] = (
                {"is_flag": False, "flag_value": "true"} if option.default in ("true", "false") else {}
            )
            click.option(f"--{option.flag}", default=None, **boolean)(call)
        return group.command(cls=_GroupedCommand, settings=names.values(), **attributes)(call)

    return decorate


def settings_of(flags: Mapping[str, str]) -> Settings:
    """The settings from flags and environment. Raises ConfigError. If a secret is among the flags, the
    command starts anew with it in the environment: everybody can read a process's arguments, and only its
    own user its environment.
    """
    settings = load(flags, os.environ)
    _hide_secrets(flags)
    return settings


def cloud_settings_of(flags: Mapping[str, str]) -> AlibabaCloudSettings:
    """As `settings_of`, of the `cloud_options` alone."""
    settings = load_cloud(flags, os.environ)
    _hide_secrets(flags)
    return settings


def reaper_settings_of(flags: Mapping[str, str]) -> ReaperSettings:
    """As `settings_of`, of the `reaper_options`."""
    settings = load_reaper(flags, os.environ)
    _hide_secrets(flags)
    return settings


def _hide_secrets(flags: Mapping[str, str]) -> None:
    secrets = [option for option in options() if option.secret and flags.get(option.flag)]
    if secrets:
        hidden = {option.flag for option in secrets}
        for option in secrets:
            os.environ[option.env[0]] = flags[option.flag]
        arguments = _without(sys.argv[1:], hidden)
        os.execv(sys.executable, [sys.executable, "-m", "caa", *arguments])  # noqa: S606  ourselves


def _without(words: list[str], flags: set[str]) -> list[str]:
    """A command line without these flags and their values."""
    kept: list[str] = []
    values = iter(words)
    for word in values:
        flag, equals, _ = word.partition("=")
        if flag.startswith("-") and flag.lstrip("-") in flags:
            if not equals:
                next(values, None)
        else:
            kept.append(word)
    return kept
