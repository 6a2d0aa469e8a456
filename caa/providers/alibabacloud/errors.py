"""What the cloud's refusals mean: as a table, and words for people.

An `ApiError` is one failed request, for code to act on (`kind`). Where nothing more can be done about it,
`explained` turns it into the error of `caa.errors` that ends up in `kubectl describe pod`:
action: code, for what (request id): what to do.
"""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase

import requests
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException

from caa.errors import (
    CaaError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)


class Kind(Enum):
    """What to do about a failed request."""

    THROTTLED = auto()
    """Not taken; wait and repeat."""
    LOST = auto()
    """May have been taken; repeat with the same client token."""
    NOT_YET = auto()
    """The resource is not in a state for it yet; poll."""
    NOT_FOUND = auto()
    """There is no such resource: not yet, if it is new, and gone otherwise."""
    NO_STOCK = auto()
    """This type can't be had in this zone."""
    FULL = auto()
    """The vSwitch has no address left."""
    EXPIRED = auto()
    """The session of the credentials has ended."""
    TOKEN_REUSED = auto()
    """The client token was used with other parameters."""
    DENIED = auto()
    """Not let in, for want of a right or of the right server. Says nothing about what exists."""
    REFUSED = auto()
    """Wrong, and stays wrong."""
    DRY_RUN = auto()
    """The answer to a dry run that found nothing wrong."""


@dataclass(frozen=True)
class Rule:
    """A row of the table. The first row with a pattern for the code holds, else the first with the status."""

    kind: Kind
    codes: tuple[str, ...]
    raises: type[CaaError]
    remedy: str = ""
    statuses: tuple[int, ...] = ()
    says: str = ""
    """A regular expression that the message must have, where the code alone leaves the cause open."""


