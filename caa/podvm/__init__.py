"""What goes into a pod VM, and what runs in it.

Into it go, as user data, the forwarder's config with its TLS material, the pod's registry credentials and
its initdata; in it run the provisioning that writes these to files, and the agent protocol forwarder. Both
sides of each format live here, side by side, so that they can be tested against each other.

Names are imported when they are first used: provisioning runs at every boot of a VM, before the pod can
start, and must not wait for the import of TLS and netlink libraries that only the forwarder needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caa.podvm import initdata as initdata
    from caa.podvm.forwarder import ForwarderOptions as ForwarderOptions
    from caa.podvm.forwarder import run_forwarder as run_forwarder
    from caa.podvm.forwarder_config import ForwarderConfig as ForwarderConfig
    from caa.podvm.names import instance_name as instance_name
    from caa.podvm.provision import ProvisionOptions as ProvisionOptions
    from caa.podvm.provision import provision_files as provision_files
    from caa.podvm.tls import GIVEN_CERTIFICATE_NAME as GIVEN_CERTIFICATE_NAME
    from caa.podvm.tls import Authority as Authority
    from caa.podvm.tls import Credentials as Credentials
    from caa.podvm.tls import client_context as client_context
    from caa.podvm.tls import read_pem as read_pem
    from caa.podvm.tls import server_context as server_context
    from caa.podvm.userdata import build_user_data as build_user_data

_MODULES = {
    "GIVEN_CERTIFICATE_NAME": "tls",
    "Authority": "tls",
    "Credentials": "tls",
    "ForwarderConfig": "forwarder_config",
    "ForwarderOptions": "forwarder",
    "ProvisionOptions": "provision",
    "build_user_data": "userdata",
    "client_context": "tls",
    "instance_name": "names",
    "provision_files": "provision",
    "read_pem": "tls",
    "run_forwarder": "forwarder",
    "server_context": "tls",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
