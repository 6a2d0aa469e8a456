"""What the API server says when it refuses: a metav1.Status with the real one's code, reason and words.

The words are those of k8s.io/apimachinery's api/errors and util/validation/field: clients tell errors apart
by `reason` and `code`, people by `message`.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apiserver.resources import Resource


@dataclass(frozen=True)
class Problem:
    """What is wrong with a field."""

    field: str
    type: str
    """A metav1.CauseType."""
    text: str

    @classmethod
    def invalid(cls, field: str, value: object, why: str) -> "Problem":
        return cls(field, "FieldValueInvalid", f"Invalid value: {json.dumps(value, default=str)}: {why}")

    @classmethod
    def required(cls, field: str, why: str = "") -> "Problem":
        return cls(field, "FieldValueRequired", f"Required value: {why}" if why else "Required value")

    @classmethod
    def forbidden(cls, field: str, why: str) -> "Problem":
        return cls(field, "FieldValueForbidden", f"Forbidden: {why}")


class StatusError(Exception):
    """A refusal, to be answered with `body` and `code`."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason
        self.message = message
        self._details = {key: value for key, value in (details or {}).items() if value}
        self._metadata = dict(metadata or {})

    @property
    def body(self) -> dict[str, Any]:
        about = {"message": self.message, "reason": self.reason, "details": self._details}
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": self._metadata,
            "status": "Failure",
            **{key: value for key, value in about.items() if value},
            "code": self.code,
        }


def _about(resource: Resource, name: str) -> dict[str, Any]:
    return {"name": name, "group": resource.group, "kind": resource.plural}


def not_found(resource: Resource, name: str) -> StatusError:
    message = f'{resource.qualified} "{name}" not found'
    return StatusError(404, "NotFound", message, details=_about(resource, name))


def already_exists(resource: Resource, name: str, *, being_deleted: bool, generated: bool) -> StatusError:
    message = f'{resource.qualified} "{name}" already exists'
    if generated:
        message += ", the server was not able to generate a unique name for the object"
    if being_deleted:
        message = f"object is being deleted: {message}"
    details = _about(resource, name) | {"retryAfterSeconds": int(generated)}
    return StatusError(409, "AlreadyExists", message, details=details)


def conflict(resource: Resource, name: str, why: str) -> StatusError:
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_about(resource, name))


def forbidden(group: str, plural: str, name: str, why: str, *, cause: str = "") -> StatusError:
    """`plural` empty: about no resource."""
    what = f"{plural}.{group}" if group else plural
    if name:
        what += f' "{name}"'
    causes = [{"reason": cause, "message": why}] if cause else []
    return StatusError(
        403,
        "Forbidden",
        f"{what} is forbidden: {why}" if plural else f"forbidden: {why}",
        details={"name": name, "group": group, "kind": plural, "causes": causes},
    )


def invalid(kind: str, group: str, name: str, problems: Iterable[Problem]) -> StatusError:
    each = list(dict.fromkeys(problems))
    texts = [f"{problem.field}: {problem.text}" for problem in each]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    what = f'{kind}.{group} "{name}"' if group else f'{kind} "{name}"'
    causes = [{"reason": problem.type, "message": problem.text, "field": problem.field} for problem in each]
    return StatusError(
        422,
        "Invalid",
        f"{what} is invalid: {text}",
        details={"name": name, "group": group, "kind": kind, "causes": causes},
    )


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def unsupported_media_type(accepted: Iterable[str]) -> StatusError:
    what = "the body of the request was in an unknown format - accepted media types include: "
    return StatusError(415, "UnsupportedMediaType", what + ", ".join(accepted))


def not_acceptable(accepted: Iterable[str]) -> StatusError:
    what = "only the following media types are accepted: "
    return StatusError(406, "NotAcceptable", what + ", ".join(accepted))


def too_large(why: str) -> StatusError:
    return StatusError(413, "RequestEntityTooLarge", f"Request entity too large: {why}")


def expired(message: str, *, go_on_with: str = "") -> StatusError:
    """HTTP 410: what was asked for is history. `go_on_with` is the token that lists the rest as it is now."""
    return StatusError(410, "Expired", message, metadata={"continue": go_on_with} if go_on_with else None)


def version_too_large(asked: int, current: int) -> StatusError:
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    return StatusError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={"causes": [cause], "retryAfterSeconds": 1},
    )


_GENERIC = {
    400: ("BadRequest", "the server rejected our request for an unknown reason"),
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    404: ("NotFound", "the server could not find the requested resource"),
    405: ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
    409: ("Conflict", "the server reported a conflict"),
    410: ("Expired", "The resourceVersion for the provided list is too old."),
    422: ("Invalid", "the server rejected our request due to an error in our request"),
    429: (
        "TooManyRequests",
        "the server has received too many requests and has asked us to try again later",
    ),
    500: ("InternalError", "Internal error occurred: a fault made to order"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "the server was unable to return a response in the time allotted"),
}


def generic(code: int) -> StatusError:
    """What stands for itself: no object is named."""
    reason, message = _GENERIC[code]
    return StatusError(code, reason, message)
