"""Each overlay is built once."""

import functools
from collections.abc import Callable
from pathlib import Path

import manifests
import pytest


@pytest.fixture(scope="session")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The overlays' folder, in a copy that may be changed."""
    if manifests.program() is None:
        pytest.skip("needs kustomize: make manifests installs it (with Go)")
    return manifests.copy(tmp_path_factory.mktemp("manifests") / "deploy" / "kustomize")


@pytest.fixture(scope="session")
def build(overlays: Path) -> Callable[[str], manifests.Manifests]:
    return functools.cache(lambda overlay: manifests.build(overlays / overlay))


@pytest.fixture(params=manifests.OVERLAYS)
def built(request: pytest.FixtureRequest, build: Callable[[str], manifests.Manifests]) -> manifests.Manifests:
    """Every overlay in turn."""
    return build(request.param)
