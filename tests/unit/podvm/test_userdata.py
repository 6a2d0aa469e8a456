import json
from contextlib import suppress

import pytest
import structlog.testing
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from caa.errors import InvalidArgumentError
from caa.podvm import build_user_data, initdata
from caa.podvm.userdata import (
    APF_JSON,
    AUTH_JSON,
    DAEMON_JSON,
    INITDATA,
    KNOWN_FILES,
    MAX_AUTH_JSON,
    MAX_USER_DATA,
    SCRATCH_SPACE_MARKER,
    parse_user_data,
)

CONFIG = json.dumps({"pod-name": "web", "tls-server-key": "-----BEGIN PRIVATE KEY-----\nMIG…\n"}, indent=2)
TOML = b'algorithm = "sha256"\nversion = "0.1.0"\n'


def files_of(document: bytes) -> dict[str, str]:
    """As cloud-init reads it, and only if the strict readers' rules hold."""
    assert document.startswith(b"#cloud-config\n")
    read = yaml.safe_load(document)
    assert read.keys() == {"write_files"}
    assert all(entry.keys() == {"path", "content"} for entry in read["write_files"])
    files = {entry["path"]: entry["content"] for entry in read["write_files"]}
    assert files == parse_user_data(document)
    return files


@pytest.mark.parametrize(
    ("version", "names"),
    [
        ("auto", {APF_JSON, DAEMON_JSON}),
        ("0.12.1", {DAEMON_JSON}),
        ("0.13", {DAEMON_JSON}),
        ("0.13.0", {DAEMON_JSON}),
        ("0.14", {DAEMON_JSON}),
        ("0.15", {APF_JSON}),
        ("0.15.2", {APF_JSON}),
        ("1.0", {APF_JSON}),
    ],
)
def test_the_config_is_written_under_the_names_that_the_image_reads(version: str, names: set[str]) -> None:
    files = files_of(build_user_data(CONFIG, podvm_version=version))
    assert files == dict.fromkeys(names, CONFIG)


@pytest.mark.parametrize("version", ["", "latest", "0", "0.13-rc1", "0.13\n"])
def test_a_version_that_is_none(version: str) -> None:
    with pytest.raises(InvalidArgumentError, match="allowed: auto"):
        build_user_data(CONFIG, podvm_version=version)


def test_every_file() -> None:
    document = build_user_data(CONFIG, auth_json='{"auths": {}}', initdata=TOML, scratch_space=True)
    files = files_of(document)
    assert files.keys() == KNOWN_FILES
    assert files[AUTH_JSON] == '{"auths": {}}'
    assert files[SCRATCH_SPACE_MARKER] == ""
    assert initdata.decode(files[INITDATA]) == TOML


@pytest.mark.parametrize(
    ("version", "wire"),
    [
        ("auto", initdata.encode(TOML)),
        ("0.12", initdata.encode_plain(TOML)),
        ("0.13.0", initdata.encode_plain(TOML)),
        ("0.14", initdata.encode(TOML)),
        ("0.15", initdata.encode(TOML)),
    ],
)
def test_initdata_is_in_the_form_that_the_image_reads(version: str, wire: str) -> None:
    assert files_of(build_user_data(CONFIG, podvm_version=version, initdata=TOML))[INITDATA] == wire


def test_large_pull_secrets_are_left_out_with_a_warning() -> None:
    with structlog.testing.capture_logs() as logs:
        files = files_of(build_user_data(CONFIG, auth_json="s" * (MAX_AUTH_JSON + 1), initdata=TOML))
    assert files.keys() == {APF_JSON, DAEMON_JSON, INITDATA}
    (warning,) = logs
    assert warning["log_level"] == "warning"
    assert warning["bytes"] == MAX_AUTH_JSON + 1


def test_pull_secrets_at_the_limit_stay() -> None:
    with structlog.testing.capture_logs() as logs:
        assert AUTH_JSON in files_of(build_user_data(CONFIG, auth_json="s" * MAX_AUTH_JSON))
    assert not logs


