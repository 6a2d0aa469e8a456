import pytest
from alibabacloud_tea_openapi.exceptions import ClientException

from caa.errors import (
    CaaError,
    FailedPreconditionError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from caa.providers.alibabacloud.errors import ApiError, Kind, explained, from_sdk, rule_for

TABLE = [
    ("Throttling", 400, Kind.THROTTLED, UnavailableError),
    ("Throttling.User", 400, Kind.THROTTLED, UnavailableError),
    ("Throttling.Api", 400, Kind.THROTTLED, UnavailableError),
    ("ServiceUnavailable", 503, Kind.THROTTLED, UnavailableError),
    ("Whatever", 429, Kind.THROTTLED, UnavailableError),
    ("Whatever", 503, Kind.THROTTLED, UnavailableError),
    ("InternalError", 500, Kind.LOST, UnavailableError),
    ("Whatever", 500, Kind.LOST, UnavailableError),
    ("Whatever", 502, Kind.LOST, UnavailableError),
    ("Whatever", 504, Kind.LOST, UnavailableError),
    ("LastTokenProcessing", 403, Kind.LOST, UnavailableError),
    ("OperationFailed.LastTokenProcessing", 403, Kind.LOST, UnavailableError),
    ("InvalidInstanceId.NotFound", 404, Kind.NOT_FOUND, NotFoundError),
    ("IncorrectInstanceStatus", 403, Kind.NOT_YET, UnavailableError),
    ("IncorrectInstanceStatus.Initializing", 403, Kind.NOT_YET, UnavailableError),
    ("OperationDenied.NoStock", 403, Kind.NO_STOCK, ResourceExhaustedError),
    ("Zone.NotOnSale", 403, Kind.NO_STOCK, ResourceExhaustedError),
    ("InvalidResourceType.NotSupported", 403, Kind.NO_STOCK, ResourceExhaustedError),
    ("QuotaExceed.ElasticQuota", 403, Kind.REFUSED, ResourceExhaustedError),
    ("QuotaExceeded.PrivateIpAddress", 400, Kind.FULL, ResourceExhaustedError),
    ("InvalidAccountStatus.NotEnoughBalance", 403, Kind.REFUSED, ResourceExhaustedError),
    ("Forbidden.RAM", 403, Kind.DENIED, PermissionDeniedError),
    ("Forbidden", 403, Kind.DENIED, PermissionDeniedError),
    ("SignatureDoesNotMatch", 400, Kind.DENIED, PermissionDeniedError),
    ("InvalidAccessKeyId.NotFound", 404, Kind.DENIED, PermissionDeniedError),
    ("InvalidTimeStamp.Expired", 400, Kind.DENIED, PermissionDeniedError),
    ("InvalidSecurityToken.Expired", 400, Kind.EXPIRED, PermissionDeniedError),
    ("AuthenticationFail.OIDCToken.Expired", 401, Kind.DENIED, PermissionDeniedError),
    ("InvalidParameter", 400, Kind.REFUSED, FailedPreconditionError),
    ("MissingParameter", 400, Kind.REFUSED, FailedPreconditionError),
    ("InvalidImageId.NotFound", 404, Kind.REFUSED, FailedPreconditionError),
    ("IdempotentParameterMismatch", 400, Kind.TOKEN_REUSED, FailedPreconditionError),
    ("DryRunOperation", 400, Kind.DRY_RUN, FailedPreconditionError),
    ("NeverHeardOf", 400, Kind.REFUSED, FailedPreconditionError),
]


def api_error(code: str, status: int = 403, message: str = "", action: str = "ecs:RunInstances") -> ApiError:
    rule = rule_for(code, message, status)
    return ApiError(action, rule, code, message=message, request_id="8F3A-1")


@pytest.mark.parametrize(("code", "status", "kind", "raises"), TABLE)
def test_table(code: str, status: int, kind: Kind, raises: type[CaaError]) -> None:
    error = api_error(code, status)
    assert error.kind is kind
    told = explained(error)
    assert type(told) is raises
    assert str(told).startswith(f"RunInstances: {code} (request 8F3A-1)")


def test_not_ready_is_told_by_its_message() -> None:
    assert rule_for("InvalidOperation", "The specified instance is not ready", 403).kind is Kind.NOT_YET


def test_no_stock_names_type_zone_request_and_remedy() -> None:
    told = explained(api_error("OperationDenied.NoStock"), " for ecs.g8i.xlarge in cn-beijing-i")
    assert str(told) == (
        "RunInstances: OperationDenied.NoStock for ecs.g8i.xlarge in cn-beijing-i (request 8F3A-1):"
        " add another type to PODVM_INSTANCE_TYPES or another vSwitch"
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("Zone.NotOnSale", ""),
        ("InvalidInstanceType.ValueNotSupported", "no TDX here"),
        ("InvalidParameter", "SecurityOptions.ConfidentialComputingMode is not supported"),
    ],
)
def test_refusal_of_a_confidential_type_says_where_there_are_any(code: str, message: str) -> None:
    told = str(explained(api_error(code, message=message), " for ecs.c7.large in cn-beijing-h", tdx=True))
    assert "cn-beijing-i" in told
    assert "ecs.g8i" in told
    assert "DISABLECVM" in told
    assert "TDX" not in str(explained(api_error("QuotaExceed.X"), tdx=True))


def test_missing_right_is_named_as_ram_names_it() -> None:
    told = str(explained(api_error("Forbidden.RAM", action="ecs:DeleteInstance"), " for i-1"))
    assert told.startswith("DeleteInstance: Forbidden.RAM for i-1 (request 8F3A-1)")
    assert "grant ecs:DeleteInstance to" in told


def test_refusals_quote_the_cloud_in_one_short_line() -> None:
    told = str(explained(api_error("InvalidParameter", message="The size\n is wrong. " + "so it is, " * 100)))
    assert "The size is wrong. so it is" in told
    assert len(told) < 300


def test_what_the_cloud_repeats_of_the_request_is_left_out() -> None:
    token = "CAIS" + "a1B2+/" * 60
    told = str(api_error("InvalidParameter", message=f"UserData {token} is wrong"))
    assert token not in told
    assert "UserData … is wrong" in told
    signed = "Specified signature is not matched with our calculation. server string to sign is:POST&secret"
    assert "secret" not in str(api_error("SignatureDoesNotMatch", message=signed))


def test_sdk_errors_are_read() -> None:
    data = {"Code": "Throttling.User", "Message": "Request was denied.", "RequestId": "8F3A-2"}
    error = from_sdk("ecs:RunInstances", ClientException(status_code=400, code="Throttling.User", data=data))
    assert (error.kind, error.code, error.request_id) == (Kind.THROTTLED, "Throttling.User", "8F3A-2")


def test_an_unreadable_answer_may_have_been_taken() -> None:
    assert from_sdk("ecs:RunInstances", ValueError("no JSON")).kind is Kind.LOST
