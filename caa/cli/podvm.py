"""What runs in a pod VM."""

import asyncio
from pathlib import Path

import click

from caa.cli.common import seconds, until_signal
from caa.cli.group import cli


@cli.group("process-user-data")
def process_user_data() -> None:
    """In a pod VM: act on the user data that the instance was created with."""


@process_user_data.command("provision-files")
@click.option(
    "-t",
    "--timeout",
    default="180",
    show_default=True,
    callback=seconds,
    help="How long to try, in seconds.",
)
def provision_files(timeout: float) -> None:
    """Fetch the user data and write the files in it that a pod VM knows.

    From /media/cidata/user-data if that is there, else from the metadata service.
    """
    from caa.podvm import ProvisionOptions, provision_files  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

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
    from caa.podvm import ForwarderOptions, run_forwarder  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

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
    until_signal(run_forwarder(options_))
