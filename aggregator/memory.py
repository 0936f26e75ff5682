"""What the guard compares a new table with: the measurements behind the last good one.

A refusal must not last for ever when the world really changed: with every refused table the
reference gives way a little, so a lie must be kept up for minutes while the alarm rings.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.cycle import Outcome
from aggregator.estimate import Estimates
from aggregator.guard import CAPACITY_FACTOR_MAX, COVERAGE_MIN, ONE_POP_MAX, RISK_MAX
from popsteer.kernel import kernel

RELENT_SHARE = 0.1
"""By how much the reference gives way with each refusal."""
RISK_STEP = 0.05
"""By how much more risk is allowed with each refusal."""
COVERAGE_STEP = 0.05
ONE_POP_STEP = 0.02
CAPACITY_STEP = 1.5
"""By which factor a capacity may have fallen more with each refusal."""
FRESH_S = 90.0
"""A POP counts as measured while an estimate of it is younger."""
FRESH_PREFIXES = 0.1
"""Of the prefixes known for the POP, so many must be fresh."""

F64 = NDArray[np.float64]


class Reference:
    """Owns the estimates, capacities and sources behind the last good table."""

    def __init__(self) -> None:
        self._key = np.zeros(0, np.int64)
        self._rtt_us = np.zeros(0)
        self._rated_bps: F64 | None = None
        self.pops = 0.0
        """With measurements."""
        self._begin()

    def _begin(self) -> None:
        self.risk_allowed = RISK_MAX
        """How much worse N+1 may be by a new table, as a share of demand."""
        self.coverage_min = COVERAGE_MIN
        self.one_pop_max = ONE_POP_MAX
        self.capacity_fall_max = CAPACITY_FACTOR_MAX

    @property
    def empty(self) -> bool:
        """Whether nothing is known of the estimates behind the table in force."""
        return not len(self._key)

    def resume(self, key: NDArray[np.int64], rtt_us: F64, pops: int) -> None:
        """Take over what the table in force says that it rests on: pairs and their RTTs."""
        order = np.argsort(key)
        self._key, self._rtt_us = key[order], rtt_us[order]
        self.pops = float(len(np.unique(key % pops)))

    def capacity(self, rated_bps: F64) -> None:
        """Take capacities over from the last planner; NaN is unknown."""
        self._rated_bps = rated_bps

    def accept(self, estimates: Estimates, rated_bps: F64, pops: int) -> None:
        """A table on these was published.

        What was known gives way to a fall only slowly, or a patient lie would pass; and to a rise,
        or the end of a minute of lost probes would look like a lie.
        """
        known_us = self._at(estimates.key)
        near_us = np.fmin(estimates.rtt_us, (1 + RELENT_SHARE) * known_us)
        near_us = np.fmax(near_us, (1 - RELENT_SHARE) * known_us)
        self._key, self._rtt_us = estimates.key, near_us
        self._rated_bps = rated_bps
        self.pops = float(self.fresh_pops(estimates, pops))
        self._begin()

    def relent(self, estimates: Estimates, pops: int) -> None:
        """A table on these was refused: give way a little."""
        now_us = self._now_us(estimates)
        low, high = (1 - RELENT_SHARE) * self._rtt_us, (1 + RELENT_SHARE) * self._rtt_us
        self._rtt_us = np.where(np.isnan(now_us), self._rtt_us, np.clip(now_us, low, high))
        self.pops = max(self.fresh_pops(estimates, pops), self.pops * (1 - RELENT_SHARE))
        self.risk_allowed += RISK_STEP
        self.coverage_min -= COVERAGE_STEP
        self.one_pop_max += ONE_POP_STEP
        self.capacity_fall_max *= CAPACITY_STEP

    def _now_us(self, estimates: Estimates) -> F64:
        """The estimates now, for the pairs of the reference; NaN where there is none."""
        now = np.full(len(self._key), np.nan)
        _look_up(estimates.key, estimates.rtt_us, self._key, now)
        return now

    def _at(self, key: NDArray[np.int64]) -> F64:
        """The reference of these pairs; NaN where it has none."""
        known = np.full(len(key), np.nan)
        _look_up(self._key, self._rtt_us, key, known)
        return known

    def rtt_ratio(self, outcome: Outcome, pops: int) -> F64:
        """[n], the estimate for the POP that attracts each prefix most over the reference.

        NaN where the reference has none. The POP need not be the chosen one: a lie is to be seen
        before the first prefix follows it.
        """
        pop = outcome.considered.pop[:, 0]
        key = outcome.considered.row * pops + pop
        ratio: F64 = outcome.considered.rtt_us[:, 0] / self._at(key)
        return ratio

    def capacity_change(self, rated_bps: F64) -> tuple[float, float]:
        """The factors by which a POP's capacity rose and fell most; 1 where nothing is known."""
        if self._rated_bps is None:
            return 1.0, 1.0
        both = np.isfinite(self._rated_bps) & np.isfinite(rated_bps)
        both &= (self._rated_bps > 0) & (rated_bps > 0)
        ratio = rated_bps[both] / self._rated_bps[both]
        return float(ratio.max(initial=1.0)), 1.0 / float(ratio.min(initial=1.0))

    @staticmethod
    def fresh_pops(estimates: Estimates, pops: int) -> int:
        """How many POPs have fresh measurements."""
        pop = estimates.key % pops
        fresh = np.bincount(pop, estimates.age_s <= FRESH_S, pops)
        known = np.bincount(pop, minlength=pops)
        return int(((fresh > 0) & (fresh >= FRESH_PREFIXES * known)).sum())


@kernel
def _look_up(
    keys: NDArray[np.int64], values: NDArray[Any], wanted: NDArray[np.int64], found: F64
) -> None:
    """The values of the keys wanted, where they occur.

    Keys are sorted. A search begins where the last one ended, as what is wanted is mostly sorted.
    """
    here = 0
    for i in range(len(wanted)):
        low, high, step = 0, len(keys), 1
        if here < high and keys[here] <= wanted[i]:
            low = here
            while low + step < high and keys[low + step] <= wanted[i]:
                low += step
                step *= 2
            high = min(high, low + step)
        while low < high:
            middle = (low + high) // 2
            if keys[middle] < wanted[i]:
                low = middle + 1
            else:
                high = middle
        here = min(low, len(keys) - 1)
        if here >= 0 and keys[here] == wanted[i]:
            found[i] = values[here]
        here = max(here, 0)
