"""What counts as misrouted, on worlds small enough to count by hand."""

import numpy as np
import pytest

from benchmarks.simulator.score import misranked

POPS = np.array([[1, 0, 2]])
RTT_MS = np.array([[10.0, 15.0, 40.0]])


def wrong(at: list[int], share: list[float]) -> float:
    """Of four caches with equal demand in one group."""
    at_each = np.array(at)
    group = np.zeros(len(at), np.int64)
    return float(misranked(at_each, group, np.ones(len(at)), POPS, RTT_MS, np.array([share])))


@pytest.mark.parametrize(
    ("at", "share", "expected"),
    [
        ([1, 1, 1, 1], [1.0, 0.0, 0.0], 0.0),
        ([0, 0, 0, 0], [1.0, 0.0, 0.0], 0.0),  # 5 ms slower
        ([2, 1, 1, 1], [1.0, 0.0, 0.0], 0.25),
        ([2, 1, 1, 2], [0.5, 0.0, 0.5], 0.0),  # as the optimum, whoever is where
        ([2, 2, 1, 2], [0.5, 0.0, 0.5], 0.25),
        ([2, 2, 2, 2], [0.0, 0.5, 0.5], 0.5),
        ([1, 1, 1, 1], [0.0, 0.0, 1.0], 0.0),  # faster than the optimum
    ],
)
def test_users_are_compared_with_the_optimum_in_the_order_of_rtt(
    at: list[int], share: list[float], expected: float
) -> None:
    assert wrong(at, share) == pytest.approx(expected)
