"""The exceptions of caa, each with the RPC code that a caller sees.

Their messages end up in `kubectl describe pod`, so they name the thing, what was seen and the remedy.
"""

from enum import IntEnum


class Code(IntEnum):
    """gRPC status codes, which ttRPC shares (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class CaaError(Exception):
    """Base of all errors that caa raises on purpose."""

    code: Code = Code.UNKNOWN


class InvalidArgumentError(CaaError):
    """The caller's input is wrong and stays wrong when repeated."""

    code = Code.INVALID_ARGUMENT


class NotFoundError(CaaError):
    code = Code.NOT_FOUND


class AlreadyExistsError(CaaError):
    code = Code.ALREADY_EXISTS


class FailedPreconditionError(CaaError):
    """The thing exists but is not in a state that allows the call."""

    code = Code.FAILED_PRECONDITION


class PermissionDeniedError(CaaError):
    code = Code.PERMISSION_DENIED


class ResourceExhaustedError(CaaError):
    """A quota, a stock or a size limit."""

    code = Code.RESOURCE_EXHAUSTED


class AbortedError(CaaError):
    """The call was cut short by another one, or by its caller."""

    code = Code.ABORTED


class DeadlineExceededError(CaaError):
    code = Code.DEADLINE_EXCEEDED


class UnavailableError(CaaError):
    """Something outside is out of reach for now; a later try may succeed."""

    code = Code.UNAVAILABLE


class InternalError(CaaError):
    code = Code.INTERNAL


class ConfigError(CaaError):
    """A setting is wrong: the daemon does not start (exit status 2)."""

    code = Code.INVALID_ARGUMENT


class StartupError(CaaError):
    """The settings are well-formed but this machine or cloud does not fit them (exit status 1)."""

    code = Code.FAILED_PRECONDITION
