"""Image pull secrets, as an image's puller in the pod VM reads them: `{"auths": {registry: {"auth": …}}}`.

Nothing here puts a secret's content into an error or a log line.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from typing import Any

from caa.errors import InvalidArgumentError

MOST_SECRETS = 32
"""Of a pod and its service account, that are read."""
_MOST_BYTES = 1024 * 1024
"""Of a secret; what etcd holds at most."""
_MOST_REGISTRIES = 256
"""In one secret."""

Auths = Mapping[str, str]
"""Registry to base64 of user:password."""


def read(data: Mapping[str, Any]) -> Auths:
    """The registries of a Secret's `data`, which is base64 as the API gives it: of type
    kubernetes.io/dockerconfigjson (`.dockerconfigjson`), or the older kubernetes.io/dockercfg (`.dockercfg`).
    Entries with neither `auth` nor username and password are left out.

    Raises InvalidArgumentError that tells nothing of the content.
    """
    if text := data.get(".dockerconfigjson"):
        registries = _json(".dockerconfigjson", text).get("auths") or {}
    elif text := data.get(".dockercfg"):
        registries = _json(".dockercfg", text)
    else:
        raise InvalidArgumentError("it has neither .dockerconfigjson nor .dockercfg")
    if not isinstance(registries, dict) or len(registries) > _MOST_REGISTRIES:
        raise InvalidArgumentError(f"its registries are not a mapping of at most {_MOST_REGISTRIES}")
    auths = {}
    for registry, entry in registries.items():
        if not isinstance(entry, dict):
            raise InvalidArgumentError("an entry of its registries is not a mapping")
        if auth := _auth(entry):
            auths[registry] = auth
    return auths


def join(secrets: Iterable[Auths]) -> bytes | None:
    """All of them as one document, a later secret's registry before an earlier one's; None if there is no
    registry. The same secrets give the same bytes."""
    auths = {registry: {"auth": auth} for each in secrets for registry, auth in each.items()}
    if not auths:
        return None
    return json.dumps({"auths": auths}, sort_keys=True, separators=(",", ":")).encode()


def _json(key: str, text: Any) -> dict[str, Any]:
    if not isinstance(text, str) or len(text) > _MOST_BYTES * 4 // 3 + 4:
        raise InvalidArgumentError(f"its {key} is not a text of at most {_MOST_BYTES} bytes")
    try:
        value = json.loads(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, RecursionError):
        raise InvalidArgumentError(f"its {key} is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"its {key} is not a mapping")
    return value


def _auth(entry: Mapping[str, Any]) -> str:
    auth, username, password = (entry.get(key) or "" for key in ("auth", "username", "password"))
    if not all(isinstance(value, str) for value in (auth, username, password)):
        raise InvalidArgumentError("auth, username or password of a registry is not a text")
    if auth:
        return str(auth)
    if username and password:
        try:
            return base64.b64encode(f"{username}:{password}".encode()).decode()
        except UnicodeEncodeError:
            raise InvalidArgumentError("username or password of a registry is not a text") from None
    return ""
