"""What a local cloud is told: where to listen, what its region holds, and how its clock ticks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal

from caa.fakecloud.limits import Limit
from caa.fakecloud.security_groups import Rule, SecurityGroup
from caa.fakecloud.timings import Timings
from caa.fakecloud.vswitches import VSwitch

VPC_CIDR = IPv4Network("10.64.0.0/16")
PUBLIC_ADDRESSES = IPv4Network("198.18.0.0/15")
"""Set aside for benchmarks (RFC 2544), so nobody's real address."""


@dataclass(frozen=True)
class Image:
    id: str
    size_gib: int = 20
    name: str = ""
    """Empty: as its id."""
    own: bool = False
    """False: a community image, of another account."""


@dataclass(frozen=True, kw_only=True)
class FakeCloudSettings:
    """Times are in seconds. The region's contents are made up, but for the image that the guide names."""

    dir: Path
    """Gets `env`, `token` and `ca.pem`; made (0700) if it is not there."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free one."""
    oss_port: int = 0
    """OSS has a listener of its own. 0: any free port."""
    tls: bool = False
    boot: Literal["none", "netns"] = "none"
    boot_seconds: float = 0.3
    workers: tuple[str, ...] = ()
    """Network namespaces that join the VPC as worker nodes (only with boot="netns")."""

    credentials: Literal["rrsa", "keys"] = "rrsa"
    """What `env` gives a daemon: a role by the service account's token, or the account's own access key."""
    policy: str = "published"
    """The rights of the role and of the access key's user: published (in the guide), full, or the path of a
    RAM policy in JSON."""
    allow: tuple[str, ...] = ()
    """Actions allowed beyond the policy, such as ecs:DescribeInstances."""
    trust_policy: Path | None = None
    """A JSON file that says which tokens may assume the role, instead of the guide's trust policy."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """How often an action may be called; * stands for each that is not named."""
    token_seconds: float = 3600
    """Lifetime of a service account token; a new one is written at four fifths of it, as the kubelet does."""
    session_seconds: float | None = None
    """Overrides the length of role sessions, also below the 900 that the API takes, so that a renewal can be
    seen without waiting for it."""
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
    security_groups: tuple[SecurityGroup, ...] = (
        SecurityGroup(
            "sg-2zelocalcloud00000000",
            "vpc-2zelocalcloud0000000",
            "pod-vms",
            (Rule("TCP", "15150/15150", str(VPC_CIDR)), Rule("UDP", "4789/4789", str(VPC_CIDR))),
        ),
        SecurityGroup("sg-2zesomeothervpc000000", "vpc-2zesomeothervpc00000"),
    )
    """The first one is the daemon's."""
    stock: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """How many instances can be had, by zone and type; of what is not named, any number."""
    closed_zones: tuple[str, ...] = ()
    """Zones where nothing is on sale."""
    not_offered: tuple[tuple[str, str], ...] = ()
    """Zones and the types that are not sold there."""
    instance_quota: int | None = None
    """The largest number of instances of the account. None: any."""
    eni_quota: int = 500
    """The largest number of secondary network interfaces of the account: an assumption."""
    eip_quota: int = 20
    """The largest number of elastic addresses of the account: 20 is a new account's."""
    launch_templates: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By name, the parameters of RunInstances that each has."""
    images: tuple[Image, ...] = (
        Image("m-2ze1w9aj2aonwckv64cw", name="podvm-community"),
        Image("m-2zelocalcloud000000000", name="podvm-local", own=True),
    )
    """The first one is the daemon's."""
    image_quota: int = 20
    """How many images of its own the account may have."""
    image_import_role: bool = True
    """Whether ECS may read the account's buckets: the service role AliyunECSImageImportDefaultRole."""
    buckets: tuple[tuple[str, str], ...] = (("podvm-images", "cn-beijing"), ("podvm-far", "cn-hangzhou"))
    """OSS buckets of the account, each with its region."""
    key_pairs: tuple[str, ...] = ("local-key",)
    account_id: str = "1000000000000001"
    role_name: str = "caa-alibaba"
    user_name: str = "caa-local"
    """Of the RAM user whose access key the account's own is."""
    service_account: str = "system:serviceaccount:confidential-containers-system:cloud-api-adaptor"

    @property
    def role_arn(self) -> str:
        return f"acs:ram::{self.account_id}:role/{self.role_name}"

    @property
    def oidc_provider_arn(self) -> str:
        return f"acs:ram::{self.account_id}:oidc-provider/ack-rrsa-local"
