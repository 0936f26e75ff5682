"""Traffic in flight: the load that answers bring after they were given, as caches let them go.

A cache sends its users where its last answer said, so the load of a POP at any time is made of
the answers of the past, each with the share of the load whose caches have not asked since. That
share is the kernel. Caches that keep to a TTL are spread evenly over it; some keep answers for
longer (Pang et al., "On the Responsiveness of DNS-based Network Control", IMC 2004), for lognormal
times. This predicts what a measurement should show (Smith, "Closer Control of Loops with Dead
Time", 1957), and what no table can change before a time to come.

Two witnesses say what was answered. The DNS nodes report it (`Reported`): right, but late. The
planner knows what its tables and sheds were meant to bring (`Flight`): at once, but only as good
as its idea of demand. The first gives the level, the second what changed since; the load loop
(`aggregator.control`) puts them together. Pure towards time.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from popsteer.clock import SECOND_MS

VIOLATORS_SHARE = 0.25
"""Of the load: behind caches that keep answers beyond their TTL."""
VIOLATORS_TTL_S = 600.0
"""Median of the time for which those keep them."""
VIOLATORS_SIGMA = 0.7
"""Of the logarithm of that time."""

PUBLISHED_MS = 4_000
"""A table or state that is made now is at the DNS nodes after so long."""
SLOT_S = 10
"""Reported answers are summed over so long: a bulk window."""
SLOTS_MAX = 360
"""An hour."""
SETTLED_SLOTS = 1
"""Reports of the newest slots may still come from slower nodes."""
STEPS_MAX = 720
"""An hour of load periods: hardly any cache keeps an answer for longer."""
EVER_S = 1e9
"""An age that no cache reaches."""

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class InFlight:
    """What reported answers had brought to p POPs at one time."""

    at_ms: int
    """0: nothing is reported yet."""
    load_bps: F64
    """[p], calibrated to the measured load."""
    trust: float
    """Weight of the reports against the plan, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """When caches let go of their answers."""

    ttl_s: float
    """The longest of the services."""
    violators_share: float = VIOLATORS_SHARE
    violators_ttl_s: float = VIOLATORS_TTL_S

    def kept(self, age_s: NDArray[np.floating[Any]], later_s: float = 0.0) -> F64:
        """The share of the load whose caches have not asked for so long; 1 up to age 0.

        With `later_s`, when so much more time has passed.
        """
        age = np.maximum(np.asarray(age_s, np.float64) + later_s, 0.0)
        keeping = np.clip(1 - age / max(self.ttl_s, 1.0), 0.0, 1.0)
        # The mean of (1 - age / T)+ over a lognormal T.
        with np.errstate(divide="ignore"):
            d = (np.log(self.violators_ttl_s) - np.log(age)) / VIOLATORS_SIGMA
        inverse = np.exp(VIOLATORS_SIGMA**2 / 2) / self.violators_ttl_s
        violating = ndtr(d) - age * inverse * ndtr(d - VIOLATORS_SIGMA)
        kept: F64 = (1 - self.violators_share) * keeping + self.violators_share * violating
        return kept

    @property
    def horizon_s(self) -> float:
        """When a table that is made now shows: it is published, and the TTL has passed."""
        return PUBLISHED_MS / SECOND_MS + self.ttl_s


class Reported:
    """Owns the answers that DNS nodes report, by POP and slot, in their units."""

    def __init__(self, pops: int, kernel: Kernel) -> None:
        self.kernel = kernel
        self._bits = np.zeros((0, pops))
        self._first = 0
        """The number of the first slot."""

    def add(self, end_ms: Ints, pop: Ints, bits: F64) -> None:
        """Count answers; those from before what is kept are too old to matter."""
        if not len(end_ms):
            return
        slot = (end_ms - 1) // (SLOT_S * SECOND_MS)
        end, pops = int(slot.max()) + 1, self._bits.shape[1]
        if not len(self._bits):
            self._first = int(slot.min())
        # However far apart the times are, only so many slots are kept.
        first = max(self._first, end - SLOTS_MAX)
        kept = self._bits[first - self._first :]
        longer = max(end - first - len(kept), 0)
        self._first, self._bits = first, np.concatenate([kept, np.zeros((longer, pops))])
        here = slot >= first
        np.add.at(self._bits, (slot[here] - self._first, pop[here]), bits[here])

    @property
    def known_ms(self) -> int:
        """The end of the newest slot of which all has been reported; 0 before the first."""
        slots = len(self._bits) - SETTLED_SLOTS
        return (self._first + slots) * SLOT_S * SECOND_MS if slots > 0 else 0

    def load_bps(self, at_ms: int) -> F64:
        """[p], the load that all answers until `at_ms` bring then."""
        slots = min(max(at_ms // (SLOT_S * SECOND_MS) - self._first, 0), len(self._bits))
        edge_s = at_ms / SECOND_MS - SLOT_S * (self._first + np.arange(slots + 1))
        bits = self._bits[:slots]
        # A slot of which nothing was heard says nothing of who was answered what.
        weight = np.diff(self.kernel.kept(edge_s)) * bits.any(axis=1)
        whole = float(weight.sum())
        brought: F64 = weight @ bits / SLOT_S
        return brought / whole if whole > 0 else brought


class Flight:
    """Owns what was answered when, as the load that it brings once all caches have asked."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        # What was told, the oldest first; there is room behind, so that columns are not copied.
        self._told_ms, self._told_bps = np.zeros(0, np.int64), np.zeros((0, 0))
        self._count = 0

    def tell(self, settled_bps: F64, now_ms: int) -> None:
        """From now on answers bring this load, [p], as soon as DNS nodes know of it."""
        if self._count == len(self._told_ms):
            self._make_room(len(settled_bps))
        self._told_ms[self._count] = now_ms + PUBLISHED_MS
        self._told_bps[self._count] = settled_bps
        self._count += 1

    def _make_room(self, pops: int) -> None:
        """For as much again as is kept."""
        kept = slice(max(self._count - STEPS_MAX, 0), self._count)
        told_ms, told_bps = self._told_ms[kept], self._told_bps[kept]
        self._count = len(told_ms)
        self._told_ms = np.zeros(2 * STEPS_MAX, np.int64)
        self._told_bps = np.zeros((2 * STEPS_MAX, pops))
        self._told_ms[: self._count] = told_ms
        if self._count:
            self._told_bps[: self._count] = told_bps

    def load_bps(self, at_ms: int, ahead_s: float = 0.0) -> F64:
        """[p], the load that all answers until `at_ms` bring then.

        With `ahead_s`, what is left of it so much later, whatever is answered meanwhile.
        """
        first = max(self._count - STEPS_MAX, 0)
        # What was first is taken to have been so for ever.
        given = max(int(np.searchsorted(self._told_ms[first : self._count], at_ms)), 1)
        age_s = (at_ms - self._told_ms[first : first + given]) / SECOND_MS
        edge_s = np.append(age_s, 0.0)
        edge_s[0] = EVER_S
        load: F64 = (
            np.diff(self.kernel.kept(edge_s, ahead_s)) @ self._told_bps[first : first + given]
        )
        return load