RULES = (
    Rule(
        Kind.THROTTLED,
        ("Throttling", "Throttling.*", "ServiceUnavailable", "ServiceUnavailable.*"),
        UnavailableError,
        "the account's API rate is used up; ask for a higher one in Quota Center if this goes on",
        statuses=(429, 503),
    ),
    Rule(
        Kind.LOST,
        # The last three: an earlier request with this token, or for this resource, is still in the works.
        ("InternalError", "InternalError.*", "*Processing", "OperationConflict", "*.OperationConflict"),
        UnavailableError,
        "the cloud may be in trouble; its status page tells",
        statuses=(500, 502, 504),
    ),
    Rule(
        Kind.NOT_YET,
        (
            "IncorrectInstanceStatus",
            "IncorrectInstanceStatus.*",
            "InvalidOperation.InvalidEniState*",
            "IncorrectEipStatus*",
            "InvalidStatus.EniStatusNotSupport",
            "TaskConflict*",
        ),
        UnavailableError,
        "it is in no state for this yet",
    ),
    Rule(
        Kind.NOT_FOUND,
        ("InvalidInstanceId.NotFound", "InvalidEniId.NotFound", "InvalidAllocationId.NotFound"),
        NotFoundError,
        "it was deleted behind the daemon's back, or the region is wrong (REGION)",
    ),
    Rule(
        Kind.NO_STOCK,
        (
            "OperationDenied.NoStock",
            "Zone.NotOnSale",
            "InvalidResourceType.NotSupported",
            "InstanceType.Offline",
        ),
        ResourceExhaustedError,
        "add another type to PODVM_INSTANCE_TYPES or another vSwitch",
    ),
    Rule(
        Kind.FULL,
        ("QuotaExceeded.PrivateIpAddress", "*IpNotEnough*", "*IpAddressNotEnough*"),
        ResourceExhaustedError,
        "the vSwitch has no address left: add another to VSWITCH_ID",
    ),
    Rule(
        Kind.EXPIRED,
        ("InvalidSecurityToken.Expired", "SecurityTokenExpired"),
        PermissionDeniedError,
        "give a new ALIBABACLOUD_SECURITY_TOKEN and its key, or use a role (RRSA), which renews itself",
    ),
    Rule(
        Kind.TOKEN_REUSED,
        ("*Idempoten*Mismatch",),
        FailedPreconditionError,
        "the same client token went out with other parameters; no second instance is made",
    ),
    Rule(
        Kind.DENIED,
        ("InvalidAccessKeyId*", "InvalidSecurityToken*", "SignatureDoesNotMatch", "IncompleteSignature"),
        PermissionDeniedError,
        "check ALIBABACLOUD_ACCESS_KEY_ID, ALIBABACLOUD_ACCESS_KEY_SECRET and ALIBABACLOUD_SECURITY_TOKEN",
    ),
    Rule(Kind.DENIED, ("InvalidTimeStamp*",), PermissionDeniedError, "check this node's clock"),
    # The codes of AssumeRoleWithOIDC: STS API reference, "Error codes".
    Rule(
        Kind.DENIED,
        ("AuthenticationFail.NoPermission",),
        PermissionDeniedError,
        "RAM has no such OIDC provider: check ALIBABA_CLOUD_OIDC_PROVIDER_ARN, and that RRSA is enabled for"
        " the cluster",
        says="OIDC ?Provider",
    ),
    Rule(
        Kind.DENIED,
        ("EntityNotExist.Role*",),
        PermissionDeniedError,
        "there is no such role: check ALIBABA_CLOUD_ROLE_ARN",
    ),
    Rule(
        Kind.DENIED,
        ("AuthenticationFail.NoPermission",),
        PermissionDeniedError,
        "the role's trust policy must name ALIBABA_CLOUD_OIDC_PROVIDER_ARN and the token's issuer, audience"
        " and subject; `caa ram trust` prints one",
    ),
    Rule(
        Kind.DENIED,
        ("AuthenticationFail.OIDCToken.Expired",),
        PermissionDeniedError,
        "the kubelet replaces the token in time: check that ALIBABA_CLOUD_OIDC_TOKEN_FILE is in a projected"
        " volume and no copy, and this node's clock",
    ),
    Rule(
        Kind.DENIED,
        ("AuthenticationFail.OIDCToken.AudienceNotMatch",),
        PermissionDeniedError,
        "the token volume and RAM's OIDC provider must name the same audience, sts.aliyuncs.com",
    ),
    Rule(
        Kind.DENIED,
        ("AuthenticationFail.OIDCToken.IssuerNotMatch",),
        PermissionDeniedError,
        "ALIBABA_CLOUD_OIDC_PROVIDER_ARN is another cluster's: give that of this one",
    ),
    Rule(
        Kind.DENIED,
        ("AuthenticationFail.*", "EntityNotExist.*"),
        PermissionDeniedError,
        "RAM could not verify the token: check ALIBABA_CLOUD_OIDC_PROVIDER_ARN, and the provider's issuer URL"
        " and fingerprints in RAM",
    ),
    Rule(
        Kind.DENIED,
        ("Forbidden*", "NoPermission*"),
        PermissionDeniedError,
        "grant {permission} to the RAM user or role that the daemon uses",
    ),
    Rule(
        Kind.REFUSED,
        ("QuotaExceed*",),
        ResourceExhaustedError,
        "ask for a higher quota in Quota Center, or delete what is not needed",
    ),
    Rule(
        Kind.REFUSED,
        ("InvalidAccountStatus.NotEnoughBalance",),
        ResourceExhaustedError,
        "top up the account",
    ),
    Rule(
        Kind.REFUSED,
        ("InvalidImage*",),
        FailedPreconditionError,
        "check IMAGEID, or the pod's image annotation, and that the image is in the region",
    ),
    Rule(Kind.REFUSED, ("Invalid[Vv][Ss]witchI*",), FailedPreconditionError, "check VSWITCH_ID and REGION"),
    Rule(
        Kind.REFUSED,
        ("InvalidSecurityGroup*",),
        FailedPreconditionError,
        "check SECURITY_GROUP_IDS: each must be in the vSwitch's VPC",
    ),
    Rule(
        Kind.REFUSED,
        ("InvalidLaunchTemplate*",),
        FailedPreconditionError,
        "check PODVM_LAUNCHTEMPLATE_NAME and REGION",
    ),
    Rule(Kind.REFUSED, ("InvalidKeyPair*",), FailedPreconditionError, "check KEYNAME"),
    Rule(Kind.REFUSED, ("InvalidRegionId*",), FailedPreconditionError, "check REGION"),
    Rule(
        Kind.REFUSED,
        ("InvalidInstanceType*",),
        FailedPreconditionError,
        "check PODVM_INSTANCE_TYPES and PODVM_INSTANCE_TYPE",
    ),
    Rule(Kind.DRY_RUN, ("DryRunOperation",), FailedPreconditionError),
    Rule(Kind.REFUSED, ("*",), FailedPreconditionError),
)

