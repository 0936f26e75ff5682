"""Estimates of RTT: per (prefix, POP) a level, its uncertainty, its age and the loss.

The unit of observation is the median of one window, so a source that sends more samples does not
weigh more. Three rules make the level robust and yet quick:

- A median near the level moves it as an exponentially decayed mean.
- A median far from it is only suspected. When the next window confirms the suspicion, the level
  jumps, by the smaller of the two changes. So one wild window moves nothing, and a real change is
  followed in two. A fall to no less than half of the lowest level so far is such a change, as when
  a detour ends. Better news is believed slowly, by a fifth with each confirmation, for a path that
  seems to become wonderful attracts everybody; and that lowest level sinks slowly too, so that a
  lie in small steps gains nothing.
- A lost probe is a censored observation: it took longer than was waited. Where most POPs lose
  the probes to a prefix at once, the target is silent and says nothing about any of them.

Unknown is NaN, never zero. Purely functional towards time: `now_ms` is an argument everywhere.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.market import crew
from aggregator.merge import RttWindow
from popsteer.clock import SECOND_MS
from popsteer.kernel import kernel

OUTLIER_SIGMAS = 4.0
OUTLIER_SHARE = 0.15
OUTLIER_FLOOR_US = 1_500.0
"""A median farther from the level than the largest of these three is suspected."""
PRIOR_DEVIATION_SHARE = 0.05
PRIOR_DEVIATION_US = 300.0
PRIOR_WINDOWS = 2.0
"""Until windows say otherwise, the deviation is taken to be this, with the weight of these."""
SIGMA_OF_MEAN_DEVIATION = 1.2533
"""sqrt(pi / 2): standard deviation over mean absolute deviation of a normal distribution."""
NINE_IN_TEN_SIGMAS = 1.645
BUCKET_SHARE = 0.01
"""Relative error of the histograms."""
FALL_SHARE_BELIEVED = 0.5
"""A confirmed fall to this share of the lowest level so far is believed at once."""
FALL_SHARE = 0.8
"""One beyond that ends at this share of the level, or of the lowest one so far."""
FLOOR_SHARE = 0.9
"""The lowest level so far sinks to this share of itself in a window, at the most."""
SILENT_SHARE = 0.8
"""When this share of the pairs of a prefix lost their median, its target is silent."""

F32 = NDArray[np.float32]
"""What is kept of millions of pairs: an RTT is never known to a ten-millionth of itself."""
Columns = NDArray[Any]
"""float32, or float64 where a few were worked out by other means."""
F64 = NDArray[np.float64]


@dataclass(slots=True)
class _Columns:
    """n pairs sorted by key; weights are as of `last_ms` of their pair."""

    key: NDArray[np.int64]
    level_us: F32
    """NaN until a probe was answered."""
    deviation_us: F32
    """Decayed mean distance of window medians from the level."""
    windows: F32
    """Decayed number of windows behind the level."""
    samples: F32
    """Decayed number of probes, answered or lost."""
    lost: F32
    """Decayed number of lost probes."""
    last_ms: NDArray[np.int64]
    """End of the newest window with a sample."""
    answered_ms: NDArray[np.int64]
    """End of the newest window whose median said something of the path."""
    suspect_us: F32
    """A far median that awaits confirmation; NaN is none."""
    suspect_ms: NDArray[np.int64]
    floor_us: F32
    """The lowest level so far, to which it sinks slowly."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is known of n pairs at one time, sorted by key; only pairs with a known RTT."""

    key: NDArray[np.int64]
    rtt_us: Columns
    spread_us: Columns
    """Half the width of the interval that holds the true RTT nine times in ten."""
    samples: Columns
    age_s: Columns
    loss: Columns

    def __len__(self) -> int:
        return len(self.key)


