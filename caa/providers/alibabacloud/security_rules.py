"""What a security group's rules let pass, evaluated as ECS does.

Rules of all of an instance's groups count together; the lower priority number wins, and among equals Drop
(ECS user guide, "Security group rules"). What no inbound rule is about is refused, unless it comes from
the same group and the group lets its members talk (InnerAccessPolicy); no outbound rule means allowed, which
is assumed for advanced groups, whose kind the API does not show here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import Any


class Passage(Enum):
    OPEN = auto()
    CLOSED = auto()
    DEPENDS = auto()
    """On whether the other side is in a group, or in a list of addresses, that a rule names."""


@dataclass(frozen=True)
class Flow:
    """Packets between a pod VM and the worker."""

    protocol: str
    port: int
    worker: IPv4Address

    def __str__(self) -> str:
        return f"{self.protocol} {self.port}"


def inbound(groups: Iterable[Mapping[str, Any]], flow: Flow) -> Passage:
    """Whether the groups, as DescribeSecurityGroupAttribute shows them, let it in from the worker."""
    groups = list(groups)
    found = _judge(groups, flow, "ingress", "Source")
    if found is Passage.CLOSED and any(group.get("InnerAccessPolicy") == "Accept" for group in groups):
        return Passage.DEPENDS if not _first_match(groups, flow, "ingress", "Source") else found
    return found


def outbound(groups: Iterable[Mapping[str, Any]], flow: Flow) -> Passage:
    """Whether they let it out to the worker."""
    groups = list(groups)
    if not _first_match(groups, flow, "egress", "Dest"):
        return Passage.OPEN
    return _judge(groups, flow, "egress", "Dest")


def _judge(groups: list[Mapping[str, Any]], flow: Flow, direction: str, side: str) -> Passage:
    rule = _first_match(groups, flow, direction, side)
    if rule is not None and _accepts(rule):
        return Passage.OPEN
    depends = any(
        _accepts(other) and (other.get(f"{side}GroupId") or other.get(f"{side}PrefixListId"))
        for other in _about(groups, flow, direction)
        if rule is None or _order(other) < _order(rule)
    )
    return Passage.DEPENDS if depends else Passage.CLOSED


def _first_match(
    groups: list[Mapping[str, Any]], flow: Flow, direction: str, side: str
) -> Mapping[str, Any] | None:
    rules = [rule for rule in _about(groups, flow, direction) if _contains(rule.get(f"{side}CidrIp"), flow)]
    return min(rules, key=_order, default=None)


def _about(groups: list[Mapping[str, Any]], flow: Flow, direction: str) -> list[Mapping[str, Any]]:
    return [
        rule
        for group in groups
        for rule in (group.get("Permissions") or {}).get("Permission") or ()
        if str(rule.get("Direction", "ingress")).lower() == direction
        and str(rule.get("IpProtocol", "")).upper() in ("ALL", flow.protocol)
        and _spans(str(rule.get("PortRange", "")), flow.port)
        and str(rule.get("SourcePortRange") or "-1/-1") in ("-1/-1", "1/65535")
    ]


def _order(rule: Mapping[str, Any]) -> tuple[int, bool]:
    priority = str(rule.get("Priority") or "1")
    return (int(priority) if priority.isdecimal() else 1), _accepts(rule)


def _accepts(rule: Mapping[str, Any]) -> bool:
    return str(rule.get("Policy", "Accept")).lower() == "accept"


def _spans(ports: str, port: int) -> bool:
    first, _, last = ports.partition("/")
    if first == "-1":
        return True
    return first.isdecimal() and last.isdecimal() and int(first) <= port <= int(last)


def _contains(network: object, flow: Flow) -> bool:
    try:
        return bool(network) and flow.worker in IPv4Network(str(network), strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        return False
