"""Exempts the tunnels' UDP flows from connection tracking, with nf_tables.

A tunnel is one endless flow of which nothing is to be known; tracking it costs a table entry for each of its
many source ports, and time for every packet. All tunnels of a namespace share one table of our own:

    table ip caa {
        map tunnels { type integer : verdict; elements = { 555000 : jump vni-555000 } }
        chain untracked { notrack }
        chain output {
            type filter hook output priority raw
            meta l4proto udp @th,96,24 vmap @tunnels
        }
        chain prerouting {
            type filter hook prerouting priority raw
            meta l4proto udp @th,96,24 vmap @tunnels
        }
        chain vni-555000 {
            ip daddr 10.10.0.9 th dport 4789 jump untracked
            ip saddr 10.10.0.9 th dport 4789 jump untracked
        }
    }

(`@th,96,24` is the VNI in a VXLAN header.) So a packet costs one look-up however many tunnels there are. A
tunnel is added by one transaction, which makes the table too if it is not there, and is removed by the name
of its chain. The table goes with the last tunnel: the kernel refuses to delete the chain `untracked` as long
as another jumps there, which makes that safe against a tunnel that comes up at the same moment, in another
process too.

The messages are written here byte by byte: pyroute2's take ten times as long as the kernel's work on them,
and its socket can't tell which namespace to use nor what was refused. Numbers are from
linux/netfilter/nf_tables.h.
"""

import errno
import functools
import socket
import struct
from ipaddress import IPv4Address

import structlog
from pyroute2.netlink import NETLINK_NETFILTER

from caa.errors import CaaError
from caa.tunnel.netlink import Netlink, NetlinkError, already
from caa.tunnel.netns import Namespace

log = structlog.get_logger(__name__)

_ATTEMPTS = 10
_TABLE = "caa"
_MAP = "tunnels"
_UNTRACKED = "untracked"

_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _DELTABLE = 0, 2
_NEWCHAIN, _GETCHAIN, _DELCHAIN = 3, 4, 5
_NEWRULE, _DELRULE = 6, 8
_NEWSET = 9
_NEWSETELEM, _DELSETELEM = 12, 14
_REQUEST, _ACK, _EXCLUSIVE, _CREATE, _APPEND = 0x1, 0x4, 0x200, 0x400, 0x800
_NESTED = 0x8000

_HOOK_PREROUTING, _HOOK_OUTPUT = 0, 3
_PRIORITY_RAW = -300
_REGISTER_VERDICT, _REGISTER_1 = 0, 1
_VERDICT_JUMP = -3
_META_L4PROTO = 16
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SADDR, _DADDR, _DPORT, _VNI = 12, 16, 2, 12  # offsets in their headers
_SET_MAP = 8
_TYPE_INTEGER, _TYPE_VERDICT = 4, 0xFFFFFF00  # what `nft` shows the map's keys and values as
_CHAIN_USE = 6


def exempt(namespace: Namespace, *, vni: int, remote: IPv4Address, port: int) -> None:
    """Let the tunnel's packets, to and from `remote`, pass untracked. Replaces what was there for this VNI.

    A kernel without the means for it costs a warning, once, and the tunnel works all the same.
    """
    try:
        with Netlink(namespace, NETLINK_NETFILTER) as netlink:
            _exempt(netlink, vni, remote, port)
    except (OSError, CaaError) as error:
        _warn(str(error))


def _exempt(netlink: Netlink, vni: int, remote: IPv4Address, port: int) -> None:
    for attempt in range(_ATTEMPTS):
        with_table = _users(netlink) is None
        batch = set_up_batch(vni, remote, port, with_table=with_table)
        try:
            netlink.exchange(batch, f"exempting VNI {vni} from connection tracking")
        except NetlinkError as error:
            # The table may have come, or gone with its last tunnel, between the look and the transaction.
            meanwhile = errno.EEXIST if with_table else errno.ENOENT
            if error.number != meanwhile or attempt == _ATTEMPTS - 1:
                raise
        else:
            return


def restore(namespace: Namespace, *, vni: int) -> None:
    """Undo `exempt` for this VNI, whether or not it has been done; remove the table with its last tunnel."""
    try:
        with Netlink(namespace, NETLINK_NETFILTER) as netlink:
            if _users(netlink) is None:
                return
            with already(errno.ENOENT):
                netlink.exchange(
                    removal_batch(vni), f"ending the exemption of VNI {vni} from connection tracking"
                )
            # Only the chain's own rule is left. The kernel counts again when it deletes: others come and go.
            if _users(netlink) == 1:
                with already(errno.ENOENT, errno.EBUSY):
                    netlink.exchange(table_removal_batch(), f"removing the nf_tables table {_TABLE}")
    except (OSError, CaaError) as error:
        _warn(str(error))


@functools.cache
def _warn(reason: str) -> None:
    """Say it once: it would be the same for every pod."""
    log.warning(
        "the tunnels' connection tracking exemption does not work; they do, at a higher cost per packet",
        reason=reason,
    )


def _users(netlink: Netlink) -> int | None:
    """The kernel's count of the rules in the chain `untracked` and of jumps to it; None without a table."""
    request = _message(_GETCHAIN, 0, _string(1, _TABLE) + _string(3, _UNTRACKED))
    try:
        (answer,) = netlink.exchange(request, f"looking up the nf_tables chain {_UNTRACKED}")
    except NetlinkError as error:
        if error.number == errno.ENOENT:
            return None
        raise
    offset = 20
    while offset + 4 <= len(answer.raw):
        length, kind = struct.unpack_from("=HH", answer.raw, offset)
        if kind == _CHAIN_USE:
            return int.from_bytes(answer.raw[offset + 4 : offset + 8], "big")
        offset += max(4, (length + 3) & ~3)
    return None


