"""The newest signal of every POP and link, smoothed where it is a rate.

Owns what was said; what follows from it is for `aggregator.load` (capacity) and
`aggregator.control` (up, shed).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.partials import SignalPartial
from popsteer.clock import SECOND_MS
from popsteer.names import pop_of
from popsteer.samples import Signal

SMOOTHING_S = 4.0
"""Time constant of the smoothed rates: a few samples, well below the load loop's period."""
NEVER = 0
"""Time of what was never said."""
LISTS_MAX = 16
"""Lists of subjects whose places are remembered: the same ones come again and again."""
_KINDS = max(Signal) + 1
_GAUGE = np.isin(np.arange(_KINDS), [Signal.UP, Signal.CAPACITY_BPS])

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Readings:
    """One signal of n subjects."""

    value: F64
    """[n], smoothed when it is a rate; NaN where there never was one."""
    last_ms: Ints
    """[n], when it was measured; `NEVER` where there never was one."""


class Signals:
    """Owns the newest reading of each (subject, signal)."""

    def __init__(self) -> None:
        self._place: dict[str, int] = {}
        self._places: dict[tuple[str, ...], Ints] = {}
        """Of lists of subjects that came before."""
        self._pop: Ints = np.zeros(0, np.int64)
        """The place of the POP of the subject at each place."""
        self._value: F64 = np.zeros((0, _KINDS))
        self._last_ms: Ints = np.zeros((0, _KINDS), np.int64)
        self._heard_ms: Ints = np.zeros(0, np.int64)
        """At a POP's place, the newest signal of it and its links."""
        self.newest_ms = 0
        """Of any signal: what silence of one POP is measured against."""

    def observe(self, partials: Iterable[SignalPartial]) -> None:
        """Learn; samples older than what is known change nothing."""
        for partial in partials:
            place = self._places_of(partial.subjects)[partial.subject]
            # A clock that runs ahead must not make all others look silent.
            arrived_ms = partial.origin.window_start_ms + partial.origin.window_ms
            at_ms = np.minimum(partial.last_ms, arrived_ms)
            known = partial.signal < _KINDS
            kind = np.where(known, partial.signal, 0).astype(np.int64)
            mean = partial.sum / np.maximum(partial.count, 1)
            value = np.where(_GAUGE[kind], partial.last, mean)
            cell = place * _KINDS + kind
            left = np.argsort(partial.last_ms, kind="stable")
            left = left[known[left]]
            # What says one thing several times is taken in turn, the oldest first.
            while len(left):
                _, first = np.unique(cell[left], return_index=True)
                now = left[first]
                self._take(cell[now], value[now], at_ms[now])
                left = np.delete(left, first)

    def _take(self, cell: Ints, value: F64, at_ms: Ints) -> None:
        """Each cell once."""
        last_ms, old = self._last_ms.ravel(), self._value.ravel()
        newer = at_ms > last_ms[cell]
        cell, value, at_ms = cell[newer], value[newer], at_ms[newer]
        if not len(cell):
            return
        kept = np.exp(-(at_ms - last_ms[cell]) / (SMOOTHING_S * SECOND_MS))
        smoothed = kept * old[cell] + (1 - kept) * value
        first = _GAUGE[cell % _KINDS] | (last_ms[cell] == NEVER)
        old[cell] = np.where(first, value, smoothed)
        last_ms[cell] = at_ms
        np.maximum.at(self._heard_ms, self._pop[cell // _KINDS], at_ms)
        self.newest_ms = max(self.newest_ms, int(at_ms.max()))

    def of(self, subjects: Sequence[str], signal: Signal) -> Readings:
        """The newest readings of subjects."""
        place = self._places_of(tuple(subjects))
        last_ms = self._last_ms[place, signal]
        return Readings(np.where(last_ms == NEVER, np.nan, self._value[place, signal]), last_ms)

    def value(self, subject: str, signal: Signal) -> float:
        """The newest value; NaN when there never was one."""
        place = self._place.get(subject)
        if place is None or self._last_ms[place, signal] == NEVER:
            return float("nan")
        return float(self._value[place, signal])

    def pop_ms(self, pop: str) -> int:
        """When the newest signal of a POP was measured; 0 is never."""
        place = self._place.get(pop)
        return 0 if place is None else int(self._heard_ms[place])

    def heard_ms(self, pops: Sequence[str]) -> Ints:
        """[n], `pop_ms` of POPs."""
        place = self._places_of(tuple(pops))
        return self._heard_ms[place]

    def _places_of(self, subjects: tuple[str, ...]) -> Ints:
        known = self._places.get(subjects)
        if known is None:
            if len(self._places) >= LISTS_MAX:
                self._places.clear()
            known = self._places[subjects] = self._new_places(subjects)
        return known

    def _new_places(self, subjects: tuple[str, ...]) -> Ints:
        for subject in subjects:
            self._place.setdefault(pop_of(subject), len(self._place))
            self._place.setdefault(subject, len(self._place))
        more = len(self._place) - len(self._pop)
        if more:
            added = list(self._place)[len(self._pop) :]
            pop = np.array([self._place[pop_of(subject)] for subject in added], np.int64)
            self._pop = np.concatenate([self._pop, pop])
            self._value = np.concatenate([self._value, np.zeros((more, _KINDS))])
            self._last_ms = np.concatenate([self._last_ms, np.zeros((more, _KINDS), np.int64)])
            self._heard_ms = np.concatenate([self._heard_ms, np.zeros(more, np.int64)])
        return np.array([self._place[subject] for subject in subjects], np.int64)
