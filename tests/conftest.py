"""What tests of several components share: one embedded AWS for the whole run."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from popsteer.config import Aws

READY = "ready "


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes last, so that a small fault is told at once."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


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
