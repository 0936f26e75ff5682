"""RTTs of pairs that nobody measured, from what is like them, each with an honest uncertainty.

Where a prefix lies in a wider prefix it borrows that one's RTTs. A prefix with too few known POPs
even so borrows the median of its network (autonomous system), and last it is placed on the map:
RTT as a line over the distance, fitted to what was measured. Every step knows less than the one
before, and its spread says so; the source of each number goes with it. A pair that no step can
tell stays unknown.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from aggregator.estimate import NINE_IN_TEN_SIGMAS, Estimates
from aggregator.prefixes import UNKNOWN, Prefixes, Rows
from popsteer.evidence import Source
from popsteer.geo import FIBRE_KM_PER_RTT_MS, arc_km, distance_km

ENOUGH = 3
"""A prefix with so many known POPs needs no network and no map."""
ADDED_MAX = 8
"""POPs that a network or the map adds to a prefix, the fastest."""
WIDER_SPREAD = 0.5
"""An RTT taken from a wider prefix is doubted by this share of itself on top."""
NETWORK_SPREAD = 0.5
"""And one of a network by at least this share; its prefixes may differ more."""
PLACE_SPREAD = 0.7
FITTED_MAX = 50_000
"""Measured pairs to which the map's line is fitted, evenly taken."""
FITTED_MIN = 30
US_PER_KM_MIN = 1e3 / FIBRE_KM_PER_RTT_MS
"""Nothing is faster than light in fibre."""
ROWS_AT_ONCE = 20_000
"""Rows that are placed on the map together, so that memory stays bounded."""

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where prefixes and POPs are."""

    place: F64 | None = None
    """[prefixes, 2], latitude and longitude; NaN is unknown."""
    network: Ints | None = None
    """[prefixes], number of the autonomous system; UNKNOWN where it is."""
    pop_place: F64 | None = None
    """[pops, 2]"""


@dataclass(frozen=True, slots=True)
class Known:
    """Estimates of pairs, sorted by key, and the `Source` of each."""

    estimates: Estimates
    source: NDArray[np.uint8]

    def of_pops(self, wanted: NDArray[np.bool_]) -> "Known":
        """What is known of some POPs [p]."""
        kept = wanted[self.estimates.key % len(wanted)]
        columns = (getattr(self.estimates, field.name)[kept] for field in fields(Estimates))
        return Known(Estimates(*columns), self.source[kept])


def inferred(estimates: Estimates, prefixes: Prefixes, pops: int, around: Surroundings) -> Known:
    """The estimates, with those that can be inferred where a prefix has none of its own."""
    known = Known(estimates, np.full(len(estimates), Source.MEASURED, np.uint8))
    known = _joined(known, _of_wider(estimates, prefixes, pops), Source.WIDER)
    if around.network is not None:
        few = _few(known, prefixes, pops)
        known = _joined(known, _of_network(estimates, around.network, few, pops), Source.NETWORK)
    if around.place is not None and around.pop_place is not None:
        few = _few(known, prefixes, pops)
        known = _joined(known, _of_place(estimates, around, few, pops), Source.PLACE)
    return known


def _few(known: Known, prefixes: Prefixes, pops: int) -> Rows:
    """The prefixes with fewer known POPs than are enough."""
    count = np.bincount(known.estimates.key // pops, minlength=len(prefixes))
    few: Rows = np.flatnonzero(count < min(ENOUGH, pops))
    return few


def _guess(key: Ints, rtt_us: F64, spread_us: F64, age_s: F64, loss: F64) -> Estimates:
    return Estimates(key, rtt_us, spread_us, np.zeros(len(key)), age_s, loss)


def _joined(known: Known, guess: Estimates, source: Source) -> Known:
    """With the guesses for pairs that are not known yet."""
    own = known.estimates
    if not len(guess):
        return known
    at = np.searchsorted(own.key, guess.key)
    taken = at < len(own)
    taken[taken] = own.key[at[taken]] == guess.key[taken]
    new = ~taken
    order = np.argsort(np.concatenate([own.key, guess.key[new]]), kind="stable")

    def column(name: str) -> NDArray[np.float32]:
        both = np.concatenate([getattr(own, name), getattr(guess, name)[new]])
        joined: NDArray[np.float32] = both.astype(np.float32)[order]
        return joined

    key = np.concatenate([own.key, guess.key[new]])[order]
    columns = (column(name) for name in ("rtt_us", "spread_us", "samples", "age_s", "loss"))
    sources = np.concatenate([known.source, np.full(int(new.sum()), source, np.uint8)])
    return Known(Estimates(key, *columns), sources[order])


def _of_wider(estimates: Estimates, prefixes: Prefixes, pops: int) -> Estimates:
    """For prefixes inside a measured one."""
    parent = prefixes.covering()
    children = np.flatnonzero(parent != UNKNOWN)
    parents = parent[children]
    first = np.searchsorted(estimates.key, parents * pops)
    count = np.searchsorted(estimates.key, (parents + 1) * pops) - first
    source = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    key = np.repeat(children, count) * pops + estimates.key[source] % pops
    rtt = estimates.rtt_us[source]
    spread = estimates.spread_us[source] + WIDER_SPREAD * rtt
    return _guess(key, rtt, spread, estimates.age_s[source], estimates.loss[source])


def _of_network(estimates: Estimates, network: Ints, few: Rows, pops: int) -> Estimates:
    """For prefixes of a network: the median over its measured prefixes, POP by POP."""
    few = few[network[few] != UNKNOWN]
    wanted = np.unique(network[few])
    row, pop = np.divmod(estimates.key, pops)
    number = np.searchsorted(wanted, network[row])
    here = number < len(wanted)
    here[here] = wanted[number[here]] == network[row[here]]
    group = number[here] * pops + pop[here]
    rtt, age = estimates.rtt_us[here], estimates.age_s[here]
    order = np.lexsort((rtt, group))
    pair, first, count = np.unique(group[order], return_index=True, return_counts=True)
    median = rtt[order][first + (count - 1) // 2]
    place = np.searchsorted(pair, group)
    apart = np.bincount(place, np.abs(rtt - median[place]), len(pair)) / np.maximum(count, 1)
    spread = 2 * NINE_IN_TEN_SIGMAS * apart + NETWORK_SPREAD * median
    age_s = np.bincount(place, age, len(pair)) / np.maximum(count, 1)
    # Each prefix takes its network's pairs, the fastest alone.
    by_rtt = np.lexsort((median, pair // pops))
    rank = np.arange(len(pair)) - np.searchsorted(pair // pops, pair // pops)
    kept = np.sort(by_rtt[rank < ADDED_MAX])
    mine = np.searchsorted(wanted, network[few])
    start = np.searchsorted(pair[kept] // pops, mine)
    each = np.searchsorted(pair[kept] // pops, mine, side="right") - start
    source = kept[np.repeat(start - (np.cumsum(each) - each), each) + np.arange(each.sum())]
    key = np.repeat(few, each) * pops + pair[source] % pops
    zero = np.zeros(len(key))
    return _guess(key, median[source], spread[source], age_s[source], zero)


def _of_place(estimates: Estimates, around: Surroundings, few: Rows, pops: int) -> Estimates:
    """For prefixes on the map: their nearest POPs, by a line over the distance."""
    assert around.place is not None
    assert around.pop_place is not None
    few = few[np.isfinite(around.place[few]).all(axis=1)]
    located = np.flatnonzero(np.isfinite(around.pop_place).all(axis=1))
    keys, rtts = [np.zeros(0, np.int64)], [np.zeros(0)]
    some = len(few) and len(located)
    fitted = _line(estimates, around.place, around.pop_place, pops) if some else None
    if fitted is None:
        return _guess(keys[0], rtts[0], rtts[0], rtts[0], rtts[0])
    base_us, us_per_km, error_us = fitted
    near = min(ADDED_MAX, len(located))
    for begin in range(0, len(few), ROWS_AT_ONCE):
        rows = few[begin : begin + ROWS_AT_ONCE]
        km = distance_km(*around.place[rows].T, *around.pop_place[located].T)
        nearest = np.sort(np.argsort(km, axis=1, kind="stable")[:, :near], axis=1)
        keys.append((rows[:, None] * pops + located[nearest]).ravel())
        rtts.append(base_us + us_per_km * np.take_along_axis(km, nearest, 1).ravel())
    key, rtt = np.concatenate(keys), np.concatenate(rtts)
    spread = np.maximum(PLACE_SPREAD * rtt, error_us)
    return _guess(key, rtt, spread, np.full(len(key), np.nan), np.zeros(len(key)))


def _line(
    estimates: Estimates, place: F64, pop_place: F64, pops: int
) -> tuple[float, float, float] | None:
    """RTT at no distance and per km, and what nine in ten measured pairs stay within."""
    taken = slice(None, None, max(1, len(estimates) // FITTED_MAX))
    row, pop = np.divmod(estimates.key[taken], pops)
    km = arc_km(*place[row].T, *pop_place[pop].T)
    known = np.isfinite(km)
    if known.sum() < FITTED_MIN:
        return None
    km, rtt = km[known], estimates.rtt_us[taken][known]
    # Medians over the halves by distance: one poisoned pair in three bends no line.
    order = np.argsort(km, kind="stable")
    near, far = np.array_split(order, 2)
    apart_km = float(np.median(km[far]) - np.median(km[near]))
    risen_us = float(np.median(rtt[far]) - np.median(rtt[near]))
    us_per_km = max(risen_us / apart_km if apart_km > 0 else 0.0, US_PER_KM_MIN)
    base_us = max(float(np.median(rtt - us_per_km * km)), 0.0)
    error_us = float(np.quantile(np.abs(rtt - base_us - us_per_km * km), 0.9))
    return base_us, us_per_km, error_us
