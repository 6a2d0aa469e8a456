"""A cluster without a network: what is behind the server's front."""

import pytest
from apiserver import Store
from apiserver.scene import Scene


@pytest.fixture
def scene() -> Scene:
    scene = Scene(Store())
    scene.define_peer_pods()
    return scene
