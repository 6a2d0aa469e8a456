"""Rules of security groups as DescribeSecurityGroupAttribute shows them."""

from ipaddress import IPv4Address
from typing import Any

import pytest

from caa.providers.alibabacloud.security_rules import Flow, Passage, inbound, outbound

AGENT = Flow("TCP", 15150, IPv4Address("10.0.0.5"))


def rule(**changes: str) -> dict[str, str]:
    return {
        "Direction": "ingress",
        "IpProtocol": "TCP",
        "PortRange": "15150/15150",
        "SourceCidrIp": "10.0.0.0/16",
        "Policy": "Accept",
        "Priority": "1",
    } | changes


def group(*rules: dict[str, str], inner: str = "Drop") -> dict[str, Any]:
    return {"InnerAccessPolicy": inner, "Permissions": {"Permission": list(rules)}}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], Passage.CLOSED),
        ([rule()], Passage.OPEN),
        ([rule(IpProtocol="ALL", PortRange="-1/-1", SourceCidrIp="0.0.0.0/0")], Passage.OPEN),
        ([rule(PortRange="1/65535")], Passage.OPEN),
        ([rule(IpProtocol="UDP")], Passage.CLOSED),
        ([rule(PortRange="1/15149")], Passage.CLOSED),
        ([rule(SourceCidrIp="10.1.0.0/16")], Passage.CLOSED),
        ([rule(SourceCidrIp="10.0.0.5")], Passage.OPEN),
        ([rule(SourceCidrIp="not a network")], Passage.CLOSED),
        ([rule(SourcePortRange="7/7")], Passage.CLOSED),
        ([rule(Policy="Drop")], Passage.CLOSED),
        # The lower number first, and Drop among equals.
        ([rule(), rule(Policy="Drop")], Passage.CLOSED),
        ([rule(), rule(Policy="Drop", Priority="2")], Passage.OPEN),
        ([rule(Priority="2"), rule(Policy="Drop")], Passage.CLOSED),
        # Of a group of senders nothing is known.
        ([rule(SourceCidrIp="", SourceGroupId="sg-nodes")], Passage.DEPENDS),
        (
            [rule(SourceCidrIp="", SourcePrefixListId="pl-1"), rule(Policy="Drop", Priority="2")],
            Passage.DEPENDS,
        ),
        (
            [rule(SourceCidrIp="", SourceGroupId="sg-nodes", Priority="2"), rule(Policy="Drop")],
            Passage.CLOSED,
        ),
        ([rule(Direction="egress", DestCidrIp="0.0.0.0/0")], Passage.CLOSED),
    ],
)
def test_inbound(rules: list[dict[str, str]], expected: Passage) -> None:
    assert inbound([group(*rules)], AGENT) is expected


def test_rules_of_all_groups_count_together() -> None:
    assert inbound([group(), group(rule())], AGENT) is Passage.OPEN
    assert inbound([group(rule(Policy="Drop")), group(rule())], AGENT) is Passage.CLOSED


def test_members_of_a_group_may_talk() -> None:
    assert inbound([group(inner="Accept")], AGENT) is Passage.DEPENDS
    assert inbound([group(rule(Policy="Drop"), inner="Accept")], AGENT) is Passage.CLOSED


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], Passage.OPEN),
        (
            [rule(Direction="egress", DestCidrIp="0.0.0.0/0", IpProtocol="ALL", PortRange="-1/-1")],
            Passage.OPEN,
        ),
        ([rule(Direction="egress", DestCidrIp="10.0.0.0/8", Policy="Drop")], Passage.CLOSED),
        ([rule(Policy="Drop")], Passage.OPEN),
    ],
)
def test_outbound(rules: list[dict[str, str]], expected: Passage) -> None:
    assert outbound([group(*rules)], AGENT) is expected
