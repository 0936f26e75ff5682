"""What counts as misrouted and as oscillation, on worlds small enough to count by hand."""

import numpy as np
import pytest

from benchmarks.simulator.score import TREND_S, detrended, misranked

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


def utilisation(step_s: int, swing: float, period_s: int) -> np.ndarray:
    """[T, 1], of a POP that dies at `step_s`; before and after, and through it, it swings."""
    t = np.arange(6 * TREND_S)
    used = np.where(t < step_s, 0.8, 0.0) + swing * np.sin(2 * np.pi * t / period_s)
    return used.astype(np.float32)[:, None]


def test_a_step_of_the_world_is_no_oscillation() -> None:
    step_s = 3 * TREND_S
    used = utilisation(step_s, 0.0, 60)

    assert detrended(used).std() > 0.05
    assert detrended(used, [step_s]).std() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("period_s", [20, 60, 120])
def test_a_swing_counts_in_full_whatever_steps(period_s: int) -> None:
    swinging = utilisation(3 * TREND_S, 0.1, period_s)

    found = detrended(swinging, [2 * TREND_S, 3 * TREND_S, 4 * TREND_S]).std()

    assert found == pytest.approx(0.1 / np.sqrt(2), rel=0.1)
