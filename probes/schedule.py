"""When which target is measured: every one once a round, evenly spread, never in a burst.

Pure: time (monotonic seconds) and randomness come in. A round has one slot for each target, at
equal distances, so the rate is constant and below the bound. Each target keeps its own phase and
strays from it by a twentieth of a round at the most, so that agents and targets never fall into
step with each other or with anything periodic on the path.
"""

import math

import numpy as np
from numpy.typing import NDArray

STRAY = 0.05
"""Largest deviation from a target's phase, as a share of the round."""
LATE_S_MAX = 0.1
"""After a longer pause the schedule moves instead of catching up by a burst."""


class Schedule:
    """Rounds over `count` targets."""

    def __init__(
        self,
        count: int,
        interval_s: float,
        rate_max_per_s: float,
        start_s: float,
        rng: np.random.Generator,
    ) -> None:
        self._count = count
        self._rng = rng
        self._wanted_s = interval_s
        self.interval_s = interval_s
        """Length of a round; longer than wanted where the rate would be too high."""
        self._phase = rng.permutation(count) / max(count, 1)
        self._start_s = start_s
        self._sent = 0
        self.bound(rate_max_per_s)
        self._order = self._shuffled()

    def bound(self, rate_max_per_s: float) -> None:
        """Keep to another rate from the next target on."""
        before_s = self.next_s()
        self.interval_s = max(self._wanted_s, self._count / rate_max_per_s)
        if self._count:
            self._start_s = before_s - self._sent * self._spacing_s()

    def _shuffled(self) -> NDArray[np.int64]:
        strayed = self._phase + self._rng.uniform(-STRAY, STRAY, self._count)
        return np.argsort(strayed, kind="stable")

    def next_s(self) -> float:
        """When the next target is due; infinity without targets."""
        return self._start_s + self._sent * self._spacing_s() if self._count else math.inf

    def _spacing_s(self) -> float:
        return self.interval_s / self._count

    def due(self, now_s: float) -> NDArray[np.int64]:
        """Indices of the targets that are due and were not given yet."""
        if now_s < self.next_s():
            return np.empty(0, np.int64)
        late_s = now_s - self.next_s()
        self._start_s += max(0.0, late_s - LATE_S_MAX)
        parts = []
        while now_s >= self.next_s():
            slots = math.floor((now_s - self._start_s) / self._spacing_s()) + 1
            upto = min(self._count, max(slots, self._sent + 1))
            parts.append(self._order[self._sent : upto])
            self._sent = upto
            if upto == self._count:
                self._start_s += self.interval_s
                self._sent = 0
                self._order = self._shuffled()
        return np.concatenate(parts)
