"""When the loop naps so that packets gather."""

import numpy as np
import pytest

from resolver.fast.batch import batch
from resolver.fast.gather import NAPPED, let_gather


class Clocked:
    """A loop's pace under a clock that the test moves."""

    def __init__(self) -> None:
        self._memory, self._kept = batch(1)
        self._pace = np.zeros(3, np.int64)
        self._memory.clock[0] = 1_000

    def naps(self, received: int, after_us: int) -> bool:
        """Whether the loop naps after a batch that came so long after the one before."""
        self._memory.clock[1] += after_us * 1_000
        let_gather(self._memory, received, self._pace)
        return bool(self._pace[NAPPED])


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("received", "after_us", "naps"), [(4, 10, True), (4, 200, False), (40, 100, False)]
)
def test_small_batches_under_load_alone_are_waited_for(
    received: int, after_us: int, naps: bool
) -> None:
    clocked = Clocked()
    clocked.naps(1, 0)
    assert clocked.naps(received, after_us) is naps


@pytest.mark.timeout(600)
def test_a_nap_that_gathered_nothing_is_not_soon_tried_again() -> None:
    clocked = Clocked()
    clocked.naps(1, 0)
    assert clocked.naps(4, 10)
    assert not any(clocked.naps(4, 10) for _ in range(100))
    assert any(clocked.naps(4, 10) for _ in range(1_000))


@pytest.mark.timeout(600)
def test_naps_go_on_while_they_gather() -> None:
    clocked = Clocked()
    clocked.naps(1, 0)
    assert all(clocked.naps(20, 60) for _ in range(100))
