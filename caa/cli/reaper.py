"""The reaper."""

from collections.abc import Mapping

from caa.cli.common import command_with_settings, reaper_settings_of, until_signal
from caa.cli.group import cli
from caa.config import reaper_options


@command_with_settings(
    cli,
    settings=reaper_options,
    epilog="Rights in the cluster: get, list, watch, patch peerpods.confidentialcontainers.org; get pods,"
    " nodes; in its own namespace get, create, update leases.coordination.k8s.io. In the cloud:"
    " ecs:DescribeInstanceAttribute, ecs:DeleteInstance and, for second interfaces with public addresses,"
    " what the daemon has for those. With ecs:DescribeInstances it checks tags beside names.",
)
def reaper(flags: Mapping[str, str]) -> None:
    """Delete the VMs of pods whose node is gone for good. One for a cluster, as a Deployment.

    A pod's own node deletes its VM; a node that dies can't, and its VMs go on costing money. The reaper
    watches the PeerPod objects, the Go daemon's too, and deletes an instance, and then the object's
    finalizer, when one of these has lasted:

    \b
      the pod does not exist any more                              --grace
      it is being deleted, and its node does not exist any more    --grace, after the pod's own
      it is being deleted, and its node is not ready               --node-grace

    It never touches the VM of a pod that exists and is not being deleted, an instance that is not named
    (and tagged, where it may see that) after the object's pod, nor anything while the API server does not
    answer. If more than --max-share percent of all VMs were to go at once, it deletes none and says so.

    Of several reapers one acts, and another takes over when that ends. See first what it would do:

    \b
      caa reaper --dry-run
    """  # noqa: D301  \b tells click not to wrap what follows
    settings = reaper_settings_of(flags)

    from caa import logs  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`
    from caa.reaper import run  # noqa: PLC0415  as above

    logs.configure(settings.log_level, settings.log_format)
    until_signal(run(settings), on_hangup=logs.toggle_debug)
