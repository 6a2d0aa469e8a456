"""A local cloud: ECS, VPC, STS and the metadata service of Alibaba Cloud over HTTP, for tests, demonstrations
and development without an account.

It speaks the real wire protocol, keeps real state with real delays, and answers with the real error codes, so
that the unmodified SDKs can't tell the difference. It imports nothing of the daemon's, so that it can't share
its mistakes.
"""

from caa.fakecloud.boot import Boot, Interface, Machine, NoBoot
from caa.fakecloud.calls import Call
from caa.fakecloud.eips import Eip, EipStatus
from caa.fakecloud.enis import Eni, EniStatus
from caa.fakecloud.faults import Fault
from caa.fakecloud.instances import Instance, Status
from caa.fakecloud.limits import Limit, parse_limits
from caa.fakecloud.netns import FOLDER as NETNS_FOLDER
from caa.fakecloud.netns import Namespace, apart, netlink
from caa.fakecloud.orders import Order
from caa.fakecloud.policy import PolicyError
from caa.fakecloud.security_groups import Rule, SecurityGroup
from caa.fakecloud.service import LocalCloud, run
from caa.fakecloud.settings import FakeCloudSettings, Image
from caa.fakecloud.timings import Timings
from caa.fakecloud.vswitches import VSwitch

__all__ = [
    "NETNS_FOLDER",
    "Boot",
    "Call",
    "Eip",
    "EipStatus",
    "Eni",
    "EniStatus",
    "FakeCloudSettings",
    "Fault",
    "Image",
    "Instance",
    "Interface",
    "Limit",
    "LocalCloud",
    "Machine",
    "Namespace",
    "NoBoot",
    "Order",
    "PolicyError",
    "Rule",
    "SecurityGroup",
    "Status",
    "Timings",
    "VSwitch",
    "apart",
    "netlink",
    "parse_limits",
    "run",
]
