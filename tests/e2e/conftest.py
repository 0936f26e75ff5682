"""One running loop for the module that asks for it, and where the real data is."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.loop import Loop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data sets, which live beside the project and never in it."""
    named = os.environ.get("POPSTEER_SHARED_DATA")
    path = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (path / "world_v1.npz").exists():
        pytest.skip(f"no real data at {path}; name its folder in POPSTEER_SHARED_DATA")
    return path


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    """`popsteer up` in a generated world, ready."""
    with Loop(tmp_path_factory.mktemp("up")) as running:
        running.start(timeout_s=180)
        yield running