# Transactions


def set_up_batch(vni: int, remote: IPv4Address, port: int, *, with_table: bool) -> bytes:
    chain = _chain_name(vni)
    to_port = (_load(_TRANSPORT_HEADER, _DPORT, 2), _equals(struct.pack(">H", port)))
    return _batch(
        _shared_part() if with_table else b"",
        _new_chain(chain),
        _flush(chain),
        _new_rule(
            chain, _load(_NETWORK_HEADER, _DADDR, 4), _equals(remote.packed), *to_port, _jump(_UNTRACKED)
        ),
        _new_rule(
            chain, _load(_NETWORK_HEADER, _SADDR, 4), _equals(remote.packed), *to_port, _jump(_UNTRACKED)
        ),
        _elements(_NEWSETELEM, _CREATE, vni, _nested(2, _verdict_jump(chain))),
    )


def removal_batch(vni: int) -> bytes:
    return _batch(
        _elements(_DELSETELEM, 0, vni),
        _message(_DELCHAIN, 0, _string(1, _TABLE) + _string(3, _chain_name(vni))),
    )


def table_removal_batch() -> bytes:
    return _batch(
        _message(_DELCHAIN, 0, _string(1, _TABLE) + _string(3, _UNTRACKED)),
        _message(_DELTABLE, 0, _string(1, _TABLE)),
    )


@functools.cache
def _shared_part() -> bytes:
    by_vni = (
        _expression("meta", _number(1, _REGISTER_1) + _number(2, _META_L4PROTO)),
        _equals(bytes([socket.IPPROTO_UDP])),
        _load(_TRANSPORT_HEADER, _VNI, 3),
        _expression("lookup", _string(1, _MAP) + _number(2, _REGISTER_1) + _number(3, _REGISTER_VERDICT)),
    )
    return b"".join(
        (
            _message(_NEWTABLE, _CREATE | _EXCLUSIVE, _string(1, _TABLE)),
            _message(
                _NEWSET,
                _CREATE,
                _string(1, _TABLE)
                + _string(2, _MAP)
                + _number(3, _SET_MAP)
                + _number(4, _TYPE_INTEGER)
                + _number(5, 3)
                + _number(6, _TYPE_VERDICT)
                + _number(10, 1),
            ),
            _new_chain(_UNTRACKED),
            _new_chain("output", _HOOK_OUTPUT),
            _new_chain("prerouting", _HOOK_PREROUTING),
            _new_rule(_UNTRACKED, _expression("notrack", b"")),
            _new_rule("output", *by_vni),
            _new_rule("prerouting", *by_vni),
        )
    )


def _chain_name(vni: int) -> str:
    return f"vni-{vni}"


def _new_chain(name: str, hook: int | None = None) -> bytes:
    attributes = _string(1, _TABLE) + _string(3, name)
    if hook is not None:
        priority = _attribute(2, struct.pack(">i", _PRIORITY_RAW))
        attributes += _nested(4, _number(1, hook) + priority) + _string(7, "filter")
    return _message(_NEWCHAIN, _CREATE, attributes)


def _flush(chain: str) -> bytes:
    return _message(_DELRULE, 0, _string(1, _TABLE) + _string(2, chain))


def _new_rule(chain: str, *expressions: bytes) -> bytes:
    listed = b"".join(_nested(1, expression) for expression in expressions)
    return _message(_NEWRULE, _CREATE | _APPEND, _string(1, _TABLE) + _string(2, chain) + _nested(4, listed))


def _elements(kind: int, flags: int, vni: int, data: bytes = b"") -> bytes:
    key = _nested(1, _attribute(1, vni.to_bytes(3, "big")))
    return _message(kind, flags, _string(1, _TABLE) + _string(2, _MAP) + _nested(3, _nested(1, key + data)))


# Expressions of a rule


def _expression(name: str, data: bytes) -> bytes:
    return _string(1, name) + (_nested(2, data) if data else b"")


def _load(header: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload", _number(1, _REGISTER_1) + _number(2, header) + _number(3, offset) + _number(4, length)
    )


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REGISTER_1) + _number(2, 0) + _nested(3, _attribute(1, value)))


def _jump(chain: str) -> bytes:
    return _expression("immediate", _number(1, _REGISTER_VERDICT) + _nested(2, _verdict_jump(chain)))


def _verdict_jump(chain: str) -> bytes:
    return _nested(2, _attribute(1, struct.pack(">i", _VERDICT_JUMP)) + _string(2, chain))


# Netlink


def _batch(*messages: bytes) -> bytes:
    return b"".join((_edge(_BATCH_BEGIN), *messages, _edge(_BATCH_END)))


def _edge(kind: int) -> bytes:
    return struct.pack("=IHHII", 20, kind, _REQUEST, 0, 0) + struct.pack(">BBH", 0, 0, _SUBSYSTEM)


def _message(kind: int, flags: int, attributes: bytes) -> bytes:
    header = struct.pack(
        "=IHHII", 20 + len(attributes), _SUBSYSTEM << 8 | kind, _REQUEST | _ACK | flags, 0, 0
    )
    return header + struct.pack(">BBH", socket.AF_INET, 0, 0) + attributes


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _string(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))
