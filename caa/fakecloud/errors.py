"""An action's refusal, as the API words it."""

from collections.abc import Mapping
from typing import Any


class ApiError(Exception):
    """Becomes an error answer. Codes, statuses and messages are those of Alibaba Cloud's API references."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = dict(details or {})
        """Further fields of the body, such as AccessDeniedDetail."""
        self.headers = dict(headers or {})


def missing(parameter: str) -> ApiError:
    return ApiError(
        400,
        "MissingParameter",
        f'The input parameter "{parameter}" that is mandatory for processing this request is not supplied.',
    )


def invalid(parameter: str, why: str = "") -> ApiError:
    message = f'The specified parameter "{parameter}" is not valid.'
    return ApiError(400, "InvalidParameter", f"{message} {why}".rstrip())
