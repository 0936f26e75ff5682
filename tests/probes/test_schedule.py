"""The schedule: everyone once a round, evenly, under the bound, and never a burst."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.schedule import LATE_S_MAX, STRAY, Schedule


def walk(schedule: Schedule, times: list[float]) -> list[tuple[float, int]]:
    return [(now, int(i)) for now in times for i in schedule.due(now)]


def make(count: int, interval_s: float = 10.0, rate: float = 1e6, seed: int = 1) -> Schedule:
    return Schedule(count, interval_s, rate, 0.0, np.random.default_rng(seed))


def ticks(upto_s: float, step_s: float = 0.05) -> list[float]:
    return [i * step_s for i in range(int(upto_s / step_s))]


@given(count=st.integers(1, 300), seed=st.integers(0, 2**32))
@settings(max_examples=30)
def test_every_target_once_a_round(count: int, seed: int) -> None:
    sent = walk(make(count, seed=seed), ticks(30.0))
    order = [target for _, target in sent]
    for start in range(0, len(order) - count + 1, count):
        assert sorted(order[start : start + count]) == list(range(count))
    assert len(order) >= 3 * count - math.ceil(count * LATE_S_MAX)


def test_a_target_keeps_its_phase() -> None:
    count = 200
    order = [target for _, target in walk(make(count), ticks(40.0))]
    place = np.array([np.argsort(order[r * count : (r + 1) * count]) for r in range(3)])
    assert np.abs(np.diff(place, axis=0)).max() <= (4 * STRAY) * count
    assert np.abs(np.diff(place, axis=0)).max() > 0


def test_probes_are_spread_evenly() -> None:
    times = np.array([now for now, _ in walk(make(1_000), ticks(10.0))])
    per_second = np.histogram(times, bins=10, range=(0, 10))[0]
    assert per_second.min() >= 90
    assert per_second.max() <= 110


@given(
    count=st.integers(1, 500),
    rate=st.floats(1, 500),
    pauses=st.lists(st.floats(0.001, 5.0), min_size=1, max_size=60),
)
@settings(max_examples=60)
def test_the_rate_is_bounded_whatever_the_pauses(
    count: int, rate: float, pauses: list[float]
) -> None:
    schedule = make(count, interval_s=0.1, rate=rate)
    times = np.cumsum(pauses).tolist()
    sent = [(now, len(schedule.due(now))) for now in times]
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            span_s = sent[last][0] - sent[first][0]
            total = sum(n for _, n in sent[first : last + 1])
            assert total <= rate * (span_s + LATE_S_MAX) + 2


def test_the_round_gets_longer_where_the_rate_would_be_too_high() -> None:
    assert make(1_000, interval_s=1.0, rate=100).interval_s == pytest.approx(10.0)


def test_nothing_is_due_before_its_time_or_without_targets() -> None:
    schedule = make(10)
    assert len(schedule.due(-1.0)) == 0
    assert len(make(0).due(100.0)) == 0
    assert make(0).next_s() == math.inf


def test_next_s_is_when_something_is_due() -> None:
    schedule = make(7)
    rng = Random(3)
    now = 0.0
    for _ in range(50):
        assert len(schedule.due(schedule.next_s() - 1e-6)) == 0
        now = schedule.next_s() + rng.random() * 0.01
        assert len(schedule.due(now)) >= 1
