"""What the API server's answers mean beyond the errors of `caa.errors`."""

from caa.errors import FailedPreconditionError, UnavailableError


class NotSentError(UnavailableError):
    """The request did not get as far as the API server: it certainly did nothing there."""


class NoPeerPodsError(FailedPreconditionError):
    """The cluster has no such kind of object: its CRD was never applied, or was removed."""
