"""Every command. Nothing but argument handling: each command calls one function of one folder.

What a command needs is imported when it runs, so that `caa version` stays quick and a pod VM's programs
don't pay for the cloud's SDK.
"""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from caa import __version__
from caa.config import GROUPS, Option, load, options, parse_duration
from caa.errors import CaaError, ConfigError

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def main() -> NoReturn:
    """Entry point of `caa`, and of `cloud-api-adaptor`, the name that existing manifests use."""
    try:
        cli.main(args=[_two_dashes(word) for word in sys.argv[1:]], standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ConfigError as error:
        problems = "\n".join(f"  {line}" for line in str(error).splitlines())
        click.echo(
            f"caa: can't start with these settings:\n{problems}\nSee `caa alibabacloud --help`.", err=True
        )
        sys.exit(2)
    except CaaError as error:
        click.echo(f"caa: {error}", err=True)
        sys.exit(1)
    sys.exit(0)


def _two_dashes(word: str) -> str:
    """`-vswitch-id` of the Go daemon's manifests becomes `--vswitch-id`."""
    return f"-{word}" if re.match(r"-[a-z][a-z0-9]*-?[a-z0-9]", word) else word


def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run `work`; SIGINT and SIGTERM cancel it, and it ends in its own time."""
    import uvloop  # noqa: PLC0415  see the module's docstring

    async def supervised() -> bool:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        await asyncio.wait([task])
        if task.cancelled():
            return False
        task.result()
        return True

    uvloop.run(supervised())


@click.group(context_settings=_CONTEXT, epilog="Try the whole thing on one machine, as root: caa demo")
def cli() -> None:
    """Runs Kubernetes pods as confidential virtual machines on Alibaba Cloud ECS."""


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(f"caa {__version__}")


class _GroupedCommand(click.Command):
    """Shows its options in the groups of `caa/config.py`, with environment names and defaults."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's signature
        for group in GROUPS:
            with formatter.section(group):
                formatter.write_dl([_help_row(option) for option in options() if option.group == group])
        with formatter.section("Other"):
            formatter.write_dl([("-h, --help", "Show this message and exit.")])


def _help_row(option: Option) -> tuple[str, str]:
    notes = [f"env: {', '.join(option.env)}"] if option.env else []
    if option.required:
        notes.append("required")
    elif option.default:
        notes.append(f"default: {option.default}")
    return f"--{option.flag}", option.help + (f"  [{'; '.join(notes)}]" if notes else "")


@cli.command(
    cls=_GroupedCommand,
    epilog="A flag beats its environment variable, and that beats the default. Empty variables count as"
    " unset. A single dash (-vswitch-id x) works too.",
)
def alibabacloud(**given: str | None) -> None:
    """Run the daemon of a worker node: serve Kata shims, with pod VMs on Alibaba Cloud ECS.

    \b
    The least that it needs, with the node's service account as its identity (RRSA):
      caa alibabacloud --imageid m-… --vswitch-id vsw-… --security-group-ids sg-…
    """  # noqa: D301  \b tells click not to wrap what follows
    flags = {name.replace("_", "-"): text for name, text in given.items() if text is not None}
    settings = load(flags, os.environ)
    _hide_secrets(flags)

    from caa import daemon, logs  # noqa: PLC0415  see the module's docstring

    logs.configure(settings.log_level, settings.log_format)
    _until_signal(daemon.run(settings))


def _hide_secrets(flags: dict[str, str]) -> None:
    """Start anew with secrets that were given as flags in the environment: everybody can read a process's
    arguments, and only its own user its environment.
    """
    secrets = [option for option in options() if option.secret and flags.get(option.flag)]
    for option in secrets:
        os.environ[option.env[0]] = flags.pop(option.flag)
    if secrets:
        rest = (f"--{flag}={text}" for flag, text in flags.items())
        os.execv(sys.executable, [sys.executable, "-m", "caa", "alibabacloud", *rest])  # noqa: S606  ourselves


for _option in options():
    # The flag alone means true for a boolean, as in Go: -disable-cvm.
    _boolean_flag: dict[str, Any] = (
        {"is_flag": False, "flag_value": "true"} if _option.default in ("true", "false") else {}
    )
    click.option(f"--{_option.flag}", default=None, **_boolean_flag)(alibabacloud)


def _seconds(_ctx: click.Context, _parameter: click.Parameter, text: str) -> float:
    try:
        return parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise click.BadParameter(f"{text!r}; {error}") from None


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
    callback=_seconds,
    help="How long an instance takes from power-on until it answers.",
)
@click.option(
    "--slower",
    type=click.FloatRange(0, 1000),
    default=1.0,
    show_default=True,
    metavar="FACTOR",
    help="How much longer its instances take for each change of state than a few tenths of a second; 20 is"
    " about what the cloud takes.",
)
@click.option(
    "--policy",
    type=click.Choice(["published", "full"]),
    default="published",
    show_default=True,
    help="Rights of the role: what the guide has users grant, or everything.",
)
@click.option(
    "--allow",
    multiple=True,
    metavar="ACTION",
    help="Allow one action more, such as ecs:DescribeInstanceTypes (repeatable).",
)
def fakecloud(
    listen: str,
    folder: Path,
    boot: Literal["none", "netns"],
    tls: bool,
    workers: tuple[str, ...],
    boot_time: float,
    slower: float,
    policy: Literal["published", "full"],
    allow: tuple[str, ...],
) -> None:
    """Run a local cloud that the Alibaba Cloud SDKs can talk to: ECS, VPC, STS, metadata.

    \b
    Then, in another terminal:
      set -a; . caa-fakecloud/env; set +a
      caa alibabacloud --state-dir /tmp/caa …
    """  # noqa: D301  as above
    from caa import logs  # noqa: PLC0415  see the module's docstring
    from caa.fakecloud import FakeCloudSettings, Timings, run  # noqa: PLC0415  see the module's docstring

    if boot == "netns" and os.geteuid() != 0:
        raise click.UsageError("--boot netns makes network namespaces and needs root; --boot none does not")
    logs.configure("info", "")

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"{listen!r}; allowed: ADDRESS:PORT", param_hint="--listen")
    settings = FakeCloudSettings(
        host=host,
        port=int(port),
        dir=folder,
        boot=boot,
        tls=tls,
        workers=workers,
        boot_seconds=boot_time,
        timings=Timings().slower(slower),
        policy=policy,
        allow=allow,
    )
    try:
        _until_signal(run(settings, ready=click.echo))
    except OSError as error:
        raise click.ClickException(f"the local cloud can't start: {error}") from error


