"""What goes over netlink and how answers are read, without a kernel."""

import errno
import struct
from ipaddress import IPv4Address
from typing import Any, Self

import pytest
from pyroute2.netlink.nfnetlink.nftsocket import (
    nft_chain_msg,
    nft_rule_msg,
    nft_set_elem_list_msg,
    nft_set_msg,
    nft_table_msg,
)

from caa.tunnel import NetlinkError, firewall
from caa.tunnel.netlink import Message, Netlink, already
from caa.tunnel.rtnetlink import Rtnetlink

REMOTE = IPv4Address("10.10.0.9")
DECODERS = {
    0: nft_table_msg,
    2: nft_table_msg,
    3: nft_chain_msg,
    5: nft_chain_msg,
    6: nft_rule_msg,
    8: nft_rule_msg,
    9: nft_set_msg,
    12: nft_set_elem_list_msg,
    14: nft_set_elem_list_msg,
}


def decoded(batch: bytes) -> list[Any]:
    """The messages of a transaction as pyroute2 reads them, without its two edges."""
    messages, offset = [], 0
    while offset < len(batch):
        length, kind = struct.unpack_from("=IH", batch, offset)
        messages.append((kind, batch[offset : offset + length]))
        offset += length
    assert offset == len(batch)
    assert [messages[0][0], messages[-1][0]] == [0x10, 0x11]
    found = []
    for kind, raw in messages[1:-1]:
        assert kind >> 8 == 10
        message = DECODERS[kind & 0xFF](raw)
        message.decode()
        assert message["header"]["flags"] & 0x5 == 0x5, "a request, to be acknowledged"
        assert message["nfgen_family"] == 2
        found.append((kind & 0xFF, message))
    return found


def expressions(rule: Any) -> list[str]:
    return [e.get_attr("NFTA_EXPR_NAME") for e in rule.get_attr("NFTA_RULE_EXPRESSIONS")]


def test_first_tunnel_brings_the_table() -> None:
    messages = decoded(firewall.set_up_batch(555000, REMOTE, 4789, with_table=True))
    # Only the table must be new: who finds one adds to it.
    assert [kind for kind, m in messages if m["header"]["flags"] & 0x200] == [0]
    chains = [m for kind, m in messages if kind == 3]
    assert [c.get_attr("NFTA_CHAIN_NAME") for c in chains] == [
        "untracked",
        "output",
        "prerouting",
        "vni-555000",
    ]
    hooks = [c.get_attr("NFTA_CHAIN_HOOK") for c in chains]
    assert [h and (h.get_attr("NFTA_HOOK_HOOKNUM"), h.get_attr("NFTA_HOOK_PRIORITY")) for h in hooks] == [
        None,
        (3, -300),
        (0, -300),
        None,
    ]
    rules = [(m.get_attr("NFTA_RULE_CHAIN"), expressions(m)) for kind, m in messages if kind == 6]
    by_vni = ["meta", "cmp", "payload", "lookup"]
    by_flow = ["payload", "cmp", "payload", "cmp", "immediate"]
    assert rules == [
        ("untracked", ["notrack"]),
        ("output", by_vni),
        ("prerouting", by_vni),
        ("vni-555000", by_flow),
        ("vni-555000", by_flow),
    ]


def test_further_tunnel_brings_its_chain_and_its_element() -> None:
    messages = decoded(firewall.set_up_batch(555000, REMOTE, 4789, with_table=False))
    # The chain, which is emptied in case there is one, two rules for it, and the way to it.
    assert [kind for kind, _ in messages] == [3, 8, 6, 6, 12]
    assert {m.get_attr("NFTA_RULE_CHAIN") for kind, m in messages if kind in {6, 8}} == {"vni-555000"}
    (only,) = messages[-1][1].get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")
    assert only.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE") == (555000).to_bytes(3, "big")
    verdict = only.get_attr("NFTA_SET_ELEM_DATA").get_attr("NFTA_DATA_VERDICT")
    assert verdict.get_attr("NFTA_VERDICT_CHAIN") == "vni-555000"


def test_removal_names_only_what_is_the_tunnels() -> None:
    (element, chain) = (message for _, message in decoded(firewall.removal_batch(16777215)))
    (only,) = element.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS")
    assert only.get_attr("NFTA_SET_ELEM_KEY").get_attr("NFTA_DATA_VALUE") == b"\xff\xff\xff"
    assert chain.get_attr("NFTA_CHAIN_NAME") == "vni-16777215"


def test_tables_removal_tries_the_chain_that_is_in_use_first() -> None:
    assert [kind for kind, _ in decoded(firewall.table_removal_batch())] == [5, 2]


class Kernel:
    """Stands for a namespace and its socket, with answers as the kernel would give them; b"" ends one
    request's.
    """

    name = "somewhere"

    def __init__(self, *answers: bytes) -> None:
        self.requests: list[bytes] = []
        self._answers = list(answers)

    def open_netlink(self, protocol: int) -> Self:
        return self

    def setsockopt(self, *option: int) -> None:
        pass

    def send(self, request: bytes) -> int:
        self.requests.append(request)
        return len(request)

    def recv(self, size: int, flags: int) -> bytes:
        if not self._answers or not self._answers[0]:
            del self._answers[:1]
            raise BlockingIOError
        return self._answers.pop(0)

    def close(self) -> None:
        pass


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    padded = body + bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + padded


def exchange(*answers: bytes) -> list[bytes]:
    with Netlink(Kernel(*answers), 0) as netlink:  # type: ignore[arg-type]  # stands for a namespace
        return [answer.raw[16:] for answer in netlink.exchange(b"", "asking")]


