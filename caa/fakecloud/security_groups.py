"""Security groups and their rules. They are the account's books: the local cloud filters no packets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Inbound, as DescribeSecurityGroupAttribute shows it."""

    protocol: str
    """TCP, UDP, ICMP, GRE or ALL."""
    ports: str
    """`from/to`; `-1/-1` for all of them."""
    source: str
    """A network in CIDR form."""
    accept: bool = True
    priority: int = 1
    """1 to 100; the lower one counts."""


@dataclass(frozen=True)
class SecurityGroup:
    id: str
    vpc_id: str
    name: str = ""
    rules: tuple[Rule, ...] = ()
