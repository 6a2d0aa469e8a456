import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.agent_proxy.passthrough import (
    CreateContainer,
    RequestScanner,
    ResponseTracker,
    Undecodable,
    error_response,
)
from caa.errors import Code, InvalidArgumentError, ResourceExhaustedError
from caa.proto import agent_pb2, ttrpc_pb2
from caa.ttrpc import MAX_DATA, Frame, FrameDecoder, FrameType, Oversized, encode_frame

SERVICE, METHOD = "grpc.AgentService", "CreateContainer"


def call(service: str = SERVICE, method: str = METHOD, payload: bytes = b"", stream_id: int = 1) -> bytes:
    data = ttrpc_pb2.Request(service=service, method=method, payload=payload).SerializeToString()
    return encode_frame(Frame(stream_id, FrameType.REQUEST, 0, data))


def create(**fields: object) -> bytes:
    return call(payload=agent_pb2.CreateContainerRequest(**fields).SerializeToString())  # type: ignore[arg-type]  # any


def bytes_of(piece: bytes | CreateContainer) -> bytes:
    return encode_frame(piece.frame) if isinstance(piece, CreateContainer) else piece


def feed_all(data: bytes, cuts: list[int]) -> list[bytes | CreateContainer]:
    """What comes out if `data` arrives in pieces of the lengths `cuts`, over and over."""
    scanner, pieces, at, turn = RequestScanner(), [], 0, 0
    while at < len(data):
        size = cuts[turn % len(cuts)]
        pieces += scanner.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


names = st.sampled_from(
    [SERVICE, METHOD, "grpc.Health", "Check", "", "CreateContainers", "x" * 70, "x" * 200]
)
calls = st.builds(call, names, names, st.binary(max_size=200), st.integers(0, 2**32 - 1))
frames = st.builds(
    lambda *parts: encode_frame(Frame(*parts)),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=200),
)


@given(st.lists(frames | calls, max_size=8), st.lists(st.integers(1, 100), min_size=1, max_size=4))
def test_bytes_pass_as_they_are_however_they_arrive(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)
    pieces = feed_all(data, cuts)
    assert b"".join(map(bytes_of, pieces)) == data
    decoder = FrameDecoder()
    decoder.feed(data)
    expected = []
    for frame in decoder:
        assert isinstance(frame, Frame)
        if frame.type == FrameType.REQUEST:
            try:
                request = ttrpc_pb2.Request.FromString(frame.data)
                agent_pb2.CreateContainerRequest.FromString(request.payload)
            except Exception:  # noqa: BLE001  what does not decode is not opened
                continue
            if (request.service, request.method) == (SERVICE, METHOD):
                expected.append(frame)
    assert [piece.frame for piece in pieces if isinstance(piece, CreateContainer)] == expected


def test_what_is_received_at_once_is_sent_on_at_once() -> None:
    data = call("grpc.Health", "Check") * 3
    assert RequestScanner().feed(data) == [data]


def test_a_large_frame_of_another_method_is_not_held() -> None:
    data = call(method="CopyFile", payload=bytes(MAX_DATA - 100))
    scanner, out = RequestScanner(), 0
    for at in range(0, len(data), 50_000):
        out += sum(len(bytes_of(piece)) for piece in scanner.feed(data[at : at + 50_000]))
        assert out == min(at + 50_000, len(data))


def test_an_oversized_frame_passes_in_pieces_and_what_follows_is_found() -> None:
    length = MAX_DATA + 1
    header = Oversized(3, FrameType.REQUEST, 0, length).encode_header()
    scanner = RequestScanner()
    assert scanner.feed(header) == [header]
    for _ in range(0, length - 1, 2**20):
        assert scanner.feed(bytes(2**20)) == [bytes(2**20)]
    (last, opened) = scanner.feed(b"\0" + create(container_id="c"))
    assert last == b"\0"
    assert isinstance(opened, CreateContainer)
    assert opened.request.container_id == "c"


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 1, 3), (1, 3, 2), (3, 1, 2)])
def test_the_order_of_fields_does_not_matter(order: tuple[int, ...]) -> None:
    payload = agent_pb2.CreateContainerRequest(container_id="c" * 70).SerializeToString()
    values = {1: SERVICE.encode(), 2: METHOD.encode(), 3: payload}
    data = b"".join(field(number, values[number]) for number in order)
    (opened,) = RequestScanner().feed(encode_frame(Frame(1, FrameType.REQUEST, 0, data)))
    assert isinstance(opened, CreateContainer)
    assert opened.request.container_id == "c" * 70


