"""Who signed a request, without I/O.

Two signatures are understood: ACS3-HMAC-SHA256, which today's SDKs put into the headers, and the RPC
signature (HMAC-SHA1, version 1.0) in the parameters, which older clients still send.

ACS3 signs the algorithm's name and the SHA-256 of the canonical request, which is, a line each: method,
path, sorted query, every signed header as `name:value` and an empty line, the names of the signed headers,
and the SHA-256 of the body. Every `x-acs-…` header must be among the signed ones. A request's date may be
15 minutes off, and its nonce is good for once.

The RPC signature covers the parameters alone, wherever they are, and no header.
"""

import base64
import calendar
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from caa.fakecloud.clock import Clock
from caa.fakecloud.errors import ApiError, missing
from caa.fakecloud.keys import AccessKey

ALGORITHM = "ACS3-HMAC-SHA256"
RPC_ALGORITHM = "HMAC-SHA1"
FORM = "application/x-www-form-urlencoded"
TOLERANCE = 15 * 60
"""Seconds that a request's date may be away from ours."""

_AUTHORIZATION = re.compile(
    rf"{ALGORITHM} Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{{64}})"
)
_NEEDED_HEADERS = ("host", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce")

RPC_PARAMETERS = frozenset(
    {
        "AccessKeyId",
        "Action",
        "Format",
        "SecurityToken",
        "Signature",
        "SignatureMethod",
        "SignatureNonce",
        "SignatureType",
        "SignatureVersion",
        "Timestamp",
        "Version",
    }
)
"""The parameters of every RPC request, which are not the action's own."""


@dataclass(frozen=True)
class SignedRequest:
    """A request as it came over the wire, decoded."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    form: Sequence[tuple[str, str]] = ()
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str:
        """The values of a header in the canonical form: sorted, joined by commas."""
        return ",".join(sorted(value.strip() for key, value in self.headers if key.lower() == name))

    @property
    def parameters(self) -> dict[str, str]:
        """Those of the form win over the query's, as the last of several does."""
        return dict((*self.query, *self.form))

    @property
    def algorithm(self) -> str:
        """What it says it is signed with; empty if it is not signed at all."""
        if self.header("authorization"):
            return ALGORITHM
        return RPC_ALGORITHM if "Signature" in self.parameters else ""

    def named(self, header: str, parameter: str) -> str:
        """The action, or its version. A header counts unless it could have been changed on the way."""
        by_header = "" if self.algorithm == RPC_ALGORITHM else self.header(header)
        return by_header or self.parameters.get(parameter, "")


def encode(text: str) -> str:
    return quote(text, safe="~")


def canonical_query(pairs: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{encode(name)}={encode(value)}" for name, value in sorted(pairs))


def acs3_canonical_request(request: SignedRequest, signed_headers: Sequence[str]) -> str:
    return "\n".join(
        (
            request.method,
            request.path or "/",
            canonical_query(request.query),
            "".join(f"{name}:{request.header(name)}\n" for name in signed_headers),
            ";".join(signed_headers),
            request.header("x-acs-content-sha256"),
        )
    )


def acs3_string_to_sign(request: SignedRequest, signed_headers: Sequence[str]) -> str:
    canonical = acs3_canonical_request(request, signed_headers)
    return f"{ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def acs3_signature(request: SignedRequest, signed_headers: Sequence[str], secret: str) -> str:
    text = acs3_string_to_sign(request, signed_headers)
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def rpc_string_to_sign(method: str, parameters: Mapping[str, str]) -> str:
    pairs = [(name, value) for name, value in parameters.items() if name != "Signature"]
    return f"{method}&%2F&{encode(canonical_query(pairs))}"


def rpc_signature(method: str, parameters: Mapping[str, str], secret: str) -> str:
    text = rpc_string_to_sign(method, parameters)
    # SHA-1 is what this signature is defined with.
    return base64.b64encode(hmac.new(f"{secret}&".encode(), text.encode(), hashlib.sha1).digest()).decode()


class SignatureVerifier:
    """Verifies requests against the account's keys, and remembers their nonces."""

    def __init__(self, find_key: Callable[[str], AccessKey | None], clock: Clock) -> None:
        self._find_key = find_key
        self._clock = clock
        self._nonces: dict[tuple[str, str], float] = {}

    def verify(self, request: SignedRequest) -> AccessKey:
        """The key that signed the request.

        Raises ApiError: IncompleteSignature, SignatureDoesNotMatch, InvalidAccessKeyId.NotFound,
        InvalidTimeStamp.Expired, SignatureNonceUsed, MissingSecurityToken, InvalidSecurityToken.….
        """
        if not request.algorithm:
            raise missing("AccessKeyId")
        if request.algorithm == RPC_ALGORITHM:
            return self._verify_rpc(request.method, request.parameters)
        return self._verify_acs3(request)

    def _verify_acs3(self, request: SignedRequest) -> AccessKey:
        match = _AUTHORIZATION.fullmatch(request.header("authorization"))
        if not match:
            raise _incomplete(f"The Authorization header is not of the form of {ALGORITHM}.")
        key_id, names, signature = match.groups()
        key = self._known_key(key_id, request.header("x-acs-security-token"))
        signed_headers = names.split(";")
        present = {name.lower() for name, _ in request.headers}
        must = {name for name in present if name.startswith("x-acs-")}.union(_NEEDED_HEADERS)
        if request.form:
            must.add("content-type")  # it is what makes parameters of the body
        empty = {name for name in _NEEDED_HEADERS if not request.header(name)}
        unsigned = sorted(must.difference(signed_headers) | empty)
        if unsigned:
            raise _incomplete(f"Not signed: {', '.join(unsigned)}.")
        if signed_headers != sorted(signed_headers):
            raise _incomplete("SignedHeaders must be in order.")
        self._check_date(request.header("x-acs-date"))
        if request.header("x-acs-content-sha256") != hashlib.sha256(request.body).hexdigest():
            raise ApiError(
                400, "SignatureDoesNotMatch", "x-acs-content-sha256 is not the SHA-256 of the body."
            )
        if not hmac.compare_digest(signature, acs3_signature(request, signed_headers, key.secret)):
            raise ApiError(
                400,
                "SignatureDoesNotMatch",
                "Specified signature does not match our calculation."
                f" server StringToSign is [{acs3_string_to_sign(request, signed_headers)}]"
                f" server CanonicalRequest is [{acs3_canonical_request(request, signed_headers)}]",
            )
        self._use_nonce(key.id, request.header("x-acs-signature-nonce"))
        return key

    def _verify_rpc(self, method: str, parameters: Mapping[str, str]) -> AccessKey:
        for name in (
            "AccessKeyId",
            "Signature",
            "SignatureMethod",
            "SignatureNonce",
            "SignatureVersion",
            "Timestamp",
        ):
            if not parameters.get(name):
                raise missing(name)
        if (parameters["SignatureMethod"], parameters["SignatureVersion"]) != (RPC_ALGORITHM, "1.0"):
            raise _incomplete(f"Only {RPC_ALGORITHM}, version 1.0, is understood.")
        key = self._known_key(parameters["AccessKeyId"], parameters.get("SecurityToken", ""))
        self._check_date(parameters["Timestamp"])
        if not hmac.compare_digest(
            parameters["Signature"].encode(), rpc_signature(method, parameters, key.secret).encode()
        ):
            raise ApiError(
                400,
                "SignatureDoesNotMatch",
                "Specified signature is not matched with our calculation."
                f" server string to sign is:{rpc_string_to_sign(method, parameters)}",
            )
        self._use_nonce(key.id, parameters["SignatureNonce"])
        return key

    def _known_key(self, key_id: str, token: str) -> AccessKey:
        key = self._find_key(key_id)
        if key is None:
            raise ApiError(404, "InvalidAccessKeyId.NotFound", "Specified access key is not found.")
        if key.session_token and not token:
            raise ApiError(400, "MissingSecurityToken", "SecurityToken is mandatory for this action.")
        if not hmac.compare_digest(key.session_token.encode(), token.encode()):
            raise ApiError(
                400,
                "InvalidSecurityToken.MismatchWithAccessKey",
                "Specified SecurityToken mismatch with the AccessKey.",
            )
        if key.expires_at is not None and key.expires_at <= self._clock.now():
            raise ApiError(400, "InvalidSecurityToken.Expired", "Specified SecurityToken is expired.")
        return key

    def _check_date(self, date: str) -> None:
        try:
            seconds = calendar.timegm(time.strptime(date, "%Y-%m-%dT%H:%M:%SZ"))
        except ValueError:
            raise ApiError(
                400, "InvalidTimeStamp.Format", "Specified time stamp or date value is not well formatted."
            ) from None
        if abs(self._clock.now() - seconds) > TOLERANCE:
            raise ApiError(400, "InvalidTimeStamp.Expired", "Specified time stamp or date value is expired.")

    def _use_nonce(self, key_id: str, nonce: str) -> None:
        now = self._clock.now()
        # The oldest come first, and a date that old is refused anyway.
        for used, at in list(self._nonces.items()):
            if now - at <= 2 * TOLERANCE:
                break
            del self._nonces[used]
        if (key_id, nonce) in self._nonces:
            raise ApiError(400, "SignatureNonceUsed", "Specified signature nonce was used already.")
        self._nonces[key_id, nonce] = now


def _incomplete(why: str) -> ApiError:
    return ApiError(
        400, "IncompleteSignature", f"The request signature does not conform to Aliyun standards. {why}"
    )
