"""Texts of others, without what looks like a secret in them."""

import re

HIDDEN = "(hidden)"

_TELLTALE = r"(?:secret|token|passw|passphrase|credential|auth|private|signature|(?:api|access)[-_]?key)"
_NAME = rf"(?i:{_TELLTALE}[\w.~-]{{0,64}})"
"""The end of a name, which is enough to know it by: looking for its beginning would cost long texts dear."""
_HEADER = r"(?i:authorization|token|secret|password|api-?key)"
_SECRETS = (
    (re.compile(r"(?<=://)[^/\s]+(?=@)"), HIDDEN),  # https://user:password@host
    (re.compile(rf"((?:{_NAME}|\bsig)\s*=\s*)[^\s,;&]+"), rf"\1{HIDDEN}"),  # password=…
    (re.compile(rf"({_NAME}['\"]?:\s*(['\"]))(?:(?!\2).)*"), rf"\1{HIDDEN}"),  # "token": "…"
    (re.compile(rf"({_HEADER}:\s+)(?!['\"])[^\n]+"), rf"\1{HIDDEN}"),  # Authorization: …
    (re.compile(r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*-----|$)"), HIDDEN),
)


def hide_secrets(text: str) -> str:
    for secret, shown in _SECRETS:
        text = secret.sub(shown, text)
    return text


def names_a_secret(name: str) -> bool:
    return re.search(_NAME, name) is not None
