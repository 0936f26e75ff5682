"""N+1, kept current: what the loss of each POP would do at once, by the ranks of the table.

A bounded number of prefixes is looked at again in each step, the POPs whose turn is longest ago
first; what is kept is where the load of a lost POP would go. Loads and capacities enter only when
somebody asks, so a POP that shrinks or fills is seen at once. Owns that picture; decides nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers, load_bps, rows_of
from aggregator.cycle import fallen_over
from aggregator.solve import NOWHERE
from popsteer.names import Net, Plen
from popsteer.table import CANDIDATES_MAX, NO_RTT, Table

ROWS_PER_STEP = 25_000
"""Prefixes looked at in one step, which takes 0.1 s; one POP at least."""
TENTH_MS_US = 100.0

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Placed:
    """A set of answers in force and the demand that it places, of all prefixes."""

    table: Table
    said: Answers
    demand_bps: F64


@dataclass(frozen=True, slots=True)
class Losses:
    """Of every POP, [p], what its loss does at once."""

    overload_bps: F64
    """For which there is no room."""
    overload_share: F64
    """The same of all demand."""
    fullest: Ints
    """The POP that gets fullest, among those that take something over; NOWHERE is none."""
    utilisation: F64
    """Of that POP; NaN where there is none."""
    added_us: F64
    """Mean added RTT of those who move; NaN where it is unknown."""
    seen_ms: Ints
    """When it was last looked at; 0 is never."""


class Survival:
    """Owns where the load of each POP would go."""

    def __init__(self, pops: int) -> None:
        self._moves_bps = np.zeros((pops, pops), np.float32)
        """[lost, p], change of every load."""
        self._added_us = np.full(pops, np.nan)
        self._seen_ms = np.zeros(pops, np.int64)
        self._known_by: tuple[Answers, bytes] | None = None
        self._held: list[_Held] = []

    def step(
        self, placed: Sequence[Placed], net: Net, plen: Plen, usable: Bools, now_ms: int
    ) -> None:
        """Look at some POPs again; `net` and `plen` are of all prefixes."""
        said, usable_by, old = placed[0].said, usable.tobytes(), self._known_by
        if old is None or old[0] is not said or old[1] != usable_by:
            self._held = [_Held.of(one.said, usable) for one in placed]
            self._known_by = said, usable_by
        done = 0
        for lost in np.argsort(self._seen_ms, kind="stable").tolist():
            rows = [one.rows(lost) for one in self._held]
            done += sum(len(one) for one in rows)
            if done > ROWS_PER_STEP and self._seen_ms.max() == now_ms:
                return
            self._look(lost, placed, rows, net, plen, usable)
            self._seen_ms[lost] = now_ms

    def _look(
        self,
        lost: int,
        placed: Sequence[Placed],
        rows: Sequence[Ints],
        net: Net,
        plen: Plen,
        usable: Bools,
    ) -> None:
        moves, slower, moved = np.zeros(len(usable)), 0.0, 0.0
        for one, at, held in zip(placed, rows, self._held, strict=True):
            before, after = handed_over(held.said, at, usable, lost)
            demand = one.demand_bps[at]
            moves += load_bps(after, demand, len(usable)) - load_bps(before, demand, len(usable))
            us = _rtt_us(one.table, net[at], plen[at])[:, : before.pop.shape[1]]
            added = _mean_us(after, us) - _mean_us(before, us)
            served = after.share.sum(axis=1) > before.share.sum(axis=1) - 1e-9
            weight = np.where(served & ~np.isnan(added), demand, 0.0)
            slower += float((weight * np.nan_to_num(added)).sum())
            gone = np.where(before.pop == lost, before.share, 0.0).sum(axis=1)
            moved += float((weight * gone).sum())
        self._moves_bps[lost] = moves
        self._added_us[lost] = slower / moved if moved else np.nan

    def losses(self, load_bps: F64, capacity_bps: F64, usable: Bools, whole_bps: float) -> Losses:
        """What is known now, with the loads that the table brings and the capacities of now."""
        found = losses_of(self._moves_bps, load_bps, capacity_bps, usable, whole_bps)
        return replace(found, added_us=self._added_us.copy(), seen_ms=self._seen_ms.copy())


def losses_of(
    moves_bps: NDArray[np.floating],
    load_bps: F64,
    capacity_bps: F64,
    usable: Bools,
    whole_bps: float,
) -> Losses:
    """By `moves_bps` [lost, p], the change of every load; nothing is said of RTTs."""
    p = len(usable)
    then = load_bps + moves_bps
    others = usable & ~np.eye(p, dtype=bool)
    over = np.where(others, np.maximum(then - capacity_bps, 0.0), 0.0).sum(axis=1)
    took = others & (moves_bps > 0)
    ratio = np.where(took, then / capacity_bps, -np.inf)
    most = ratio.max(axis=1, initial=-np.inf)
    there = np.isfinite(most)
    return Losses(
        over,
        over / whole_bps if whole_bps else np.zeros(p),
        np.where(there, ratio.argmax(axis=1), NOWHERE),
        np.where(there, most, np.nan),
        np.full(p, np.nan),
        np.zeros(p, np.int64),
    )


@dataclass(frozen=True, slots=True)
class _Held:
    """Which prefixes each POP holds a share of, by one set of answers."""

    said: Answers
    """As DNS nodes give them while some POPs cannot be used."""
    line: Ints
    """Prefixes, POP by POP."""
    edges: Ints

    @classmethod
    def of(cls, said: Answers, usable: Bools) -> "_Held":
        said = fallen_over(said, usable)
        line, column = np.nonzero(said.share > 0)
        held = said.pop[line, column]
        order = np.argsort(held.astype(np.int16), kind="stable")
        return cls(said, line[order], np.searchsorted(held[order], np.arange(len(usable) + 1)))

    def rows(self, pop: int) -> Ints:
        found: Ints = self.line[self.edges[pop] : self.edges[pop + 1]]
        return found


def handed_over(said: Answers, rows: Ints, usable: Bools, lost: int) -> tuple[Answers, Answers]:
    """The answers to some prefixes now and when a POP is lost."""
    left = usable & (np.arange(len(usable)) != lost)
    part = Answers(said.pop[rows], said.share[rows])
    return part, fallen_over(part, left)


def n_plus_one(
    said: Answers,
    demand_bps: F64,
    capacity_bps: F64,
    usable: Bools,
    lost: Iterable[int] | None = None,
) -> Losses:
    """What the loss of each POP does at once, or of some alone; nothing is said of RTTs."""
    p, held = len(usable), _Held.of(said, usable)
    moves = np.zeros((p, p))
    for pop in range(p) if lost is None else lost:
        rows = held.rows(pop)
        before, after = handed_over(held.said, rows, usable, pop)
        demand = demand_bps[rows]
        moves[pop] = load_bps(after, demand, p) - load_bps(before, demand, p)
    load = load_bps(held.said, demand_bps, p)
    return losses_of(moves, load, capacity_bps, usable, float(demand_bps.sum()))


def _rtt_us(table: Table, net: Net, plen: Plen) -> F64:
    """[n, 8], of the candidates of the rows that answer; NaN is unknown."""
    row = rows_of(table, net, plen)
    tenths = np.full((len(row), CANDIDATES_MAX), NO_RTT, np.uint16)
    known = row >= 0
    tenths[known] = table.rtt[row[known]]
    return np.where(tenths == NO_RTT, np.nan, tenths * TENTH_MS_US)


def _mean_us(said: Answers, rtt_us: F64) -> F64:
    """[n], NaN where an RTT that counts is unknown."""
    mean: F64 = np.where(said.share > 0, said.share * rtt_us, 0.0).sum(axis=1)
    return mean
