"""The newest signal of every POP and link, smoothed where it is a rate.

Owns what was said; what follows from it (up, shed, capacity) is for `aggregator.control`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from aggregator.partials import SignalPartial
from popsteer.clock import SECOND_MS
from popsteer.names import Subject, pop_of
from popsteer.samples import Signal

SMOOTHING_S = 4.0
"""Time constant of the smoothed rates: a few samples, well below the load loop's period."""
_GAUGES = {Signal.UP, Signal.CAPACITY_BPS}


@dataclass(frozen=True, slots=True)
class Reading:
    """One signal of one subject."""

    value: float
    """Smoothed when it is a rate."""
    last_ms: int


class Signals:
    """Owns the newest reading of each (subject, signal)."""

    def __init__(self) -> None:
        self._readings: dict[tuple[str, int], Reading] = {}
        self._newest_ms: dict[str, int] = {}
        self.newest_ms = 0
        """Of any signal: what silence of one POP is measured against."""

    def observe(self, partials: Iterable[SignalPartial]) -> None:
        """Learn; samples older than what is known change nothing."""
        for partial in partials:
            names = [Subject(name) for name in partial.subjects]
            order = np.argsort(partial.last_ms, kind="stable")
            columns = (partial.subject, partial.signal, partial.last, partial.sum)
            subject, signal, last, total = (column[order].tolist() for column in columns)
            # A clock that runs ahead must not make all others look silent.
            arrived_ms = partial.origin.window_start_ms + partial.origin.window_ms
            last_ms = np.minimum(partial.last_ms[order], arrived_ms).tolist()
            count = partial.count[order].tolist()
            for s, kind, newest, added, n, at_ms in zip(
                subject, signal, last, total, count, last_ms, strict=True
            ):
                value = newest if kind in _GAUGES else added / max(n, 1)
                self._take(names[s], kind, value, at_ms)

    def _take(self, subject: Subject, signal: int, value: float, at_ms: int) -> None:
        old = self._readings.get((subject, signal))
        if old is not None and at_ms <= old.last_ms:
            return
        if old is not None and signal not in _GAUGES:
            kept = np.exp(-(at_ms - old.last_ms) / (SMOOTHING_S * SECOND_MS))
            value = float(kept * old.value + (1 - kept) * value)
        self._readings[subject, signal] = Reading(value, at_ms)
        pop = pop_of(subject)
        self._newest_ms[pop] = max(self._newest_ms.get(pop, 0), at_ms)
        self.newest_ms = max(self.newest_ms, at_ms)

    def of(self, subject: str, signal: Signal) -> Reading | None:
        """The newest reading; None when there never was one."""
        return self._readings.get((subject, int(signal)))

    def value(self, subject: str, signal: Signal) -> float:
        """The newest value; NaN when there never was one."""
        reading = self.of(subject, signal)
        return np.nan if reading is None else reading.value

    def pop_ms(self, pop: str) -> int:
        """When the newest signal of a POP was measured; 0 is never."""
        return self._newest_ms.get(pop, 0)