@pytest.mark.parametrize("kind", [FrameType.RESPONSE, FrameType.DATA, 9])
def test_only_requests_are_opened(kind: int) -> None:
    (frame,) = RequestScanner().feed(
        create(container_id="c")[:8] + bytes([kind, 0]) + create(container_id="c")[10:]
    )
    assert isinstance(frame, bytes)


@pytest.mark.parametrize("payload", [b"\xff", b"\x0a\x02\xff\xff"])
def test_one_that_does_not_decode_passes_and_is_marked(payload: bytes) -> None:
    frame = call(payload=payload)
    (piece,) = RequestScanner().feed(frame)
    assert isinstance(piece, Undecodable)
    assert piece == frame


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


@st.composite
def unknown_fields(draw: st.DrawFn) -> bytes:
    """Encoded fields whose numbers no message of proto/ declares."""
    encoded = b""
    for number in draw(st.lists(st.integers(100, 18_000), max_size=4)):
        match draw(st.sampled_from([0, 1, 2, 5])):
            case 0:
                encoded += varint(number << 3) + varint(draw(st.integers(0, 2**64 - 1)))
            case 1:
                encoded += varint(number << 3 | 1) + draw(st.binary(min_size=8, max_size=8))
            case 2:
                value = draw(st.binary(max_size=20))
                encoded += varint(number << 3 | 2) + varint(len(value)) + value
            case _:
                encoded += varint(number << 3 | 5) + draw(st.binary(min_size=4, max_size=4))
    return encoded


@given(st.lists(unknown_fields(), min_size=6, max_size=6), st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_unknown_fields_survive_a_change_at_every_level(
    unknown: list[bytes], timeout: int, flags: int
) -> None:
    mount = agent_pb2.Mount.FromString(agent_pb2.Mount(destination="/data").SerializeToString() + unknown[0])
    linux = agent_pb2.Linux.FromString(unknown[1])
    spec = agent_pb2.Spec.FromString(
        agent_pb2.Spec(Mounts=[mount], Linux=linux).SerializeToString() + unknown[2]
    )
    request = agent_pb2.CreateContainerRequest(container_id="c", OCI=spec).SerializeToString() + unknown[3]
    pair = ttrpc_pb2.KeyValue.FromString(
        ttrpc_pb2.KeyValue(key="k", value="v").SerializeToString() + unknown[4]
    )
    envelope = ttrpc_pb2.Request(
        service=SERVICE, method=METHOD, payload=request, timeout_nano=timeout, metadata=[pair]
    )
    frame = Frame(77, FrameType.REQUEST, flags, envelope.SerializeToString() + unknown[5])
    (opened,) = RequestScanner().feed(encode_frame(frame))
    assert isinstance(opened, CreateContainer)

    opened.request.OCI.Annotations["added"] = "by us"

    decoder = FrameDecoder()
    decoder.feed(opened.encode())
    (changed,) = decoder
    assert isinstance(changed, Frame)
    assert changed[:3] == frame[:3]
    sent_call = ttrpc_pb2.Request.FromString(changed.data)
    assert changed.data.endswith(unknown[5])
    assert sent_call.timeout_nano == timeout
    assert sent_call.metadata[0].SerializeToString() == pair.SerializeToString()
    assert sent_call.payload.endswith(unknown[3])
    result = agent_pb2.CreateContainerRequest.FromString(sent_call.payload)
    assert result.OCI.Annotations == {"added": "by us"}
    assert result.OCI.Mounts[0].SerializeToString() == mount.SerializeToString()
    assert result.OCI.Linux.SerializeToString() == linux.SerializeToString()
    assert result.OCI.SerializeToString().endswith(unknown[2])


def test_one_that_outgrows_a_frame_is_refused() -> None:
    (opened,) = RequestScanner().feed(create(container_id="c" * (MAX_DATA - 200)))
    assert isinstance(opened, CreateContainer)
    opened.encode()
    opened.request.exec_id = "e" * 200
    with pytest.raises(ResourceExhaustedError):
        opened.encode()


@given(
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.integers(1, 50), min_size=1, max_size=4),
    st.integers(0, 5),
)
def test_a_frame_can_be_put_in_wherever_the_tracker_says(
    bodies: list[bytes], cuts: list[int], skip: int
) -> None:
    """One frame is put in at the first place after `skip` pieces, and the result still decodes."""
    stream = [Frame(number, FrameType.RESPONSE, 0, body) for number, body in enumerate(bodies)]
    data = b"".join(map(encode_frame, stream))
    ours = Frame(999, FrameType.RESPONSE, 0, b"ours")
    tracker, out, at, turn, waiting = ResponseTracker(), b"", 0, 0, False
    while at < len(data):
        if turn == skip and not waiting:
            waiting = True
            if tracker.between_frames:
                out, skip = out + encode_frame(ours), -1
        piece = data[at : at + cuts[turn % len(cuts)]]
        at, turn = at + len(piece), turn + 1
        boundary = tracker.feed(piece)
        if waiting and skip >= 0 and boundary is not None:
            out += piece[:boundary] + encode_frame(ours) + piece[boundary:]
            skip = -1
        else:
            out += piece
    decoder = FrameDecoder()
    decoder.feed(out)
    assert [frame for frame in decoder if frame != ours] == stream
    assert not waiting or skip == -1
    assert tracker.between_frames


