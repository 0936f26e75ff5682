"""Gain and delay margins of the offset and the table on one linear POP, with the measured delays.

The plant is the kernel of the caches behind publication and measurement; the observer's model
keeps its own idea of both. Stable is what comes to rest after a step of foreign load.
"""

import numpy as np
import pytest

from aggregator.control import OFFSET_S, SMOOTHED_MS
from aggregator.flight import PUBLISHED_MS, Kernel
from popsteer.config import Plan

PLAN = Plan()
LOAD_S, TABLE_S = PLAN.load_period_s, PLAN.latency_period_s
SIGNAL_S = 4.0
"""From a second of load to the planner."""
LENGTH_S = 9_000


def loads(ttl_s: float, gain: float = 1.0, late_s: float = 0.0, model: bool = True) -> np.ndarray:
    """What is measured of a POP, step by step, after one unit of foreign load came to it.

    `gain` is what moving a unit of demand really moves, `late_s` what publication takes longer
    than is known. Without a model the table answers the measurement itself.
    """
    kernel, steps = Kernel(ttl_s), int(LENGTH_S / LOAD_S)
    ages = LOAD_S * np.arange(steps) - PUBLISHED_MS / 1e3
    smoothed_s = SMOOTHED_MS / 1e3
    shows = gain * (1 - kernel.kept(ages - late_s - SIGNAL_S - smoothed_s))
    thought = 1 - kernel.kept(ages - SIGNAL_S - smoothed_s)
    moved, seen = np.zeros(steps), np.zeros(steps)
    offset, steered = 0.0, 0.0
    share = -np.expm1(-LOAD_S / OFFSET_S)
    for now in range(steps):
        past = moved[: now + 1][::-1]
        seen[now] = 1.0 + past @ shows[: now + 1]
        modelled = float(past @ thought[: now + 1]) if model else 0.0
        offset += share * (seen[now] - modelled - offset)
        if now % int(TABLE_S / LOAD_S) == 0:
            wanted = -offset if model else steered - offset
            moved[now] += wanted - steered
            steered = wanted
    return seen


def comes_to_rest(seen: np.ndarray) -> bool:
    quarter = len(seen) // 4
    early, late = np.abs(seen[quarter : 2 * quarter]).max(), np.abs(seen[-quarter:]).max()
    return bool(late <= max(0.98 * early, 5e-3))


@pytest.mark.parametrize("ttl_s", [20.0, 60.0, 300.0])
def test_twice_the_gain_and_a_minute_of_delay_are_borne(ttl_s: float) -> None:
    assert comes_to_rest(loads(ttl_s))
    assert comes_to_rest(loads(ttl_s, gain=2.0))
    assert comes_to_rest(loads(ttl_s, gain=0.5))
    assert comes_to_rest(loads(ttl_s, late_s=60.0))
    assert comes_to_rest(loads(ttl_s, gain=1.5, late_s=30.0))


def test_three_times_all_delays_do_not_even_overshoot() -> None:
    assert loads(20.0, late_s=2 * (PUBLISHED_MS / 1e3 + SIGNAL_S)).min() > -0.2


def test_without_the_model_the_same_gain_swings() -> None:
    assert not comes_to_rest(loads(300.0, model=False))
