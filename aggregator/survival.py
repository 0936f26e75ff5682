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
from aggregator.failover import Ladder
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
    """A set of answers, the demand that it places, and who stands in."""

    said: Answers
    demand_bps: F64
    ladder: Ladder


@dataclass(frozen=True, slots=True)
class Losses:
    """Of every POP, [p], what its loss does at once."""

    overload_bps: F64
    """For which there is no room, that which nobody can take among it."""
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
        self._unserved_bps = np.zeros(pops)
        self._added_us = np.full(pops, np.nan)
        self._seen_ms = np.zeros(pops, np.int64)
        self._known_by: tuple[Answers, bytes] | None = None
        self._held: list[_Held] = []

    def step(
        self,
        placed: Sequence[Placed],
        tables: Sequence[Table],
        prefixes: tuple[Net, Plen],
        up: Bools,
        drained: Bools,
        now_ms: int,
    ) -> None:
        """Look at some POPs again.

        `tables` are those that `placed` are the answers of; `prefixes` are all.
        """
        said, state, old = placed[0].said, up.tobytes() + drained.tobytes(), self._known_by
        if old is None or old[0] is not said or old[1] != state:
            self._held = [_Held.of(one, up, drained) for one in placed]
            self._known_by = said, state
        done = 0
        for lost in np.argsort(self._seen_ms, kind="stable").tolist():
            rows = [one.rows(lost) for one in self._held]
            done += sum(len(one) for one in rows)
            if done > ROWS_PER_STEP and self._seen_ms.max() == now_ms:
                return
            left = up & (np.arange(len(up)) != lost)
            self._look(lost, placed, tables, rows, prefixes, left, drained)
            self._seen_ms[lost] = now_ms

    def _look(
        self,
        lost: int,
        placed: Sequence[Placed],
        tables: Sequence[Table],
        rows: Sequence[Ints],
        prefixes: tuple[Net, Plen],
        left: Bools,
        drained: Bools,
    ) -> None:
        moves, slower, moved, unserved = np.zeros(len(left)), 0.0, 0.0, 0.0
        net, plen = prefixes
        for one, table, at, held in zip(placed, tables, rows, self._held, strict=True):
            before, after = held.handed_over(at, left, drained)
            demand, served = one.demand_bps[at], after.share.any(axis=1)
            moves += load_bps(after, demand, len(left)) - load_bps(before, demand, len(left))
            unserved += _unserved_bps(before, after, demand)
            us = _rtt_us(table, net[at], plen[at], after.pop.shape[1])
            added = _mean_us(after, us) - _mean_us(before, us[:, : before.pop.shape[1]])
            weight = np.where(served & ~np.isnan(added), demand, 0.0)
            slower += float((weight * np.nan_to_num(added)).sum())
            gone = np.where(before.pop == lost, before.share, 0.0).sum(axis=1)
            moved += float((weight * gone).sum())
        self._moves_bps[lost] = moves
        self._unserved_bps[lost] = unserved
        self._added_us[lost] = slower / moved if moved else np.nan

    def losses(self, load_bps: F64, capacity_bps: F64, up: Bools, whole_bps: float) -> Losses:
        """What is known now, with the loads that the table brings and the capacities of now."""
        found = losses_of(
            self._moves_bps, self._unserved_bps, load_bps, capacity_bps, up, whole_bps
        )
        return replace(found, added_us=self._added_us.copy(), seen_ms=self._seen_ms.copy())


def losses_of(
    moves_bps: NDArray[np.floating],
    unserved_bps: F64,
    load_bps: F64,
    capacity_bps: F64,
    up: Bools,
    whole_bps: float,
) -> Losses:
    """By `moves_bps` [lost, p], the change of every load, and what nobody takes, [lost].

    Nothing is said of RTTs.
    """
    p = len(up)
    then = load_bps + moves_bps
    others = up & ~np.eye(p, dtype=bool)
    over = np.where(others, np.maximum(then - capacity_bps, 0.0), 0.0).sum(axis=1) + unserved_bps
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

    ladder: Ladder

    @classmethod
    def of(cls, placed: Placed, up: Bools, drained: Bools) -> "_Held":
        said = placed.ladder.fallen_over(placed.said, up, drained)
        line, column = np.nonzero(said.share > 0)
        held = said.pop[line, column]
        order = np.argsort(held.astype(np.int16), kind="stable")
        edges = np.searchsorted(held[order], np.arange(len(up) + 1))
        return cls(said, line[order], edges, placed.ladder)

    def rows(self, pop: int) -> Ints:
        found: Ints = self.line[self.edges[pop] : self.edges[pop + 1]]
        return found

    def handed_over(self, rows: Ints, left: Bools, drained: Bools) -> tuple[Answers, Answers]:
        """The answers to some prefixes now, and when only `left` is up."""
        part = Answers(self.said.pop[rows], self.said.share[rows])
        return part, self.ladder.fallen_over(part, left, drained)


def _unserved_bps(before: Answers, after: Answers, demand_bps: F64) -> float:
    """What had an answer and has none; a row loses all or nothing."""
    lost = before.share.any(axis=1) & ~after.share.any(axis=1)
    return float((demand_bps[lost] * before.share[lost].sum(axis=1)).sum())


def n_plus_one(
    placed: Sequence[Placed],
    capacity_bps: F64,
    up: Bools,
    drained: Bools,
    lost: Iterable[int] | None = None,
) -> Losses:
    """What the loss of each POP does at once, or of some alone; nothing is said of RTTs."""
    p, held = len(up), [_Held.of(one, up, drained) for one in placed]
    moves, unserved, load, whole = np.zeros((p, p)), np.zeros(p), np.zeros(p), 0.0
    for pop in range(p) if lost is None else lost:
        left = up & (np.arange(p) != pop)
        for one, own in zip(placed, held, strict=True):
            rows = own.rows(pop)
            before, after = own.handed_over(rows, left, drained)
            demand = one.demand_bps[rows]
            moves[pop] += load_bps(after, demand, p) - load_bps(before, demand, p)
            unserved[pop] += _unserved_bps(before, after, demand)
    for one, own in zip(placed, held, strict=True):
        load += load_bps(own.said, one.demand_bps, p)
        whole += float(one.demand_bps.sum())
    return losses_of(moves, unserved, load, capacity_bps, up, whole)


def _rtt_us(table: Table, net: Net, plen: Plen, width: int) -> F64:
    """[n, width], of the candidates of the rows that answer; NaN is unknown."""
    row = rows_of(table, net, plen)
    tenths = np.full((len(row), width), NO_RTT, np.uint16)
    known, ranks = row >= 0, min(width, CANDIDATES_MAX)
    tenths[known, :ranks] = table.rtt[row[known], :ranks]
    return np.where(tenths == NO_RTT, np.nan, tenths * TENTH_MS_US)


def _mean_us(said: Answers, rtt_us: F64) -> F64:
    """[n], NaN where an RTT that counts is unknown."""
    mean: F64 = np.where(said.share > 0, said.share * rtt_us, 0.0).sum(axis=1)
    return mean
