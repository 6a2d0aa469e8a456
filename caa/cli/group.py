"""The command that all others belong to."""

import click

from caa import __version__


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Try the whole thing on one machine, as root: caa demo",
)
def cli() -> None:
    """Runs Kubernetes pods as confidential virtual machines on Alibaba Cloud ECS."""


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"caa {__version__}")
