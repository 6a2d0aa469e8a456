"""RAM: the account's identities, and what each may do."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.oidc import AUDIENCE
from caa.fakecloud.policy import Policy, PolicyError, Verdict, parse_policy, parse_trust_policy
from caa.fakecloud.published import FULL_POLICY, PUBLISHED_POLICY, trust_policy
from caa.fakecloud.resources import resources_of
from caa.fakecloud.settings import FakeCloudSettings

_BUILT_IN = {"published": PUBLISHED_POLICY, "full": FULL_POLICY}


class Ram:
    """One policy is attached to the user, whose access key the account's own is, and to the role. The role
    can be assumed with tokens that its trust policy allows, of the one OIDC provider that is registered.
    """

    def __init__(self, settings: FakeCloudSettings, *, issuer: str) -> None:
        """`issuer` is the provider's. Raises PolicyError for a document, or an action to allow, that can't be
        used.
        """
        self._settings = settings
        self._policy = _read_policy(settings)
        self._trust = _read_trust_policy(settings, issuer)

    def trusts(self, claims: Mapping[str, Any]) -> bool:
        """Whether a token with these claims, which has been verified, may be exchanged for a session."""
        audiences = claims.get("aud")
        context = {
            "oidc:iss": _texts(claims.get("iss")),
            "oidc:aud": _texts(*audiences) if isinstance(audiences, list) else _texts(audiences),
            "oidc:sub": _texts(claims.get("sub")),
        }
        verdict = self._trust.judge("sts:AssumeRole", self._settings.oidc_provider_arn, context)
        return verdict is Verdict.ALLOW

    def authorize_call(
        self, key: AccessKey, service: str, action: str, parameters: Mapping[str, str], *, address: str
    ) -> None:
        """As `authorize`, with the resources that the parameters name."""
        settings = self._settings
        resources = resources_of(
            service, action, parameters, region=settings.region, account=settings.account_id
        )
        self.authorize(key, f"{service}:{action}", resources, address=address)

    def authorize(
        self, key: AccessKey, permission: str, resources: Iterable[str], *, address: str = ""
    ) -> None:
        """Raises Forbidden.RAM unless the key's identity may do this (`service:Action`) with every resource.

        `address` is where the call comes from. A session's own policy can only take away (STS's reference on
        the parameter Policy).
        """
        context = {"acs:SourceIp": [address] if address else []}
        policies: list[tuple[str, Policy]] = [("AccountLevelIdentityBasedPolicy", self._policy)]
        if key.session_policy:
            policies.append(("SessionPolicy", key.session_policy))
        found = [
            (kind, policy.judge(permission, resource, context))
            for resource in resources
            for kind, policy in policies
        ]
        for refusal in (Verdict.EXPLICIT_DENY, Verdict.IMPLICIT_DENY):
            for kind, verdict in found:
                if verdict is refusal:
                    raise self._forbidden(key, permission, kind, verdict)

    def _forbidden(self, key: AccessKey, permission: str, kind: str, verdict: Verdict) -> ApiError:
        settings = self._settings
        detail: dict[str, Any] = {
            "AuthAction": permission,
            "AuthPrincipalType": "AssumedRoleUser" if key.session else "SubUser",
            "AuthPrincipalOwnerId": settings.account_id,
            "AuthPrincipalDisplayName": (
                f"{settings.role_name}:{key.session}" if key.session else settings.user_name
            ),
            "NoPermissionType": verdict.value,
            "PolicyType": kind,
        }
        return ApiError(
            403,
            "Forbidden.RAM",
            "User not authorized to operate on the specified resource, or this API doesn't support RAM.",
            details={"AccessDeniedDetail": detail},
        )


def _read_policy(settings: FakeCloudSettings) -> Policy:
    if settings.policy in _BUILT_IN:
        policy = parse_policy(_BUILT_IN[settings.policy])
    elif (file := Path(settings.policy)).exists():
        policy = _read(file, parse_policy)
    else:
        raise PolicyError(f"the policy {settings.policy!r} is neither published nor full nor a file")
    return policy.allowing(settings.allow)


def _read_trust_policy(settings: FakeCloudSettings, issuer: str) -> Policy:
    if settings.trust_policy:
        return _read(settings.trust_policy, parse_trust_policy)
    return parse_trust_policy(
        trust_policy(
            provider_arn=settings.oidc_provider_arn,
            issuer=issuer,
            audience=AUDIENCE,
            subject=settings.service_account,
        )
    )


def _read(file: Path, parse: Callable[[str], Policy]) -> Policy:
    try:
        return parse(file.read_text())
    except (OSError, ValueError) as error:  # ValueError: also what is not UTF-8
        raise PolicyError(f"{file} can't be used as a RAM policy: {error}") from None


def _texts(*values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)]
