"""Initdata: a TOML document that a pod's owner hands to the guest, measured by its digest.

The digest, which attestation compares, is over the bytes of the
document as its author wrote them: nothing here may parse and write it anew.
"""

import base64
import gzip
import hashlib
import io
import reprlib
import tomllib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from caa.errors import InvalidArgumentError

ALGORITHMS = ("sha256", "sha384", "sha512")
MAX_DOCUMENT = 1024 * 1024
"""Bytes of a decoded document. Far above what fits into user data, and small enough that a crafted gzip
stream (a thousand to one) can't fill memory."""

MINIMAL = b"""\
algorithm = "sha256"
version = "0.1.0"

[data]
"aa.toml" = '''
'''"""
"""What stands in for initdata where a pod has none, so that there is always a digest. These very bytes:
other images use them too, and attestation policies may know their digest."""


@dataclass(frozen=True)
class Initdata:
    """A document that has been checked."""

    document: bytes
    """The TOML text as it came."""
    algorithm: str
    version: str
    data: Mapping[str, str]
    """File name to text. The names are the author's: untrusted, and not to be used as paths."""

    @property
    def digest(self) -> str:
        """Hex digest of the document, by its own algorithm."""
        return hashlib.new(self.algorithm, self.document).hexdigest()


def parse(document: str | bytes) -> Initdata:
    """Check a TOML document.

    Raises InvalidArgumentError that says what is wrong with it.
    """
    raw = document.encode() if isinstance(document, str) else document
    if len(raw) > MAX_DOCUMENT:
        raise InvalidArgumentError(f"initdata has {len(raw)} bytes; at most {MAX_DOCUMENT} are allowed")
    try:
        toml = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"initdata is not TOML: {error}") from None
    algorithm, version, data = toml.get("algorithm"), toml.get("version"), toml.get("data", {})
    if algorithm not in ALGORITHMS:
        raise InvalidArgumentError(
            f"initdata: algorithm is {reprlib.repr(algorithm)}; allowed are {', '.join(ALGORITHMS)}"
        )
    if not isinstance(version, str):
        raise InvalidArgumentError(
            f'initdata: version is {reprlib.repr(version)}; it must be a text such as "0.1.0"'
        )
    if not isinstance(data, dict):
        raise InvalidArgumentError("initdata: data must be a table of file names and their texts")
    for name, text in data.items():
        if not isinstance(text, str):
            raise InvalidArgumentError(
                f"initdata: data.{reprlib.repr(name)} is a {type(text).__name__}; it must be a quoted text"
            )
    return Initdata(raw, algorithm, version, MappingProxyType(data))


def encode(document: bytes) -> str:
    """The wire form: gzip, then base64. The same document always gives the same text, because a repeated
    RunInstances must repeat its user data.
    """
    return base64.b64encode(gzip.compress(document, mtime=0)).decode()


def encode_plain(document: bytes) -> str:
    """The wire form of images up to 0.13: base64 alone."""
    return base64.b64encode(document).decode()


def decode(text: str) -> bytes:
    """The document in either wire form; line breaks in the base64 are allowed.

    Raises InvalidArgumentError, also for more than MAX_DOCUMENT bytes, which are never unpacked.
    """
    try:
        packed = base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise InvalidArgumentError(f"initdata is not base64: {error}") from None
    if not packed.startswith(b"\x1f\x8b"):
        document = packed
    else:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
                document = stream.read(MAX_DOCUMENT + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidArgumentError(f"initdata is not gzip inside its base64: {error}") from None
    if len(document) > MAX_DOCUMENT:
        raise InvalidArgumentError(f"initdata unpacks to more than {MAX_DOCUMENT} bytes")
    return document
