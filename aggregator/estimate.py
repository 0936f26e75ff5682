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
        # Late windows count for as little as if they had come in time and aged since.
        ahead_ms = np.maximum(window.end_ms - pairs.last_ms[at], 0)
        behind_ms = np.maximum(pairs.last_ms[at] - window.end_ms, 0)
        faded = self._decay(ahead_ms)
        weight = self._decay(np.where(pairs.samples[at] > 0, behind_ms, 0))
        pairs.windows[at] *= faded
        pairs.samples[at] = pairs.samples[at] * faded + weight * (window.answered + window.lost)
        pairs.lost[at] = pairs.lost[at] * faded + weight * window.lost
        pairs.last_ms[at] = np.maximum(pairs.last_ms[at], window.end_ms)
        telling = _telling(window, pops) & (weight > 0.5)
        self._learn(at[telling], _seen_us(window, pairs.level_us[at])[telling], window, telling)

    def _learn(
        self, at: NDArray[np.int64], seen_us: F64, window: RttWindow, telling: NDArray[np.bool_]
    ) -> None:
        pairs = self._pairs
        level = pairs.level_us[at]
        answered = np.isfinite(window.median_us[telling])
        first = np.isnan(level) & answered
        far = np.abs(seen_us - level) > outlier_us(level, pairs.deviation_us[at])
        suspect = pairs.suspect_us[at]
        newer = window.end_ms > pairs.suspect_ms[at]
        agrees = np.sign(seen_us - level) == np.sign(suspect - level)
        confirmed = far & np.isfinite(suspect) & agrees & newer
        pairs.answered_ms[at[~np.isnan(level) | first]] = np.maximum(
            pairs.answered_ms[at[~np.isnan(level) | first]], window.end_ms
        )
        self._begin(at[first], seen_us[first])
        self._blend(at[~far & ~np.isnan(level)], seen_us[~far & ~np.isnan(level)])
        self._jump(at[confirmed], seen_us[confirmed], suspect[confirmed])
        # A second partial of the very window that raised the suspicion confirms nothing.
        suspected = far & ~confirmed & newer
        pairs.suspect_us[at[suspected]] = seen_us[suspected]
        pairs.suspect_ms[at[suspected]] = window.end_ms

    def _begin(self, at: NDArray[np.int64], seen_us: F64) -> None:
        pairs = self._pairs
        pairs.level_us[at] = pairs.floor_us[at] = seen_us
        pairs.deviation_us[at] = PRIOR_DEVIATION_SHARE * seen_us + PRIOR_DEVIATION_US
        pairs.windows[at] = 1.0

    def _blend(self, at: NDArray[np.int64], seen_us: F64) -> None:
        pairs = self._pairs
        level, windows = pairs.level_us[at], pairs.windows[at]
        distance = np.abs(seen_us - level)
        pairs.level_us[at] = (windows * level + seen_us) / (windows + 1)
        known = windows + PRIOR_WINDOWS
        pairs.deviation_us[at] = (known * pairs.deviation_us[at] + distance) / (known + 1)
        pairs.windows[at] = windows + 1
        pairs.suspect_us[at] = np.nan
        self._sink(at)

    def _sink(self, at: NDArray[np.int64]) -> None:
        floor = self._pairs.floor_us[at]
        low = np.maximum(self._pairs.level_us[at], FLOOR_SHARE * floor)
        self._pairs.floor_us[at] = np.minimum(floor, low)

    def _jump(self, at: NDArray[np.int64], seen_us: F64, suspect_us: F64) -> None:
        pairs = self._pairs
        level = pairs.level_us[at]
        nearer = np.where(np.abs(seen_us - level) < np.abs(suspect_us - level), seen_us, suspect_us)
        floor = pairs.floor_us[at]
        wonder = nearer < FALL_SHARE_BELIEVED * floor
        slow = np.maximum(nearer, FALL_SHARE * np.minimum(level, floor))
        nearer = np.where(wonder, slow, nearer)
        pairs.level_us[at] = nearer
        self._sink(at)
        prior = PRIOR_DEVIATION_SHARE * nearer + PRIOR_DEVIATION_US
        pairs.deviation_us[at] = np.maximum(prior, np.abs(seen_us - suspect_us) / 2)
        pairs.windows[at] = 2.0
        pairs.suspect_us[at] = np.nan

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


def outlier_us(level_us: Columns, deviation_us: Columns) -> F64:
    """How far from the level a median is suspected."""
    sigmas = OUTLIER_SIGMAS * SIGMA_OF_MEAN_DEVIATION * deviation_us
    bound: F64 = np.maximum(np.maximum(sigmas, OUTLIER_SHARE * level_us), OUTLIER_FLOOR_US)
    return bound


def _seen_us(window: RttWindow, level_us: Columns) -> F64:
    """The medians; a lost one is at least what was waited and never below what is known."""
    seen: F64 = np.where(
        np.isfinite(window.median_us), window.median_us, np.fmax(window.wait_us, level_us)
    )
    return seen


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
