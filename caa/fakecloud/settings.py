"""What a local cloud is told: where to listen, what its region holds, and how its clock ticks."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

from caa.fakecloud.timings import Timings
from caa.fakecloud.vswitches import VSwitch

VPC_CIDR = IPv4Network("10.64.0.0/16")


@dataclass(frozen=True)
class Image:
    id: str
    size_gib: int = 20


@dataclass(frozen=True, kw_only=True)
class FakeCloudSettings:
    """Times are in seconds. The region's contents are made up, but for the image that the guide names."""

    dir: Path
    """Gets `env`, `token` and `ca.pem`; made (0700) if it is not there."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one."""
    tls: bool = False
    boot: Literal["none", "netns"] = "none"
    boot_seconds: float = 0.3
    workers: tuple[str, ...] = ()
    """Network namespaces that join the VPC as worker nodes (only with boot="netns")."""

    credentials: Literal["rrsa", "keys"] = "rrsa"
    """What `env` gives a daemon: a role by the service account's token, or the account's own access key."""
    policy: Literal["published", "full"] = "published"
    allow: tuple[str, ...] = ()
    """Actions allowed beyond the policy, such as ecs:DescribeInstances."""
    token_seconds: float = 3600
    """Lifetime of a service account token; a new one is written at four fifths of it, as the kubelet does."""
    session_seconds: float | None = None
    """Overrides the length of role sessions, so that a renewal can be seen without waiting for it."""
    metadata_tokens_required: bool = False

    timings: Timings = field(default_factory=Timings)
    region: str = "cn-beijing"
    vpc_name: str = "fakecloud"
    """Of the VPC's network namespace (with boot="netns"); one cloud of a name at a time."""
    vpc_id: str = "vpc-2zelocalcloud0000000"
    vpc_cidr: IPv4Network = VPC_CIDR
    vswitches: tuple[VSwitch, ...] = (
        VSwitch("vsw-2zelocalcloudi000000", "cn-beijing-i", IPv4Network("10.64.0.0/20")),
        VSwitch("vsw-2zelocalcloudl000000", "cn-beijing-l", IPv4Network("10.64.16.0/20")),
    )
    """The first one is the daemon's."""
    security_groups: tuple[tuple[str, str], ...] = (
        ("sg-2zelocalcloud00000000", "vpc-2zelocalcloud0000000"),
        ("sg-2zesomeothervpc000000", "vpc-2zesomeothervpc00000"),
    )
    """Security group and its VPC. The first one is the daemon's."""
    images: tuple[Image, ...] = (Image("m-2ze1w9aj2aonwckv64cw"), Image("m-2zelocalcloud000000000"))
    """The first one is the daemon's."""
    key_pairs: tuple[str, ...] = ("local-key",)
    account_id: str = "1000000000000001"
    role_name: str = "caa-alibaba"
    service_account: str = "system:serviceaccount:confidential-containers-system:cloud-api-adaptor"

    @property
    def role_arn(self) -> str:
        return f"acs:ram::{self.account_id}:role/{self.role_name}"

    @property
    def oidc_provider_arn(self) -> str:
        return f"acs:ram::{self.account_id}:oidc-provider/ack-rrsa-local"
