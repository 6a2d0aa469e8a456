"""What a pod VM is called."""

import re

_LONGEST = 63
"""Octets of a DNS label: the name is the VM's host name, and the name in its TLS certificate."""


def instance_name(pod_name: str, sandbox_id: str) -> str:
    """`podvm-<pod>-<first 8 of the sandbox id>`.

    The same for every call, so that the daemon, the VM's certificate and a user who looks for `podvm-*`
    agree on it. It is unique only as far as the first eight characters of sandbox ids are, which are random.
    """
    head, tail = "podvm-", f"-{_label(sandbox_id)[:8]}"
    return head + _label(pod_name)[: _LONGEST - len(head) - len(tail)] + tail


def _label(text: str) -> str:
    return re.sub(r"[^a-z0-9-]", "-", text.lower())