def test_oversized_answers_are_followed_too() -> None:
    tracker = ResponseTracker()
    assert tracker.feed(struct.pack(">IIBB", 5_000_000, 1, 2, 0)) == 0
    assert tracker.feed(bytes(4_999_999)) is None
    assert not tracker.between_frames
    assert tracker.feed(b"\0") == 1
    assert tracker.between_frames


def test_an_error_that_quotes_much_still_fits() -> None:
    decoder = FrameDecoder()
    decoder.feed(error_response(5, InvalidArgumentError("x" * MAX_DATA)))
    (frame,) = decoder
    assert isinstance(frame, Frame)


def test_an_error_becomes_a_response() -> None:
    decoder = FrameDecoder()
    decoder.feed(error_response(5, InvalidArgumentError("not so")))
    (frame,) = decoder
    assert isinstance(frame, Frame)
    assert frame[:3] == (5, FrameType.RESPONSE, 0)
    status = ttrpc_pb2.Response.FromString(frame.data).status
    assert (status.code, status.message) == (Code.INVALID_ARGUMENT, "not so")


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4))
def test_trace_context_reaches_the_agent_whether_its_request_is_opened_or_not(cuts: list[int]) -> None:
    """Through the worker's end and the VM's, which both change the request."""
    sent = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1,b=2"}
    stream = b""
    for stream_id, method in enumerate(("StartContainer", METHOD)):
        request = ttrpc_pb2.Request(service=SERVICE, method=method, timeout_nano=60_000_000_000)
        for key, value in sent.items():
            request.metadata.add(key=key, value=value)
        stream += encode_frame(Frame(2 * stream_id + 1, FrameType.REQUEST, 0, request.SerializeToString()))
    for end in ("worker", "VM"):
        pieces = feed_all(stream, cuts)
        opened = [piece for piece in pieces if isinstance(piece, CreateContainer)]
        assert len(opened) == 1
        opened[0].request.OCI.Annotations[end] = "was here"
        stream = b"".join(piece.encode() if isinstance(piece, CreateContainer) else piece for piece in pieces)
    decoder = FrameDecoder()
    decoder.feed(stream)
    received = [ttrpc_pb2.Request.FromString(frame.data) for frame in decoder if isinstance(frame, Frame)]
    assert [request.method for request in received] == ["StartContainer", METHOD]
    for request in received:
        assert {pair.key: pair.value for pair in request.metadata} == sent
        assert request.timeout_nano == 60_000_000_000
    annotations = agent_pb2.CreateContainerRequest.FromString(received[1].payload).OCI.Annotations
    assert set(annotations) == {"worker", "VM"}
