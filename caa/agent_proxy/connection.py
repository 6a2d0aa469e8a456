"""One end of a pipe: a stream, dialled or accepted, plain or TLS."""

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import cast


class Connection(asyncio.Protocol):
    """A stream that is read from its first moment, so that its loss is noticed whoever owns it by then.

    Until it flows, the first data that arrives is kept and nothing more is read.
    """

    def __init__(self, on_made: "Callable[[Connection], None] | None" = None) -> None:
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        """Done when the connection is over, with the reason if it did not end in good order."""
        self._on_made = on_made
        self._made: asyncio.Transport | None = None
        self._received: Callable[[bytes], None] | None = None
        self._ended: Callable[[], bool]
        self._source: Connection
        self._early: list[bytes] = []
        self._held = False

    # What its owner does with it

    @property
    def tls(self) -> ssl.SSLObject | None:
        return cast("ssl.SSLObject | None", self._transport.get_extra_info("ssl_object"))

    def attach(
        self, received: Callable[[bytes], None], ended: Callable[[], bool], source: "Connection"
    ) -> None:
        """Say who takes what arrives here.

        `ended` is told of the peer's end of file, and returns whether this end stays open for writing.
        `source` is read no faster than this one can be written.
        """
        self._received, self._ended, self._source = received, ended, source

    def flow(self) -> None:
        """Hand over what has arrived, and go on reading. Both ends of a pipe are attached before that."""
        assert self._received is not None
        early, self._early, self._held = self._early, [], False
        for data in early:
            self._received(data)
        self.hold(self._held)

    def hold(self, held: bool) -> None:
        """Stop reading, or go on."""
        self._held = held
        if self._made is None or self._made.is_closing():
            return
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def write(self, data: bytes) -> None:
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> bool:
        """Close the sending half, after what was written. False if the stream has no halves (TLS)."""
        if not self._transport.can_write_eof():
            return False
        if not self._transport.is_closing():
            self._transport.write_eof()
        return True

    def close(self) -> None:
        """Close once what was written is sent; a peer that does not read can delay that for ever."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if not self.lost.done():  # asyncio's transport can't be aborted once it is closed
            self._transport.abort()

    def peer_is_gone(self) -> bool:
        """Whether the peer has closed both halves, which end of file alone does not tell."""
        watch = select.poll()
        watch.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in watch.poll(0))

    @property
    def _transport(self) -> asyncio.Transport:
        assert self._made is not None
        return self._made

    # What the event loop tells it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made = cast(asyncio.Transport, transport)
        if self._early:
            self.hold(True)
        if self._on_made is not None:
            self._on_made(self)

    def data_received(self, data: bytes) -> None:
        if self._received is None:
            self._early.append(data)
            self.hold(True)
        else:
            self._received(data)

    def eof_received(self) -> bool:
        return self._received is not None and self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)

    def pause_writing(self) -> None:
        self._source.hold(True)

    def resume_writing(self) -> None:
        self._source.hold(False)