def test_the_limit_is_the_clouds_to_the_byte() -> None:
    frame = len(build_user_data("x", podvm_version="0.15")) - 1
    assert len(build_user_data("x" * (MAX_USER_DATA - frame), podvm_version="0.15")) == MAX_USER_DATA
    with pytest.raises(InvalidArgumentError):
        build_user_data("x" * (MAX_USER_DATA - frame + 1), podvm_version="0.15")


def test_too_much_is_an_error_that_names_each_file_and_no_content() -> None:
    secret = "s" * MAX_AUTH_JSON
    with pytest.raises(InvalidArgumentError) as caught:
        build_user_data("c" * 12_000, auth_json=secret, scratch_space=True)
    message = str(caught.value)
    for part in (f"{APF_JSON} 12000", f"{DAEMON_JSON} 12000", f"{AUTH_JSON} 12288", "32768", "PODVM_VERSION"):
        assert part in message
    assert "ssss" not in message


def test_people_can_read_it() -> None:
    assert b'  content: |-\n    {\n      "pod-name": "web",\n' in build_user_data(
        '{\n  "pod-name": "web",\n}'
    )


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
@example("trailing \nspaces  \n", "\ttab\n\tand tab")
@example("no line end", "two line ends\n\n")
@example("\n", "\r\n")
@example("  leading\n    indentation\n", "\n\n  leading lines\n")
@example("#cloud-config", "--- a\n...\n- b")
@example("yes", "0x10")
@example("null", "~")
@example("é\u0085\u2028\ufeff😀\x00\x7f", "a: b\n'\"\\n&x *x !y |")
@example("x" * 200 + " " + "y" * 200, "2026-01-01")
def test_any_text_survives(first: str, second: str) -> None:
    files = files_of(build_user_data(first, podvm_version="0.15", auth_json=second))
    assert files[APF_JSON] == first
    assert files.get(AUTH_JSON, "") == second


PEERS = b"""\
#cloud-config

write_files:
  - path: /run/peerpod/apf.json
    content: |
      {
          "pod-name": "web"
      }
  - path: /run/peerpod/scratch-space.marker
  - { path: /run/peerpod/auth.json, content: '' }
  - path: /etc/other
    content: 0x10
"""


def test_what_the_go_daemon_writes() -> None:
    assert parse_user_data(PEERS) == {
        APF_JSON: '{\n    "pod-name": "web"\n}\n',
        SCRATCH_SPACE_MARKER: "",
        AUTH_JSON: "",
        "/etc/other": "0x10",
    }


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"#cloud-config\n",
        b"#cloud-config\nwrite_files:\n",
        b"#cloud-config\nwrite_files: []\n",
        b"#cloud-config\nwrite_files: {path: /a, content: b}\n",
        b"#cloud-config\nwrite_files: [text]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: b}]\nruncmd: [ls]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: b}]\nwrite_files: [{path: /a, content: b}]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: b, permissions: '0777'}]\n",
        b"#cloud-config\nwrite_files: [{path: /a, path: /b, content: b}]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: [b]}]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: !!binary aGk=}]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: !!python/name:os.system x}]\n",
        b"#cloud-config\nwrite_files: [{? [complex] : b}]\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: b}]\n---\nwrite_files: []\n",
        b"#cloud-config\nwrite_files: [{path: /a, content: *undefined}]\n",
        b"<html>404</html>",
        b"\xff\xfe\x00",
        b'content: "\\UFFFFFFFF"',
        b'write_files: [{path: /a, content: "\\uD800"}]',
        b"[" * 50_000,
    ],
)
def test_what_is_not_strictly_a_list_of_files_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidArgumentError):
        parse_user_data(document)


def test_an_error_does_not_quote_what_may_be_secret() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        parse_user_data(b"write_files:\n  - path: /a\n    content: SECRET: SECRET\n")
    assert "line 3" in str(caught.value)
    assert "SECRET" not in str(caught.value)


SNIPPETS = st.text(alphabet="ab:-[]{}&*!|>'\" \n\t#?,%\\xU0", max_size=60).map(str.encode)


@given(st.binary(max_size=200) | SNIPPETS)
def test_nothing_but_invalid_argument_comes_out_of_parse(document: bytes) -> None:
    for prefix in (b"", b"write_files:\n- path: "):
        with suppress(InvalidArgumentError):
            parse_user_data(prefix + document)
