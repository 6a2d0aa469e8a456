"""Proofs that what is deployed works, where there is neither a container engine nor a VM.

They need root and debootstrap and are skipped without; in CI they must run: `make image-proof podvm-proof`.
"""

import os

import pytest

from deploy.proof.containers import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if why := missing():
        assert not os.environ.get("CI"), f"the proof can't run: it {why}"
        for item in items:
            item.add_marker(pytest.mark.skip(reason=why))