@cli.command()
@click.option("--keep", is_flag=True, help="Leave everything up at the end, and say how to look around.")
def demo(keep: bool) -> None:
    """Show the main job from end to end on this machine: one pod in one VM. Needs root, no cloud account.

    Makes network namespaces of its own, starts the local cloud and the real daemon in them, then acts as
    the Kata shim: a VM, a container that serves a web page, an exec. Removes it all; the exit status says
    whether everything held. Takes a few seconds. Ctrl-C cleans up.
    """
    from caa.demo import run_demo  # noqa: PLC0415  see the module's docstring

    sys.exit(run_demo(keep=keep))


@cli.group("process-user-data")
def process_user_data() -> None:
    """In a pod VM: act on the user data that the instance was created with."""


@process_user_data.command("provision-files")
@click.option(
    "-t",
    "--timeout",
    default="180",
    show_default=True,
    callback=_seconds,
    help="How long to try, in seconds.",
)
def provision_files(timeout: float) -> None:
    """Fetch the user data and write the files in it that a pod VM knows.

    From /media/cidata/user-data if that is there, else from the metadata service.
    """
    from caa.podvm import ProvisionOptions, provision_files  # noqa: PLC0415  see the module's docstring

    asyncio.run(provision_files(ProvisionOptions(timeout=timeout)))


@cli.command("agent-protocol-forwarder")
@click.option(
    "--config", type=click.Path(path_type=Path), default=Path("/run/peerpod/apf.json"), show_default=True
)
@click.option("--listen", default="0.0.0.0:15150", show_default=True, help="Address and port for the daemon.")
@click.option(
    "--kata-agent-socket",
    type=click.Path(path_type=Path),
    default=Path("/run/kata-containers/agent.sock"),
    show_default=True,
)
@click.option(
    "--pod-namespace", default="/run/netns/podns", show_default=True, help="Network namespace of the pod."
)
@click.option("--host-interface", default="", help="Interface of the tunnel; default: the primary.")
@click.option("--ca-cert-file", default="", help="CA of the daemons' client certificates.")
@click.option("--cert-file", default="", help="This forwarder's certificate.")
@click.option("--cert-key", default="", help="File of its key.")
@click.option("--tls-skip-verify", is_flag=True, help="Accept any client certificate. For tests.")
@click.option("--disable-tls", is_flag=True, help="Listen in the clear. For tests.")
def agent_protocol_forwarder(
    config: Path,
    listen: str,
    kata_agent_socket: Path,
    pod_namespace: str,
    host_interface: str,
    ca_cert_file: str,
    cert_file: str,
    cert_key: str,
    tls_skip_verify: bool,
    disable_tls: bool,
) -> None:
    """In a pod VM: join the pod's network, and pass the daemon's calls on to the Kata agent."""
    from caa.podvm import ForwarderOptions, run_forwarder  # noqa: PLC0415  see the module's docstring

    options_ = ForwarderOptions(
        config=config,
        listen=listen,
        kata_agent_socket=kata_agent_socket,
        pod_namespace=pod_namespace,
        host_interface=host_interface,
        ca_cert_file=ca_cert_file,
        cert_file=cert_file,
        cert_key=cert_key,
        tls_skip_verify=tls_skip_verify,
        disable_tls=disable_tls,
    )
    _until_signal(run_forwarder(options_))


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
    from caa.kata_agent import run_agent  # noqa: PLC0415  see the module's docstring

    _until_signal(run_agent(socket, pod_namespace))
