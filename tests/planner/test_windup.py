"""The observer's offset is bounded, whatever is measured, and kept where nothing is."""

import numpy as np
import pytest

from aggregator.control import OFFSET_MAX, OFFSET_MIN, LoadLoop
from aggregator.fleet import Fleet
from aggregator.flight import InFlight
from aggregator.load import Load
from benchmarks.scene import T0_MS

CAPACITY = np.full(2, 100.0)
FLEET = Fleet(("a", "b"), CAPACITY, ({}, {}), np.ones(2, bool), 20.0)
WANTED = np.array([50.0, 50.0])


def after(loop: LoadLoop, load_bps: list[float], seconds: int, since_s: int = 0) -> int:
    """Step every five seconds on one measured load; gives when it ended."""
    load = Load(np.array(load_bps), CAPACITY, CAPACITY, ("", ""))
    for second in range(since_s, since_s + seconds, 5):
        now_ms = T0_MS + second * 1_000
        loop.step(load, InFlight(now_ms, WANTED, trust=1.0), WANTED, now_ms)
    return since_s + seconds


@pytest.mark.parametrize(("load_bps", "bound"), [(5_000.0, OFFSET_MAX), (0.0, OFFSET_MIN)])
def test_an_hour_of_nonsense_winds_nothing_up(load_bps: float, bound: float) -> None:
    loop = LoadLoop(FLEET, 0.82)

    end_s = after(loop, [load_bps, 50.0], 3_600)

    assert loop.offset_bps[0] == pytest.approx(bound * 100)
    after(loop, [50.0, 50.0], 180, end_s)
    assert abs(loop.offset_bps[0]) < 5


def test_a_pop_that_falls_silent_keeps_its_foreign_load() -> None:
    """The monitor's gap is not the POP's: what it cannot steer is still there."""
    loop = LoadLoop(FLEET, 0.82)
    end_s = after(loop, [80.0, 50.0], 300)
    assert loop.offset_bps[0] == pytest.approx(30.0, abs=1)

    after(loop, [np.nan, 50.0], 120, end_s)

    assert loop.offset_bps[0] == pytest.approx(30.0, abs=1)
    assert loop.plan_capacity_bps(CAPACITY, np.zeros(2))[0] == pytest.approx(52.0, abs=1)
