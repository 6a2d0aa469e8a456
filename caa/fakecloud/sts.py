"""The STS API, version 2015-04-01: a service account's token against a session of a RAM role (RRSA)."""

import re
from typing import Any

from caa.fakecloud.actions import Service
from caa.fakecloud.clock import timestamp
from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import KeyRing
from caa.fakecloud.oidc import AUDIENCE, InvalidTokenError, Issuer
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.settings import FakeCloudSettings

SHORTEST_SESSION, LONGEST_SESSION = 900, 3600
_SESSION_NAME = re.compile(r"[a-zA-Z0-9.@_-]{2,64}")


class Sts:
    def __init__(self, settings: FakeCloudSettings, keys: KeyRing, issuer: Issuer) -> None:
        self._settings = settings
        self._keys = keys
        self._issuer = issuer

    @property
    def service(self) -> Service:
        return Service(
            "sts",
            "2015-04-01",
            {"AssumeRoleWithOIDC": self.assume_role_with_oidc},
            anonymous=frozenset({"AssumeRoleWithOIDC"}),
        )

    def assume_role_with_oidc(self, parameters: Parameters) -> dict[str, Any]:
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
        if provider_arn != self._settings.oidc_provider_arn:
            raise _no_permission("No such OIDC Provider registered.")
        if role_arn != self._settings.role_arn:
            raise ApiError(404, "EntityNotExist.Role", "The specified Role not exists.")
        try:
            claims = self._issuer.verify(token.strip(), audience=AUDIENCE)
        except InvalidTokenError as error:
            raise ApiError(401, f"AuthenticationFail.OIDCToken.{error.reason}", str(error)) from None
        # The conditions of the role's trust policy; issuer and audience have been checked with the token.
        if claims.get("sub") != self._settings.service_account:
            raise _no_permission("There is no permission")
        key = self._keys.issue(seconds)
        assert key.expires_at is not None
        return {
            "AssumedRoleUser": {
                "Arn": f"acs:ram::{self._settings.account_id}:role/{self._settings.role_name}/{session_name}",
                "AssumedRoleId": f"300000000000000001:{session_name}",
            },
            "Credentials": {
                "AccessKeyId": key.id,
                "AccessKeySecret": key.secret,
                "SecurityToken": key.session_token,
                "Expiration": timestamp(key.expires_at),
            },
            "OIDCTokenInfo": {
                "Subject": claims["sub"],
                "Issuer": self._issuer.url,
                "ClientIds": AUDIENCE,
                "IssuanceTime": timestamp(claims["iat"]),
                "ExpirationTime": timestamp(claims["exp"]),
                "VerificationInfo": "Success",
            },
        }


def _duration(text: str) -> int:
    if not re.fullmatch(r"\d{1,6}", text) or not SHORTEST_SESSION <= int(text) <= LONGEST_SESSION:
        raise ApiError(
            400, "InvalidParameter.DurationSeconds", "The Min/Max value of DurationSeconds is 15min/1hr."
        )
    return int(text)


def _no_permission(message: str) -> ApiError:
    return ApiError(401, "AuthenticationFail.NoPermission", message)
