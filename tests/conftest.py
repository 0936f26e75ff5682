"""What tests of several components share: one embedded AWS for the whole run."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from popsteer.config import Aws

READY = "ready "


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
    folder = tmp_path_factory.mktemp("localaws")
    with (folder / "stderr").open("w") as stderr:
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "console.localaws"),
                *("--listen", "127.0.0.1:0", "--data", str(folder / "data")),
            ],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert child.stdout is not None
    with child, child.stdout:
        try:
            line = child.stdout.readline()
            assert line.startswith(READY), (folder / "stderr").read_text()
            yield Aws(endpoint=line.removeprefix(READY).strip())
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
