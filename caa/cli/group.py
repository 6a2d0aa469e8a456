"""The command that all others belong to."""

import click

from caa import __version__

_SECTIONS = {
    "Run": ("alibabacloud", "reaper"),
    "Set up": ("check", "ram", "image"),
    "Look and act, on a node": ("ps", "show", "rm", "gc", "log-level"),
    "Try, without a cloud": ("demo", "fakecloud", "kata-agent"),
    "In a pod VM": ("process-user-data", "agent-protocol-forwarder"),
    "Other": ("version",),
}


class _SectionedGroup(click.Group):
    """Lists its commands by what they are for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in _SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, self._short_help(ctx, name)) for name in names])

    def _short_help(self, ctx: click.Context, name: str) -> str:
        command = self.get_command(ctx, name)
        assert command, f"there is no command {name}"
        return command.get_short_help_str(limit=200)


@click.group(
    cls=_SectionedGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try the whole thing on one machine, as root: caa demo",
)
def cli() -> None:
    """Runs Kubernetes pods as confidential virtual machines on Alibaba Cloud ECS."""


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"caa {__version__}")
