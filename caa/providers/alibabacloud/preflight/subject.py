"""What is checked, and with what."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from caa.config import AlibabaCloudSettings
from caa.providers.alibabacloud.client import Client
from caa.providers.alibabacloud.credentials import AccessKey, RoleSession
from caa.providers.alibabacloud.ordering import Orders


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked."""

    settings: AlibabaCloudSettings
    credentials: AccessKey | RoleSession
    ecs: Client
    vpc: Client
    run_instances: Mapping[str, Any] | None = None
    """A pod's RunInstances request, for the dry run; None: without."""
    second_interface: bool = False
    worker: IPv4Address | None = None
    """This node's address in the VPC; None: unknown."""
    forwarder_port: int = 15150
    vxlan_port: int = 4789

    @property
    def types(self) -> tuple[str, ...]:
        """Instance types that a pod may get; none: the launch template decides."""
        return Orders(self.settings, "").candidates
