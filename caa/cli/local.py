"""Trying it without a cloud: the demo, the local cloud, and the small Kata agent that they use."""

import os
import sys
from pathlib import Path
from typing import Literal

import click

from caa.cli.common import seconds, until_signal
from caa.cli.group import cli


@cli.command()
@click.option("--listen", default="127.0.0.1:8900", show_default=True, help="Address and port of the API.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("caa-fakecloud"),
    show_default=True,
    help="Folder for its files: env (what a daemon needs to use it), token, ca.pem, consoles.",
)
@click.option(
    "--boot",
    type=click.Choice(["none", "netns"]),
    default="none",
    show_default=True,
    help="What an instance is: none: states only; netns: a network namespace that boots (root).",
)
@click.option("--tls", is_flag=True, help="Serve HTTPS, with a CA of its own.")
@click.option(
    "--worker",
    "workers",
    multiple=True,
    metavar="NETNS",
    help="Join this network namespace to the VPC as a worker node (with --boot netns; repeatable).",
)
@click.option(
    "--boot-time",
    default="300ms",
    show_default=True,
    callback=seconds,
    help="How long an instance takes from power-on until it answers.",
)
@click.option(
    "--slower",
    type=click.FloatRange(0, 1000),
    default=1.0,
    show_default=True,
    metavar="FACTOR",
    help="How much longer its instances take for each change of state than a few tenths of a second; 20 is"
    " about what the cloud takes, 0 is at once.",
)
@click.option(
    "--policy",
    default="published",
    show_default=True,
    metavar="published|full|FILE",
    help="Rights of the role: what the guide has users grant, everything, or a RAM policy in a JSON file.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="ACTION",
    help="Allow one action more, such as ecs:DescribeInstanceTypes (repeatable).",
)
@click.option(
    "--trust-policy",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Which tokens may assume the role: a RAM trust policy in a JSON file, instead of the guide's.",
)
@click.option(
    "--session-seconds",
    type=click.FloatRange(1, 43200),
    metavar="SECONDS",
    help="Length of role sessions, whatever is asked for.",
)
@click.option(
    "--token-seconds",
    type=click.FloatRange(1, 86400),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Lifetime of a service account token; the next one is written at four fifths of it.",
)
@click.option(
    "--limits",
    multiple=True,
    metavar="LIMIT",
    help="How often an action may be called: RunInstances=10/60s, or *=500/60s for each that is not named;"
    " real is about as tight as the cloud (repeatable).  [default: none]",
)
def fakecloud(
    listen: str,
    folder: Path,
    boot: Literal["none", "netns"],
    tls: bool,
    workers: tuple[str, ...],
    boot_time: float,
    slower: float,
    policy: str,
    allow: tuple[str, ...],
    trust_policy: Path | None,
    session_seconds: float | None,
    token_seconds: float,
    limits: tuple[str, ...],
) -> None:
    """Run a local cloud that the Alibaba Cloud SDKs can talk to: ECS, VPC, STS, metadata.

    \b
    Then, in another terminal:
      set -a; . caa-fakecloud/env; set +a
      caa alibabacloud --state-dir /tmp/caa …
    """  # noqa: D301  as above
    from caa import logs  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`
    from caa.fakecloud import FakeCloudSettings, PolicyError, Timings, parse_limits, run  # noqa: PLC0415  as above

    if boot == "netns" and os.geteuid() != 0:
        raise click.UsageError("--boot netns makes network namespaces and needs root; --boot none does not")
    logs.configure("info", "")

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{listen!r}; allowed: ADDRESS:PORT", param_hint="--listen")
    try:
        allowed_calls = parse_limits(limits)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--limits") from None
    settings = FakeCloudSettings(
        host=host,
        port=int(port),
        oss_port=int(port) + 1 if int(port) else 0,
        dir=folder,
        boot=boot,
        tls=tls,
        workers=workers,
        boot_seconds=boot_time,
        timings=Timings().slower(slower),
        policy=policy,
        allow=allow,
        trust_policy=trust_policy,
        session_seconds=session_seconds,
        token_seconds=token_seconds,
        limits=allowed_calls,
    )
    try:
        until_signal(run(settings, ready=click.echo))
    except (OSError, PolicyError) as error:
        raise click.ClickException(f"the local cloud can't start: {error}") from error


@cli.command()
@click.option("--keep", is_flag=True, help="Leave everything up at the end, and say how to look around.")
def demo(keep: bool) -> None:
    """Show the main job from end to end on this machine: one pod in one VM. Needs root, no cloud account.

    Makes network namespaces of its own, starts the local cloud and the real daemon in them, then acts as
    the Kata shim: a VM, a container that serves a web page, an exec. Removes it all; the exit status says
    whether everything held. Takes a few seconds. Ctrl-C cleans up.
    """
    from caa.demo import run_demo  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    sys.exit(run_demo(keep=keep))


@cli.command("kata-agent")
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    default=Path("/run/kata-containers/agent.sock"),
    show_default=True,
)
@click.option(
    "--pod-namespace", default="/run/netns/podns", show_default=True, help="Network namespace of the pod."
)
def kata_agent(socket: Path, pod_namespace: str) -> None:
    """For demo and tests: a small Kata agent.

    It runs what it is given as plain processes of this machine, in the pod's network namespace. There are
    no container images, no isolation and no attestation: never use it in a real pod VM.
    """
    from caa.kata_agent import run_agent  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    until_signal(run_agent(socket, pod_namespace))
