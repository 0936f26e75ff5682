import pytest

from benchmarks.scene import Scene, make_scene


@pytest.fixture
def scene() -> Scene:
    return make_scene()
