"""The cluster's OIDC issuer: makes service account tokens as the kubelet mounts them, and verifies them.

Tokens are RS256 JWTs. With one algorithm, one issuer and `cryptography` at hand, a JWT library would bring
more choices to get wrong (algorithms, key confusion) than code to save, so there is none.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from caa.fakecloud.clock import Clock

AUDIENCE = "sts.aliyuncs.com"
KEY_BITS = 2048


class InvalidTokenError(Exception):
    """`reason` is the last part of STS's code, AuthenticationFail.OIDCToken.…"""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Issuer:
    def __init__(self, url: str, clock: Clock) -> None:
        self.url = url
        self._clock = clock
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        numbers = self._key.public_key().public_numbers()
        self._jwk = {"kty": "RSA", "n": _integer(numbers.n), "e": _integer(numbers.e)}
        # RFC 7638: the thumbprint is of the required members in this order.
        thumbprint = json.dumps({name: self._jwk[name] for name in ("e", "kty", "n")}, separators=(",", ":"))
        self._key_id = _b64(hashlib.sha256(thumbprint.encode()).digest())

    def mint(self, subject: str, *, seconds: float, audience: str = AUDIENCE, **claims: Any) -> str:
        """A token valid from now on for that long. `claims` are added, and win."""
        now = int(self._clock.now())
        payload: dict[str, Any] = {
            "iss": self.url,
            "aud": [audience],
            "sub": subject,
            "iat": now,
            "nbf": now,
            "exp": int(now + seconds),
        } | claims
        header = {"alg": "RS256", "kid": self._key_id, "typ": "JWT"}
        signed = f"{_b64(json.dumps(header).encode())}.{_b64(json.dumps(payload).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_b64(signature)}"

    def verify(self, token: str, *, audience: str) -> dict[str, Any]:
        """The token's claims. Raises InvalidTokenError."""
        signed, header, claims, signature = _parse(token)
        if header.get("alg") != "RS256":
            raise InvalidTokenError(
                "Invalid", f"The algorithm {header.get('alg')} that be specified in Jwt header is unknown."
            )
        if claims.get("iss") != self.url:
            raise InvalidTokenError(
                "IssuerNotMatch", "The issuer in the OIDC Token doesn't match the OIDC Provider registered."
            )
        verify_rs256(self._key.public_key(), signed, signature)
        now = self._clock.now()
        expires = _time(claims, "exp")
        begins = max(_time(claims, "iat"), _time({"nbf": 0} | claims, "nbf"))
        if expires <= now:
            raise InvalidTokenError("Expired", "This JsonWebToken is expired.")
        if begins > now:  # the code is assumed
            raise InvalidTokenError("Invalid", "This JsonWebToken is not valid yet.")
        audiences = claims.get("aud")
        if audience not in (audiences if isinstance(audiences, list) else [audiences]):
            raise InvalidTokenError("AudienceNotMatch", "Invalid audience.")
        return claims

    @property
    def configuration(self) -> dict[str, Any]:
        """The body of /.well-known/openid-configuration."""
        return {
            "issuer": self.url,
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    @property
    def keys(self) -> dict[str, Any]:
        """The body of /keys, a JSON Web Key Set."""
        return {"keys": [self._jwk | {"use": "sig", "alg": "RS256", "kid": self._key_id}]}


def oidc_routes(issuer: Issuer) -> list[web.RouteDef]:
    """What an issuer publishes, so that anybody can verify its tokens."""

    async def configuration(_: web.Request) -> web.Response:
        return web.json_response(issuer.configuration)

    async def keys(_: web.Request) -> web.Response:
        return web.json_response(issuer.keys)

    return [web.get("/.well-known/openid-configuration", configuration), web.get("/keys", keys)]


def verify_rs256(key: rsa.RSAPublicKey, signed: bytes, signature: bytes) -> None:
    try:
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise InvalidTokenError(
            "InvalidSignature", "OIDC token validate failed: invalid signature."
        ) from None


def _parse(token: str) -> tuple[bytes, dict[str, Any], dict[str, Any], bytes]:
    parts = token.split(".")
    if len(parts) != 3:
        raise InvalidTokenError(
            "Invalid", "The number of Jwt field should be divided into 3 parts with '.' ."
        )
    try:
        header, claims = json.loads(_unb64(parts[0])), json.loads(_unb64(parts[1]))
        signature = _unb64(parts[2])
    except (ValueError, binascii.Error):
        raise InvalidTokenError(
            "Invalid", "Cannot decode base64 encoded response(format invalided)."
        ) from None
    if not isinstance(header, dict) or not isinstance(claims, dict):
        raise InvalidTokenError("Invalid", "The Jwt content is invalid that cannot be recognized.")
    return ".".join(parts[:2]).encode(), header, claims, signature


def _time(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if not isinstance(value, int):
        raise InvalidTokenError("Invalid", "The Jwt content is invalid that cannot be recognized.")
    return value


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    return base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _integer(value: int) -> str:
    return _b64(value.to_bytes((value.bit_length() + 7) // 8))
