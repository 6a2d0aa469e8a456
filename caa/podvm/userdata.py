"""User data: the one document that a VM is created with, and the files in it.

A cloud-config with nothing but `write_files`. Written for three readers:
cloud-init, the strict Go reader in existing images, and `parse_user_data` below, which is as strict.
"""

import re
import sys
from collections.abc import Mapping

import structlog
import yaml

from caa.errors import InvalidArgumentError
from caa.podvm import initdata as initdata_

log = structlog.get_logger(__name__)

FOLDER = "/run/peerpod"
APF_JSON = f"{FOLDER}/apf.json"
DAEMON_JSON = f"{FOLDER}/daemon.json"
AUTH_JSON = f"{FOLDER}/auth.json"
INITDATA = f"{FOLDER}/initdata"
SCRATCH_SPACE_MARKER = f"{FOLDER}/scratch-space.marker"
KNOWN_FILES = frozenset((APF_JSON, DAEMON_JSON, AUTH_JSON, INITDATA, SCRATCH_SPACE_MARKER))

MAX_USER_DATA = 32 * 1024
"""Bytes that ECS takes, before base64."""
MAX_AUTH_JSON = 12_288
"""Bytes of pull secrets above which they are left out."""


def build_user_data(
    config: str,
    *,
    podvm_version: str = "auto",
    auth_json: str = "",
    initdata: bytes = b"",
    scratch_space: bool = False,
) -> bytes:
    """The cloud-config document, not yet base64. The same arguments always give the same bytes.

    `config` is the forwarder config's JSON. `podvm_version` is the image's version, or auto for any, and
    decides the config's file name and the form of `initdata`, which is given as the TOML document. "" and
    b"" mean none. Pull secrets over MAX_AUTH_JSON are left out, with a warning: the pod can still run if its
    images need none.

    Raises InvalidArgumentError for a document over MAX_USER_DATA, or a version that is none.
    """
    version = _version(podvm_version)
    files: dict[str, str] = {}
    if version is None or version >= (0, 15):
        files[APF_JSON] = config
    if version is None or version < (0, 15):
        files[DAEMON_JSON] = config
    if (size := len(auth_json.encode())) > MAX_AUTH_JSON:
        log.warning(
            "pull secrets left out of the user data: images that need them will not be pulled",
            bytes=size,
            limit=MAX_AUTH_JSON,
            remedy="give the pod fewer or smaller pull secrets",
        )
    elif auth_json:
        files[AUTH_JSON] = auth_json
    if initdata:
        plain = version is not None and version < (0, 14)
        files[INITDATA] = initdata_.encode_plain(initdata) if plain else initdata_.encode(initdata)
    if scratch_space:
        files[SCRATCH_SPACE_MARKER] = ""

    document = _dump(files)
    if len(document) > MAX_USER_DATA:
        sizes = ", ".join(f"{path} {len(text.encode())}" for path, text in files.items())
        remedy = "make the initdata or the pull secrets smaller"
        if version is None:
            remedy += ", or set PODVM_VERSION to the image's version, which saves a copy of the config"
        raise InvalidArgumentError(
            f"the user data has {len(document)} bytes and the cloud takes {MAX_USER_DATA}"
            f" (bytes of each file: {sizes}): {remedy}"
        )
    return document


def parse_user_data(document: bytes) -> dict[str, str]:
    """Path to text of the files in a cloud-config, whatever their paths are.

    Strict: `write_files` is the only key, `path` and `content` are the only keys of its entries, and there is
    at least one entry. Text is taken as it is written, without YAML's types: `0x10` is just that.

    Raises InvalidArgumentError that quotes no content, which may be secret.
    """
    try:
        root = yaml.compose(document.decode(), Loader=yaml.SafeLoader)
        top = _mapping(root, "the user data", {"write_files"})
        entries = top.get("write_files")
        if not isinstance(entries, yaml.SequenceNode) or not entries.value:
            raise InvalidArgumentError("the user data has no list write_files with an entry")
        files = {}
        for number, node in enumerate(entries.value):
            entry = _mapping(node, f"write_files[{number}]", {"path", "content"})
            path = _text(entry.get("path"), f"write_files[{number}].path")
            files[path] = _text(entry.get("content"), f"write_files[{number}].content")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InvalidArgumentError(f"the user data is not YAML: line {line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidArgumentError(f"the user data is not YAML: {type(error).__name__}") from None
    return files


def _version(text: str) -> tuple[int, int] | None:
    if text == "auto":
        return None
    if found := re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", text):
        return int(found[1]), int(found[2])
    raise InvalidArgumentError(f"the pod VM version is {text!r}; allowed: auto, or such as 0.13 or 0.15")


class _Dumper(yaml.SafeDumper):
    pass


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # A block is for people, and only where it needs no indentation or chomping sign that a reader might
    # not know. PyYAML takes quotes as well for what no block keeps, such as spaces at the end of a line.
    block = re.match(r"[^ \n].*\n", text) and not text.endswith("\n\n")
    style = "|" if block else '"' if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)


def _dump(files: Mapping[str, str]) -> bytes:
    # Plain ASCII, everything else escaped: no reader's idea of printable characters matters.
    body = yaml.dump(
        {"write_files": [{"path": path, "content": text} for path, text in files.items()]},
        Dumper=_Dumper,
        sort_keys=False,
        width=sys.maxsize,
    )
    return f"#cloud-config\n{body}".encode("ascii")


def _mapping(node: yaml.Node | None, what: str, allowed: set[str]) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise InvalidArgumentError(f"{what} is not a mapping")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else None
        if name not in allowed or name in found:
            raise InvalidArgumentError(f"{what} may have one each of {sorted(allowed)}, and nothing else")
        found[name] = value
    return found


_PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "timestamp")}


def _text(node: yaml.Node | None, what: str) -> str:
    if node is None or node.tag == "tag:yaml.org,2002:null":
        return ""
    if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
        return str(node.value).encode().decode()  # refuses half a surrogate pair, which no file can hold
    raise InvalidArgumentError(f"{what} is not a text")
