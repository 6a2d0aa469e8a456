"""The daemon."""

from collections.abc import Mapping

from caa.cli.common import command_with_settings, settings_of, until_signal
from caa.cli.group import cli


@command_with_settings(
    cli,
    epilog="A flag beats its environment variable, and that beats the default. Empty variables count as"
    " unset. A single dash (-vswitch-id x) works too.",
)
def alibabacloud(flags: Mapping[str, str]) -> None:
    """Run the daemon of a worker node: serve Kata shims, with pod VMs on Alibaba Cloud ECS.

    \b
    The least that it needs, with the node's service account as its identity (RRSA):
      caa alibabacloud --imageid m-… --vswitch-id vsw-… --security-group-ids sg-…
    """  # noqa: D301  \b tells click not to wrap what follows
    settings = settings_of(flags)

    from caa import daemon, logs  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    logs.configure(settings.log_level, settings.log_format)
    until_signal(daemon.run(settings), on_hangup=logs.toggle_debug)
