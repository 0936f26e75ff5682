"""What tests of several components share: one embedded AWS for the whole run, and no deadlines."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from benchmarks.faults.local import EmbeddedAws
from popsteer.config import Aws

# How long an example takes says more of the machine, and of what compiles first, than of the code.
settings.register_profile("popsteer", deadline=None)
settings.load_profile("popsteer")


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes runs alone and in order, on one worker, beside all the rest.

    It is handed out first, because it is the longest; without workers it comes last, so that a
    small fault is told at once.
    """
    long = [item for item in items if item.get_closest_marker("e2e") is not None]
    for item in long:
        item.add_marker(pytest.mark.xdist_group("e2e"))
    short = [item for item in items if item not in set(long)]
    parallel = "PYTEST_XDIST_WORKER" in os.environ
    items[:] = long + short if parallel else short + long


@pytest.fixture(scope="session")
def local_aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """An embedded AWS of its own process on a free port, with bucket `popsteer`.

    Tests share it: each uses names (keys, streams) of its own.
    """
    embedded = EmbeddedAws(tmp_path_factory.mktemp("localaws"), options=())
    embedded.start()
    try:
        yield embedded.aws
    finally:
        embedded.stop()