REQUEST_HEADER = bytes(16)
FINE = message(2, struct.pack("=i", 0) + REQUEST_HEADER, 0x100)
DONE = message(3, struct.pack("=i", 0))


def refused(number: int, text: bytes = b"", *, capped: bool = True, request: bytes = REQUEST_HEADER) -> bytes:
    attribute = struct.pack("=HH", 4 + len(text), 1) + text if text else b""
    other = struct.pack("=HHI", 8, 2, 4)
    flags = (0x100 if capped else 0) | (0x200 if text else 0)
    return message(2, struct.pack("=i", -number) + request + (other + attribute if text else b""), flags)


def test_answers_come_in_one_piece_or_several() -> None:
    one, two = message(16, b"onee"), message(16, b"twoo")
    assert exchange(one + two + DONE) == [b"onee", b"twoo"]
    assert exchange(one, two, DONE) == [b"onee", b"twoo"]
    assert exchange(FINE + FINE) == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (refused(17), "asking in somewhere: File exists"),
        (refused(17, b"VNI in use\0"), "asking in somewhere: File exists (VNI in use)"),
        (
            refused(17, b"VNI in use\0", capped=False, request=struct.pack("=I", 24) + bytes(20)),
            "asking in somewhere: File exists (VNI in use)",
        ),
        (message(3, struct.pack("=i", -17)), "asking in somewhere: File exists"),
    ],
)
def test_refusal_tells_what_and_why(answer: bytes, text: str) -> None:
    with pytest.raises(NetlinkError) as caught:
        exchange(FINE, answer, FINE)
    assert str(caught.value) == text
    assert caught.value.number == 17


def test_first_refusal_is_the_one_that_is_told() -> None:
    with pytest.raises(NetlinkError, match="No such file"):
        exchange(refused(2) + refused(17))


@pytest.mark.parametrize("answers", [(), (message(16, b"part"),)])
def test_answer_without_an_end_is_no_answer(answers: tuple[bytes, ...]) -> None:
    with pytest.raises(NetlinkError, match="no end"):
        exchange(*answers)


@pytest.mark.parametrize("cut", range(16, 36))
def test_cut_off_answer_is_survived(cut: int) -> None:
    whole = refused(17, b"text\0")
    with pytest.raises(NetlinkError):
        exchange(whole[:cut], refused(1))


INTERRUPTED = 0x10


def test_list_that_changed_while_it_was_read_is_read_again() -> None:
    changed_end = message(3, struct.pack("=i", 0), INTERRUPTED)
    kernel = Kernel(message(16, bytes(16), INTERRUPTED) + DONE, b"", changed_end, b"", DONE)
    with Rtnetlink(kernel) as netlink:  # type: ignore[arg-type]  # stands for a namespace
        assert netlink.links() == []
    assert len(kernel.requests) == 3
    assert len(set(kernel.requests)) == 1


def test_list_that_changes_all_the_time_is_given_up() -> None:
    kernel = Kernel(*[message(3, struct.pack("=i", 0), INTERRUPTED), b""] * 20)
    with Rtnetlink(kernel) as netlink, pytest.raises(NetlinkError, match="changed while it was read"):  # type: ignore[arg-type]  # as above
        netlink.links()
    assert len(kernel.requests) == 10


def test_what_is_done_already_is_fine() -> None:
    def refuse(*fine: int) -> None:
        with already(*fine):
            raise NetlinkError("doing it again", 17)

    refuse(2, 17)
    with pytest.raises(NetlinkError):
        refuse(2)


# The exemption when others make and remove the table meanwhile


class Changing:
    """Stands for a netlink socket on nf_tables, with an errno or 0 for each transaction."""

    def __init__(self, *outcomes: int, table: bool) -> None:
        self.transactions: list[bool] = []
        self._outcomes = list(outcomes)
        self._table = table

    def exchange(self, request: bytes, doing: str) -> list[Message]:
        if doing.startswith("looking up"):
            if not self._table:
                raise NetlinkError(doing, errno.ENOENT)
            return [Message(0, 0, bytes(20) + struct.pack("=HH", 8, 6) + struct.pack(">I", 1))]
        self.transactions.append(any(kind == 0 for kind, _ in decoded(request)))
        if outcome := self._outcomes.pop(0):
            self._table = outcome == errno.EEXIST
            raise NetlinkError(doing, outcome)
        return []


@pytest.mark.parametrize(
    ("table", "outcomes", "with_table"),
    [
        (False, [0], [True]),
        (True, [0], [False]),
        (False, [errno.EEXIST, 0], [True, False]),
        (True, [errno.ENOENT, 0], [False, True]),
        (True, [errno.ENOENT, errno.EEXIST, 0], [False, True, False]),
    ],
)
def test_table_that_comes_or_goes_meanwhile(table: bool, outcomes: list[int], with_table: list[bool]) -> None:
    changing = Changing(*outcomes, table=table)
    firewall._exempt(changing, 7, REMOTE, 4789)  # type: ignore[arg-type]  # stands for a socket
    assert changing.transactions == with_table


@pytest.mark.parametrize(
    ("table", "outcomes"),
    [(False, [errno.ENOENT]), (True, [errno.EPERM]), (True, [errno.ENOENT, errno.EEXIST] * 5)],
)
def test_lack_of_means_or_of_luck_ends(table: bool, outcomes: list[int]) -> None:
    """ENOENT with a table of one's own: the kernel lacks an expression, and will at the next attempt too."""
    changing = Changing(*outcomes, table=table)
    with pytest.raises(NetlinkError):
        firewall._exempt(changing, 7, REMOTE, 4789)  # type: ignore[arg-type]  # as above
    assert len(changing.transactions) == len(outcomes)
