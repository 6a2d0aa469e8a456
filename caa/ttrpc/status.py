"""How an error travels: as the status of a response."""

from collections.abc import Sequence
from typing import Any

from caa.errors import CaaError, Code
from caa.proto import ttrpc_pb2

MAX_MESSAGE = 64 * 1024
"""In characters. Messages may quote whole answers of others, but have to fit into a frame."""


class RpcError(CaaError):
    """A status that is not OK: what a client's call raises, and what a handler may raise.

    `details` are the google.protobuf.Any messages that the server sent along; our own server sends none.
    """

    def __init__(self, code: Code, message: str, details: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = tuple(details)


def encode_status(error: Exception) -> bytes:
    """The response that tells `error`: a CaaError by its code, any other as UNKNOWN with its type's name."""
    if isinstance(error, CaaError):
        code, message = error.code, str(error)
    else:
        code, message = Code.UNKNOWN, _describe(error)
    text = (
        message[:MAX_MESSAGE].encode("utf-8", "backslashreplace").decode()
    )  # may quote undecodable file names
    status = ttrpc_pb2.Status(code=code, message=text)
    return ttrpc_pb2.Response(status=status).SerializeToString()


def _describe(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # there are exceptions whose __str__ fails, and this one must be told too
        return type(error).__name__


def raise_for_status(response: ttrpc_pb2.Response) -> None:
    """Raises RpcError unless the call succeeded."""
    status = response.status
    if status.code == Code.OK:
        return
    try:
        code, message = Code(status.code), status.message
    except ValueError:
        code, message = Code.UNKNOWN, f"status {status.code}: {status.message}"
    raise RpcError(code, message, status.details)
