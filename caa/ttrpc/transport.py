"""What the client's and the server's end of a connection have in common."""

import asyncio
import contextlib

READ_SIZE = 256 * 1024
CLOSE_SECONDS = 1.0


async def send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    """Write a whole frame, then wait until the peer has read enough of what was written before.

    Cancelled, the frame is nevertheless sent as a whole. Raises OSError if the connection is lost.
    """
    if writer.is_closing():
        raise ConnectionResetError("connection closed")
    writer.write(frame)
    await writer.drain()


async def close(writer: asyncio.StreamWriter) -> None:
    """Close once what was written is sent; a peer that does not read delays that only briefly."""
    writer.close()
    closed = asyncio.ensure_future(writer.wait_closed())
    try:
        await asyncio.wait([closed], timeout=CLOSE_SECONDS)
    finally:
        with contextlib.suppress(AttributeError):  # asyncio's own, if the connection has just been lost
            writer.transport.abort()
        await asyncio.gather(closed, return_exceptions=True)
