import base64
import gzip
import hashlib
import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caa.errors import InvalidArgumentError
from caa.podvm import initdata

DOCUMENT = b"""\
algorithm = "sha384"
version = "0.1.0"

[data]
"aa.toml" = '''
[token_configs.kbs]
url = 'http://127.0.0.1:8080'
'''
"policy.rego" = '''
package agent_policy
'''
"""


def test_a_document() -> None:
    parsed = initdata.parse(DOCUMENT)
    assert parsed.algorithm == "sha384"
    assert parsed.data["policy.rego"] == "package agent_policy\n"
    assert parsed.digest == hashlib.sha384(DOCUMENT).hexdigest()


def test_text_and_bytes_are_the_same_document() -> None:
    assert initdata.parse(DOCUMENT.decode()) == initdata.parse(DOCUMENT)


@pytest.mark.parametrize("algorithm", initdata.ALGORITHMS)
def test_the_digest_is_over_the_bytes_as_written(algorithm: str) -> None:
    document = f'# a comment\r\nalgorithm="{algorithm}"\r\nversion = "1"\r\n'.encode()
    assert initdata.parse(document).digest == hashlib.new(algorithm, document).hexdigest()


def test_the_minimal_document_is_valid() -> None:
    parsed = initdata.parse(initdata.MINIMAL)
    assert parsed.data == {"aa.toml": ""}
    assert parsed.algorithm == "sha256"


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"", "algorithm is None"),
        (b"algorithm = ", "not TOML"),
        (b"\xff", "not TOML"),
        (b"x = " + b"[" * 100_000, "not TOML"),
        (b'algorithm = "md5"\nversion = "1"', "algorithm is 'md5'; allowed are sha256, sha384, sha512"),
        (b'algorithm = ["sha256"]\nversion = "1"', "algorithm is"),
        (b'algorithm = "sha256"', "version is None"),
        (b'algorithm = "sha256"\nversion = 1', "version is 1"),
        (b'algorithm = "sha256"\nversion = "1"\ndata = "x"', "must be a table"),
        (b'algorithm = "sha256"\nversion = "1"\n[data]\n"aa.toml" = 1', "data.'aa.toml' is a int"),
        (b"# " + b"x" * initdata.MAX_DOCUMENT, "at most"),
    ],
)
def test_a_bad_document_is_refused_with_the_reason(document: bytes, complaint: str) -> None:
    with pytest.raises(InvalidArgumentError, match="initdata") as caught:
        initdata.parse(document)
    assert complaint in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.binary(max_size=3000).filter(lambda document: not document.startswith(b"\x1f\x8b")))
def test_both_wire_forms_come_back(document: bytes) -> None:
    assert initdata.decode(initdata.encode(document)) == document
    assert initdata.decode(initdata.encode_plain(document)) == document


def test_the_wire_form_is_the_same_every_time_and_gzip_reads_it() -> None:
    wire = initdata.encode(DOCUMENT)
    assert wire == initdata.encode(DOCUMENT)
    packed = base64.b64decode(wire)
    assert gzip.decompress(packed) == DOCUMENT
    assert packed[4:8] == bytes(4), "a time stamp would change a repeated request"


def test_line_breaks_as_the_base64_command_makes_them() -> None:
    assert initdata.decode(base64.encodebytes(gzip.compress(DOCUMENT)).decode()) == DOCUMENT


def test_gzip_of_several_members() -> None:
    packed = gzip.compress(DOCUMENT[:50]) + gzip.compress(DOCUMENT[50:])
    assert initdata.decode(base64.b64encode(packed).decode()) == DOCUMENT


@pytest.mark.parametrize(
    "wire",
    [
        "not base64!",
        "abc",
        base64.b64encode(gzip.compress(DOCUMENT)[:-9]).decode(),
        base64.b64encode(gzip.compress(DOCUMENT)[:-5] + b"\0\0\0\0\0").decode(),
        base64.b64encode(gzip.compress(DOCUMENT) + b"junk").decode(),
        base64.b64encode(b"\x1f\x8bnonsense").decode(),
        initdata.encode_plain(b"x" * (initdata.MAX_DOCUMENT + 1)),
    ],
)
def test_a_damaged_wire_form_is_refused(wire: str) -> None:
    with pytest.raises(InvalidArgumentError, match="initdata"):
        initdata.decode(wire)


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = 0
    read = gzip.GzipFile.read

    def counting(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal unpacked
        chunk = read(self, size)
        unpacked += len(chunk)
        return chunk

    bomb = io.BytesIO()
    with gzip.GzipFile(fileobj=bomb, mode="wb") as stream:
        for _ in range(64):
            stream.write(bytes(1024 * 1024))
    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    with pytest.raises(InvalidArgumentError, match="more than"):
        initdata.decode(base64.b64encode(bomb.getvalue()).decode())
    assert unpacked <= initdata.MAX_DOCUMENT + 1


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_nothing_but_invalid_argument_comes_out_of_parse(document: bytes | str) -> None:
    with suppress(InvalidArgumentError):
        initdata.parse(document)