_NOT_READY = next(rule for rule in RULES if rule.kind is Kind.NOT_YET)
_LOST = next(rule for rule in RULES if rule.kind is Kind.LOST)


def rule_for(code: str, message: str, status: int) -> Rule:
    """The row for an error answer."""
    if message.rstrip(".").endswith("is not ready"):
        return _NOT_READY
    for rule in RULES[:-1]:
        if any(fnmatchcase(code, pattern) for pattern in rule.codes) and re.search(rule.says, message):
            return rule
    return next((rule for rule in RULES if status in rule.statuses), RULES[-1])


class ApiError(Exception):
    """A request that failed. Its text holds nothing secret."""

    def __init__(
        self,
        permission: str,
        rule: Rule,
        code: str,
        *,
        message: str = "",
        request_id: str = "",
        retry_after: float = 0.0,
    ) -> None:
        self.permission = permission
        """The request as RAM names it, such as ecs:RunInstances."""
        self.rule = rule
        self.code = _harmless(code)
        self.message = _harmless(message)
        self.request_id = _harmless(request_id)
        self.retry_after = retry_after
        """Seconds that the cloud asks for before the next try; 0: it doesn't say."""
        self.made_nothing = False
        """What the request asks for does not exist, whatever was tried (`creation`)."""
        super().__init__(permission, code)

    @property
    def kind(self) -> Kind:
        return self.rule.kind

    def __str__(self) -> str:
        return self.about("")

    def about(self, what: str, more: str = "") -> str:
        """The words for people. `what` the request was for, such as " for ecs.g8i.xlarge in cn-beijing-i"."""
        action = self.permission.partition(":")[2]
        text = f"{action}: {self.code}{what}"
        if self.kind in (Kind.REFUSED, Kind.DENIED) and self.message:
            text += f": {self.message}"
        if self.request_id:
            text += f" (request {self.request_id})"
        remedy = self.rule.remedy.format(permission=self.permission)
        return ": ".join(filter(None, (text, "; ".join(filter(None, (remedy, more))))))


TDX_ZONE, TDX_FAMILY = "cn-beijing-i", "ecs.g8i"
"""Where confidential instances could be had at the time of writing."""

_TDX_HINT = (
    f"confidential (TDX) instances exist only in some zones and types, such as {TDX_FAMILY}.* in {TDX_ZONE}:"
    " choose those, or set DISABLECVM=true for ordinary instances"
)


def has_tdx(zone: str, instance_type: str) -> bool:
    """Whether the place and type are known to have confidential instances."""
    return zone == TDX_ZONE and instance_type.startswith(f"{TDX_FAMILY}.")


def explained(error: ApiError, what: str = "", *, tdx: bool = False, more: str = "") -> CaaError:
    """The error for the daemon's callers. `tdx`: the request asked for a confidential instance in a place
    or type that is not known to have them. `more` is said at the end.
    """
    about_type = error.kind is Kind.NO_STOCK or re.search(
        "InstanceType|Confidential|SecurityOptions|TDX", f"{error.code} {error.message}"
    )
    return error.rule.raises(error.about(what, _TDX_HINT if tdx and about_type else more))