class Estimator:
    """Owns the pairs. Not safe for several threads."""

    def __init__(self, half_life_s: float, age_s_max: float) -> None:
        self._half_life_ms = half_life_s * SECOND_MS
        self._age_ms_max = age_s_max * SECOND_MS
        self._pairs = _empty(np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self._pairs.key)

    def observe(self, window: RttWindow, pops: int) -> None:
        """Learn from one window. Windows may come late and in any order."""
        at = self._places(window.key)
        pairs = self._pairs
        last_ms = pairs.last_ms[at]
        # Late windows count for as little as if they had come in time and aged since.
        faded = self._decay(np.maximum(window.end_ms - last_ms, 0))
        behind_ms = np.maximum(last_ms - window.end_ms, 0)
        weight = self._decay(np.where(pairs.samples[at] > 0, behind_ms, 0))
        telling = _telling(window, pops) & (weight > 0.5)
        seen = (window.median_us, window.wait_us, window.answered, window.lost)
        times = (pairs.last_ms, pairs.answered_ms, pairs.suspect_ms)
        levels = (pairs.level_us, pairs.deviation_us, pairs.suspect_us, pairs.floor_us)
        counts = (pairs.windows, pairs.samples, pairs.lost)
        _learn(at, window.end_ms, seen, faded, weight, telling, levels, counts, times)

    def at(self, now_ms: int) -> Estimates:
        """All pairs whose RTT is known and not too old."""
        pairs = self._pairs
        fresh = np.isfinite(pairs.level_us) & (now_ms - pairs.answered_ms <= self._age_ms_max)
        # Mostly all are; then the columns need not be gathered.
        here = slice(None) if fresh.all() else np.flatnonzero(fresh)
        level = pairs.level_us[here].copy()
        given = (level, pairs.deviation_us[here], pairs.windows[here], pairs.samples[here])
        lost, last_ms, answered_ms = pairs.lost[here], pairs.last_ms[here], pairs.answered_ms[here]
        told = np.empty((4, len(level)), np.float32)

        def tell(first: int, last: int) -> None:
            half_life_ms = self._half_life_ms
            _tell(given, lost, last_ms, answered_ms, now_ms, half_life_ms, told, first, last)

        with crew() as workers:
            workers.each(len(level), tell)
        return Estimates(pairs.key[here], level, *told)

    def forget(self, now_ms: int) -> None:
        """Drop pairs that are too old to be known, so that memory stays bounded."""
        old = now_ms - self._pairs.last_ms > self._age_ms_max
        if 4 * int(old.sum()) > len(old):
            columns = (getattr(self._pairs, f.name)[~old] for f in fields(_Columns))
            self._pairs = _Columns(*columns)

    def _places(self, key: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where each key stands, after adding the new ones. `key` is sorted and unique."""
        old = self._pairs.key
        at = np.searchsorted(old, key)
        known = at < len(old)
        known[known] = old[at[known]] == key[known]
        if known.all():
            return at
        # Both are sorted, so a key stands as far along as there are keys before it in either.
        missing = ~known
        before: NDArray[np.int64] = np.cumsum(missing) - missing
        at += before
        into = np.ones(len(old) + int(missing.sum()), bool)
        into[at[missing]] = False
        grown = _empty(np.empty(len(into), np.int64))
        for field in fields(_Columns):
            getattr(grown, field.name)[into] = getattr(self._pairs, field.name)
        grown.key[at[missing]] = key[missing]
        self._pairs = grown
        return at

    def _decay(self, ms: NDArray[np.int64]) -> F64:
        faded: F64 = ms / -self._half_life_ms
        return np.exp2(faded, out=faded)


@kernel
def _learn(
    at: NDArray[np.int64],
    end_ms: int,
    window: tuple[F64, F64, F64, F64],
    faded: F64,
    weight: F64,
    telling: NDArray[np.bool_],
    levels: tuple[F32, F32, F32, F32],
    counts: tuple[F32, F32, F32],
    times: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
) -> None:
    """One window's pairs, by the rules at the top; `at` says where each stands, no two alike."""
    medians, waits, answered, lost = window
    level_us, deviation_us, suspect_us, _ = levels
    windows, samples, lost_before = counts
    last_ms, answered_ms, suspect_ms = times
    far_sigmas = np.float32(OUTLIER_SIGMAS * SIGMA_OF_MEAN_DEVIATION)
    for i in range(len(at)):
        pair = at[i]
        windows[pair] = windows[pair] * faded[i]
        samples[pair] = samples[pair] * faded[i] + weight[i] * (answered[i] + lost[i])
        lost_before[pair] = lost_before[pair] * faded[i] + weight[i] * lost[i]
        last_ms[pair] = max(last_ms[pair], end_ms)
        level, suspect = level_us[pair], suspect_us[pair]
        if not telling[i] or (np.isnan(level) and not np.isfinite(medians[i])):
            continue
        answered_ms[pair] = max(answered_ms[pair], end_ms)
        if np.isnan(level):
            _begin(pair, medians[i], levels, windows)
            continue
        seen = medians[i]
        if not np.isfinite(seen):
            # It took at least what was waited, and is never below what is known.
            seen = max(waits[i], np.float64(level)) if waits[i] == waits[i] else np.float64(level)
        bound = max(far_sigmas * deviation_us[pair], np.float32(OUTLIER_SHARE) * level)
        if not abs(seen - level) > max(bound, np.float32(OUTLIER_FLOOR_US)):
            _blend(pair, seen, levels, windows)
            continue
        # A second partial of the very window that raised the suspicion confirms nothing.
        if end_ms <= suspect_ms[pair]:
            continue
        if np.isfinite(suspect) and np.sign(seen - level) == np.sign(suspect - level):
            _jump(pair, seen, levels, windows)
            continue
        suspect_us[pair] = seen
        suspect_ms[pair] = end_ms


@kernel
def _begin(pair: int, seen_us: float, levels: tuple[F32, F32, F32, F32], windows: F32) -> None:
    level, deviation, _, floor = levels
    level[pair] = floor[pair] = seen_us
    deviation[pair] = PRIOR_DEVIATION_SHARE * seen_us + PRIOR_DEVIATION_US
    windows[pair] = 1.0


@kernel
def _blend(pair: int, seen_us: float, levels: tuple[F32, F32, F32, F32], windows: F32) -> None:
    level, deviation, suspect, _ = levels
    one, weight = np.float32(1), windows[pair]
    distance = abs(seen_us - level[pair])
    level[pair] = (weight * level[pair] + seen_us) / (weight + one)
    known = weight + np.float32(PRIOR_WINDOWS)
    deviation[pair] = (known * deviation[pair] + distance) / (known + one)
    windows[pair] = weight + one
    suspect[pair] = np.nan
    _sink(pair, levels)


@kernel
def _sink(pair: int, levels: tuple[F32, F32, F32, F32]) -> None:
    level, _, _, floor = levels
    low = max(level[pair], np.float32(FLOOR_SHARE) * floor[pair])
    floor[pair] = min(floor[pair], low)


@kernel
def _jump(pair: int, seen_us: float, levels: tuple[F32, F32, F32, F32], windows: F32) -> None:
    level, deviation, suspect, floor = levels
    suspected, before, lowest = suspect[pair], level[pair], floor[pair]
    nearer = float(suspected)
    if abs(seen_us - before) < abs(suspected - before):
        nearer = seen_us
    if nearer < np.float32(FALL_SHARE_BELIEVED) * lowest:
        nearer = max(nearer, float(np.float32(FALL_SHARE) * min(before, lowest)))
    level[pair] = nearer
    _sink(pair, levels)
    prior = PRIOR_DEVIATION_SHARE * nearer + PRIOR_DEVIATION_US
    deviation[pair] = max(prior, abs(seen_us - suspected) / 2)
    windows[pair] = 2.0
    suspect[pair] = np.nan


@kernel
def _tell(
    given: tuple[F32, F32, F32, F32],
    lost: F32,
    last_ms: NDArray[np.int64],
    answered_ms: NDArray[np.int64],
    now_ms: int,
    half_life_ms: float,
    told: F32,
    first: int,
    last: int,
) -> None:
    """Spread, samples, age in seconds and loss of pairs, as of now."""
    level, deviation, windows, samples = given
    sigmas = NINE_IN_TEN_SIGMAS * SIGMA_OF_MEAN_DEVIATION
    for i in range(first, last):
        faded = 2.0 ** (-max(now_ms - last_ms[i], 0) / half_life_ms)
        spread = sigmas * deviation[i] / np.sqrt(max(windows[i] * faded, 1e-6))
        told[0, i] = min(spread, level[i]) + BUCKET_SHARE * level[i]
        told[1, i] = samples[i] * faded
        told[2, i] = max(now_ms - answered_ms[i], 0) / SECOND_MS
        told[3, i] = lost[i] / samples[i] if samples[i] > 0 else 0.0


def _telling(window: RttWindow, pops: int) -> NDArray[np.bool_]:
    """Pairs whose median says something of the path: not those of a silent target."""
    prefix = window.key // pops
    start = np.append(True, prefix[1:] != prefix[:-1]) if len(prefix) else prefix.astype(bool)
    group = np.cumsum(start) - 1
    lost = np.isnan(window.median_us)
    size, gone = np.bincount(group), np.bincount(group, lost)
    silent = (gone >= SILENT_SHARE * size) & (size >= 2)
    told: NDArray[np.bool_] = ~(lost & silent[group]) if len(group) else lost
    return told


def _empty(key: NDArray[np.int64]) -> _Columns:
    n = len(key)
    unknown, zero = np.full(n, np.nan, np.float32), np.zeros(n, np.float32)
    never = np.zeros(n, np.int64)
    return _Columns(
        key=key,
        level_us=unknown,
        deviation_us=zero,
        windows=zero.copy(),
        samples=zero.copy(),
        lost=zero.copy(),
        last_ms=never,
        answered_ms=never.copy(),
        suspect_us=unknown.copy(),
        suspect_ms=never.copy(),
        floor_us=unknown.copy(),
    )
