"""The STS API, version 2015-04-01: a service account's token against a session of a RAM role (RRSA), and who
somebody is. Errors are those of STS's list of error codes, but where it says that they are assumed.
"""

import re
from typing import Any

from caa.fakecloud.actions import Service
from caa.fakecloud.clock import timestamp
from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey, KeyRing
from caa.fakecloud.oidc import AUDIENCE, InvalidTokenError, Issuer
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.policy import Policy, PolicyError, parse_policy
from caa.fakecloud.ram import Ram
from caa.fakecloud.settings import FakeCloudSettings

SHORTEST_SESSION, LONGEST_SESSION = 900, 3600
LONGEST_TOKEN = 20_000
LONGEST_POLICY = 2048
"""Characters, as of the token."""
USER_ID = "200000000000000001"
ROLE_ID = "300000000000000001"
_SESSION_NAME = re.compile(r"[a-zA-Z0-9.@_-]{2,64}")


class Sts:
    def __init__(self, settings: FakeCloudSettings, keys: KeyRing, issuer: Issuer, ram: Ram) -> None:
        self._settings = settings
        self._keys = keys
        self._issuer = issuer
        self._ram = ram

    @property
    def service(self) -> Service:
        return Service(
            "sts",
            "2015-04-01",
            {"AssumeRoleWithOIDC": self.assume_role_with_oidc},
            anonymous=frozenset({"AssumeRoleWithOIDC"}),
            own={"GetCallerIdentity": self.get_caller_identity},
        )

    def assume_role_with_oidc(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RoleArn", "OIDCProviderArn", "RoleSessionName", "OIDCToken", "DurationSeconds", "Policy"
        )
        role_arn = parameters.required("RoleArn")
        provider_arn = parameters.required("OIDCProviderArn")
        session_name = parameters.required("RoleSessionName")
        token = parameters.required("OIDCToken")
        if not _SESSION_NAME.fullmatch(session_name):
            raise ApiError(
                400, "InvalidParameter.RoleSessionName", "The parameter RoleSessionName is wrongly formed."
            )
        seconds: float = _duration(parameters.text("DurationSeconds", str(LONGEST_SESSION)))
        if self._settings.session_seconds is not None:
            seconds = self._settings.session_seconds
        policy = _session_policy(parameters.text("Policy"))
        if provider_arn != self._settings.oidc_provider_arn:
            raise _no_permission("No such OIDC Provider registered.")
        if role_arn != self._settings.role_arn:
            raise ApiError(404, "EntityNotExist.Role", "The specified Role not exists.")
        if len(token) > LONGEST_TOKEN:  # the limit is documented, the code assumed
            raise ApiError(401, "AuthenticationFail.OIDCToken.Invalid", "The OIDCToken is too long.")
        try:
            claims = self._issuer.verify(token.strip(), audience=AUDIENCE)
        except InvalidTokenError as error:
            raise ApiError(401, f"AuthenticationFail.OIDCToken.{error.reason}", str(error)) from None
        if not self._ram.trusts(claims):
            raise _no_permission("There is no permission")
        key = self._keys.issue(seconds, session_name, policy)
        assert key.expires_at is not None
        return {
            "AssumedRoleUser": {
                "Arn": f"acs:ram::{self._settings.account_id}:role/{self._settings.role_name}/{session_name}",
                "AssumedRoleId": f"{ROLE_ID}:{session_name}",
            },
            "Credentials": {
                "AccessKeyId": key.id,
                "AccessKeySecret": key.secret,
                "SecurityToken": key.session_token,
                "Expiration": timestamp(key.expires_at),
            },
            "OIDCTokenInfo": {
                "Subject": claims.get("sub", ""),
                "Issuer": self._issuer.url,
                "ClientIds": AUDIENCE,
                "IssuanceTime": timestamp(claims["iat"]),
                "ExpirationTime": timestamp(claims["exp"]),
                "VerificationInfo": "Success",
            },
        }

    def get_caller_identity(self, parameters: Parameters, key: AccessKey) -> dict[str, Any]:
        """The form of a role session's ARN is assumed; the reference shows a user's."""
        parameters.accept("RegionId")
        settings = self._settings
        if not key.session:
            return {
                "IdentityType": "RAMUser",
                "AccountId": settings.account_id,
                "UserId": USER_ID,
                "PrincipalId": USER_ID,
                "Arn": f"acs:ram::{settings.account_id}:user/{settings.user_name}",
            }
        return {
            "IdentityType": "AssumedRoleUser",
            "AccountId": settings.account_id,
            "RoleId": ROLE_ID,
            "PrincipalId": f"{ROLE_ID}:{key.session}",
            "Arn": f"acs:ram::{settings.account_id}:assumed-role/{settings.role_name}/{key.session}",
        }


def _session_policy(document: str) -> Policy | None:
    if not document:
        return None
    if len(document) > LONGEST_POLICY:
        raise ApiError(
            400,
            "InvalidParameter.PolicySize",
            f"The size of Policy must be smaller than {LONGEST_POLICY} bytes.",
        )
    try:
        return parse_policy(document)
    except PolicyError as error:
        raise ApiError(
            400,
            "InvalidParameter.PolicyGrammar",
            f"The parameter Policy has not passed grammar check. {error}",
        ) from None


def _duration(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not SHORTEST_SESSION <= int(text) <= LONGEST_SESSION:
        raise ApiError(
            400, "InvalidParameter.DurationSeconds", "The Min/Max value of DurationSeconds is 15min/1hr."
        )
    return int(text)


def _no_permission(message: str) -> ApiError:
    return ApiError(401, "AuthenticationFail.NoPermission", message)