@contextmanager
def explaining(what: str = "") -> Iterator[None]:
    """Raises what `explained` makes of an ApiError."""
    try:
        yield
    except ApiError as error:
        raise explained(error, what) from None


def from_sdk(permission: str, failure: Exception) -> ApiError:
    """What the SDK raised for a request, understood."""
    if not isinstance(failure, AlibabaCloudException) or not failure.status_code:
        return _from_transport(permission, list(_causes(failure)))
    data = failure.data if isinstance(failure.data, dict) else {}
    code = str(data.get("Code") or f"HTTP {failure.status_code}")
    message = str(data.get("Message") or "")
    return ApiError(
        permission,
        rule_for(code, message, failure.status_code),
        code,
        message=message,
        request_id=str(data.get("RequestId") or ""),
        retry_after=(getattr(failure, "retry_after", None) or 0) / 1000,
    )


def _from_transport(permission: str, causes: list[BaseException]) -> ApiError:
    rule, seen, wait = _LOST, f"unreadable answer ({type(causes[-1]).__name__})", 0.0
    for cause in reversed(causes):
        match cause:
            case NotTheApiError():
                by_status = rule_for("", "", cause.status)
                rule = by_status if by_status.statuses else _NOT_THE_API
                seen, wait = f"HTTP {cause.status}", cause.retry_after
            case ssl.SSLCertVerificationError():
                rule, seen = _UNTRUSTED, f"untrusted certificate ({cause.verify_message})"
            case requests.exceptions.Timeout():
                rule, seen = _UNREACHABLE, "no answer in time"
            case requests.exceptions.ConnectionError():
                rule, seen = _UNREACHABLE, f"no answer ({_reason(causes)})"
            case _:
                continue
        break
    return ApiError(permission, rule, seen, retry_after=wait)


_UNREACHABLE = Rule(
    Kind.LOST,
    (),
    UnavailableError,
    "check REGION, this node's way out (NAT, or the -vpc endpoints by ALIBABACLOUD_ECS_ENDPOINT,"
    " ALIBABACLOUD_VPC_ENDPOINT and ALIBABACLOUD_STS_ENDPOINT), and any proxy",
)
_NOT_THE_API = Rule(
    Kind.DENIED, (), UnavailableError, "that was not the cloud's API: check the endpoint and any proxy"
)
_UNTRUSTED = Rule(
    Kind.DENIED,
    (),
    UnavailableError,
    "give the CA of the endpoint's certificate with ALIBABACLOUD_CA_FILE, or correct the endpoint",
)


class NotTheApiError(Exception):
    """An error answer without the API's JSON, as a proxy or a load balancer gives."""

    def __init__(self, status: int, retry_after: float) -> None:
        super().__init__(status)
        self.status = status
        self.retry_after = retry_after


def _causes(failure: BaseException) -> Iterator[BaseException]:
    """The failure and what it came from. The SDK keeps the original in an attribute and in the context."""
    seen: set[int] = set()
    step: BaseException | None = failure
    while step is not None and id(step) not in seen:
        seen.add(id(step))
        yield step
        step = getattr(step, "inner_exception", None) or step.__cause__ or step.__context__


def _reason(causes: list[BaseException]) -> str:
    """The operating system's or OpenSSL's word for it. Never the whole text: that has the URL in it."""
    for cause in reversed(causes):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return type(causes[-1]).__name__


def _harmless(message: str) -> str:
    """The cloud's message in one line, without what it may repeat of the request: tokens, user data."""
    message = message.partition("server string to sign")[0].strip(" ,")
    message = re.sub(r"[A-Za-z0-9+/=_%.-]{50,}", "…", " ".join(message.split()))
    return message if len(message) <= 200 else message[:200] + "…"
