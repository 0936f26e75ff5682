"""The exact optimum of a small market: HiGHS on the columns that matter.

Prices from Newton's method tell nearly which candidates can be chosen at all. The linear
programme over those alone is small; its own prices then tell whether any other candidate would
be cheaper. Those are added and HiGHS goes on from the basis that it has, until none is left out
wrongly: column generation (Dantzig and Wolfe 1960). In the same way a resource comes in that is
found too full. What comes out is the optimum over all candidates.

With few columns a resource may look far too small, at a price that would call for every other
candidate. So overflow is cheap at first, little above the prices that are known (a stabilised
column generation: du Merle, Villeneuve, Desrosiers and Hansen 1999); where the solution makes use
of that, its true cost is set, and it is solved on.
"""

from dataclasses import dataclass

import highspy
import numpy as np
from numpy.typing import NDArray

from aggregator.market import F32, F64, Ints, Market
from aggregator.newton import OVERFLOW_US
from popsteer.kernel import kernel

WINDOW_US = 500.0
"""Candidates within this of their row's cheapest are in from the start."""
CROWDED = 0.9
"""Load over capacity from which a resource is in from the start."""
CEILING_US = 10_000.0
"""So far above the known price overflow costs at first."""
OVER_MIN = 1e-6
"""Of the mean demand: less overflow is none."""
MARGIN_US = 1e-3
"""What a candidate must be cheaper by than those that are in, to come in."""
ROUNDS_MAX = 60
OVERFLOW_EDGES = (
    *(0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    *(1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 3.0, 3.5, 4.0),
)
"""The convex cost of overflow in straight pieces: shares above the capacity where it bends."""
SOLVED = (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kModelEmpty)
"""Empty where every row has its cheapest candidate and no resource is near its capacity."""
NONE = -1

Bools = NDArray[np.bool_]
Rows = tuple[F32, Ints, Ints]
"""Costs, POPs and links of a market."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """The solution of the linear programme."""

    share: F64
    """[n, k]"""
    price_us: F64
    """[r]"""


def solve(market: Market, price_us: F64, columns_max: float = np.inf) -> Optimum | None:
    """The least cost, overflow included; None when the rounds do not suffice or HiGHS fails.

    `price_us` are prices close to the optimum's; better ones make it faster, not other. With more
    than `columns_max` candidates that may be chosen, it is given up.
    """
    programme = _Programme(market, price_us, columns_max)
    try:
        for _ in range(ROUNDS_MAX):
            if programme.too_large or not programme.solve():
                return None
            if not programme.grow():
                return Optimum(programme.share(), programme.price_us)
    finally:
        programme.forget()
    return None


class _Programme:
    """The linear programme over the candidates and resources that are in so far.

    Every row begins whole at its cheapest candidate; a column moves it to another one. Each
    resource that is in is a line: what moves there less what moves away less what overflows fits
    into what the beginning left. Each row that can move has a line, too: it moves once at most.
    Amounts are in mean demands.
    """

    def __init__(self, market: Market, price_us: F64, columns_max: float) -> None:
        (n, k), r = market.cost_us.shape, len(market.capacity)
        self._market = market
        self._columns_max = columns_max
        self.too_large = False
        """Whether it needs more columns than it may have."""
        self._rows: Rows = (market.cost_us, market.pop, market.link)
        self._scale = float(market.demand.mean())
        # Never above what overflow really costs, or the programme would be another.
        low = price_us + CEILING_US < OVERFLOW_US
        self._ceiling_us = np.where(low, price_us + CEILING_US, np.inf)
        self._at, self._begun = np.empty(n, np.int64), np.zeros(r)
        _begin(self._rows, market.demand, price_us, self._at, self._begun)
        self._held = np.zeros((n, k), bool)
        self._held[np.arange(n), self._at] = True
        self._line_of = np.full(r, NONE)
        self._row_line = np.full(n, NONE)
        self._move, self._row, self._to = np.zeros((3, 0), np.int64)
        """Columns of HiGHS that move, their rows, and the candidates to which."""
        self._over, self._over_at = np.zeros((2, 0), np.int64)
        """Columns of HiGHS that overflow, and their resources."""
        self._highs = highspy.Highs()  # type: ignore[no-untyped-call]
        self._highs.silent()
        self._highs.setOptionValue("threads", 1)
        # There is little that it could find out, and it would forget the basis.
        self._highs.setOptionValue("presolve", "off")
        self._watch((price_us > 0) | (self._begun > CROWDED * market.capacity))
        self._hold(price_us, WINDOW_US)
        self.price_us = price_us
        self._flow = np.zeros(0)
        """Of all columns of HiGHS."""

    def forget(self) -> None:
        """Give back the memory that HiGHS holds, which the collector does not see."""
        self._highs.clear()

    def solve(self) -> bool:
        """Solve on from the last basis; whether there is a solution."""
        self._highs.run()
        if self._highs.getModelStatus() not in SOLVED:
            return False
        found = self._highs.getSolution()
        self._flow = np.array(found.col_value, np.float64)
        lines = np.append(np.array(found.row_dual, np.float64), 0.0)
        self.price_us = np.maximum(-lines[self._line_of], 0.0)
        return True

    def grow(self) -> bool:
        """Take in what the solution left out wrongly; whether there was any."""
        market, at = self._market, self._at[self._row]
        moved = self._flow[self._move] * market.demand[self._row]
        load = self._begun.copy()
        for resource in (market.pop, market.link):
            np.add.at(load, resource[self._row, self._to], moved)
            np.subtract.at(load, resource[self._row, at], moved)
        held = self._hold(self.price_us, -MARGIN_US)
        lifted = self._lift()
        watched = self._watch(load > market.capacity + OVER_MIN * self._scale)
        return held or lifted or watched

    def share(self) -> F64:
        """[n, k], of the last solution."""
        share = np.zeros(self._held.shape)
        share[self._row, self._to] = np.clip(self._flow[self._move], 0.0, 1.0)
        share[np.arange(len(share)), self._at] = np.maximum(1.0 - share.sum(axis=1), 0.0)
        return share

    def _hold(self, price_us: F64, window_us: float) -> bool:
        """Columns for the candidates that are within a window of the cheapest held."""
        room = np.empty((2, self._held.size), np.int64)
        count = _find(self._rows, price_us, window_us, self._held, room[0], room[1])
        row, to = room[:, :count].copy()
        self.too_large = len(self._move) + count > self._columns_max
        if self.too_large or not count:
            return self.too_large
        cost, demand = self._market.cost_us, self._market.demand[row] / self._scale
        fresh = np.unique(row[self._row_line[row] == NONE])
        self._row_line[fresh] = self._lines(np.ones(len(fresh)), *_nothing())
        saved = cost[row, to].astype(np.float64) - cost[row, self._at[row]]
        lines, columns, values = self._uses(row, to, self._line_of)
        lines = np.concatenate([self._row_line[row], lines])
        columns = np.concatenate([np.arange(count), columns])
        values = np.concatenate([np.ones(count), values])
        move = self._columns(saved * demand, np.full(count, np.inf), lines, columns, values)
        self._move = np.concatenate([self._move, move])
        self._row = np.concatenate([self._row, row])
        self._to = np.concatenate([self._to, to])
        return True

    def _uses(self, row: Ints, to: Ints, line_of: Ints) -> tuple[Ints, Ints, F64]:
        """What moves change at resources with a line: lines, numbers of moves, amounts."""
        market, at = self._market, self._at[row]
        demand = market.demand[row].astype(np.float64) / self._scale
        parts = []
        for resource in (market.pop, market.link):
            there, here = line_of[resource[row, to]], line_of[resource[row, at]]
            for line, amount in ((there, demand), (here, -demand)):
                changed = np.flatnonzero((line != NONE) & (there != here))
                parts.append((line[changed], changed, amount[changed]))
        lines, columns, values = (np.concatenate(one) for one in zip(*parts, strict=True))
        return lines, columns, values

    def _watch(self, full: Bools) -> bool:
        """Lines for the resources that are full and have none, and their overflow."""
        capacity = self._market.capacity
        fresh = np.flatnonzero(full & np.isfinite(capacity) & (self._line_of == NONE))
        if not len(fresh):
            return False
        number = np.full(len(capacity), NONE)
        number[fresh] = np.arange(len(fresh))
        lines, moves, values = self._uses(self._row, self._to, number)
        left = (capacity - self._begun)[fresh] / self._scale
        self._line_of[fresh] = self._lines(left, lines, self._move[moves], values)
        self._overflow(fresh)
        return True

    def _lift(self) -> bool:
        """The true cost of overflow, where the solution makes use of less."""
        over = self._flow[self._over] > OVER_MIN
        at = self._over_at
        cheated = np.unique(at[over & np.isfinite(self._ceiling_us[at])])
        if not len(cheated):
            return False
        self._ceiling_us[cheated] = np.inf
        closed = self._over[np.isin(at, cheated)].astype(np.int32)
        none = np.zeros(len(closed))
        self._highs.changeColsBounds(len(closed), closed, none, none)
        self._overflow(cheated)
        return True

    def _overflow(self, resources: Ints) -> None:
        """Columns for the overflow of resources that have lines."""
        cost, size, at = _overflow(self._market.capacity, self._ceiling_us, resources)
        every = np.arange(len(at))
        minus = np.full(len(at), -1.0)
        over = self._columns(cost, size / self._scale, self._line_of[at], every, minus)
        self._over = np.concatenate([self._over, over])
        self._over_at = np.concatenate([self._over_at, at])

    def _lines(self, limit: F64, lines: Ints, columns: Ints, values: F64) -> Ints:
        """Adds lines with their entries in columns that there are; gives their numbers."""
        first, count = self._highs.getNumRow(), len(limit)
        order = np.argsort(lines, kind="stable")
        start = np.searchsorted(lines[order], np.arange(count)).astype(np.int32)
        entries = columns[order].astype(np.int32), values[order]
        least = np.full(count, -np.inf)
        self._highs.addRows(count, least, limit, len(order), start, *entries)
        return np.arange(first, first + count)

    def _columns(self, cost: F64, most: F64, lines: Ints, columns: Ints, values: F64) -> Ints:
        """Adds columns with their entries in lines that there are; gives their numbers."""
        first, count = self._highs.getNumCol(), len(cost)
        order = np.argsort(columns, kind="stable")
        start = np.searchsorted(columns[order], np.arange(count)).astype(np.int32)
        entries = lines[order].astype(np.int32), values[order]
        least = np.zeros(count)
        self._highs.addCols(count, cost, least, most, len(order), start, *entries)
        return np.arange(first, first + count)


def _nothing() -> tuple[Ints, Ints, F64]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)


@kernel
def _begin(rows: Rows, demand: F32, price: F64, at: Ints, load: F64) -> None:
    """The cheapest candidate of each row, and the load that this brings."""
    cost, pop, link = rows
    for i in range(len(at)):
        best = np.inf
        for c in range(cost.shape[1]):
            priced = cost[i, c] + (price[pop[i, c]] + price[link[i, c]])
            if priced < best:
                best = priced
                at[i] = c
        load[pop[i, at[i]]] += demand[i]
        load[link[i, at[i]]] += demand[i]


@kernel
def _find(rows: Rows, price: F64, window: float, held: Bools, row: Ints, to: Ints) -> int:
    """Candidates within a window of the cheapest held of their row; marks them as held.

    Fills rows and candidates, and gives how many there are.
    """
    cost, pop, link = rows
    n, k = cost.shape
    priced = np.empty(k)
    count = 0
    for i in range(n):
        inside = np.inf
        for c in range(k):
            priced[c] = cost[i, c] + (price[pop[i, c]] + price[link[i, c]])
            if held[i, c] and priced[c] < inside:
                inside = priced[c]
        for c in range(k):
            if priced[c] < inside + window and not held[i, c]:
                held[i, c] = True
                row[count] = i
                to[count] = c
                count += 1
    return count


def _overflow(capacity: F64, ceiling_us: F64, resources: Ints) -> tuple[F64, F64, Ints]:
    """Cost, size and resource of each piece of overflow; the last piece has no end.

    Where there is a ceiling there is one piece, at that cost.
    """
    capped = resources[np.isfinite(ceiling_us[resources])]
    free = resources[np.isinf(ceiling_us[resources])]
    edges = np.array([0.0, *OVERFLOW_EDGES])
    cost = OVERFLOW_US * (1 + np.append((edges[1:] + edges[:-1]) / 2, 2 * edges[-1]))
    width = np.append(np.diff(edges), np.inf)
    with np.errstate(invalid="ignore"):
        size = np.where(np.isinf(width), np.inf, capacity[free, None] * width)
    return (
        np.concatenate([ceiling_us[capped], np.tile(cost, len(free))]),
        np.concatenate([np.full(len(capped), np.inf), size.ravel()]),
        np.concatenate([capped, np.repeat(free, len(width))]),
    )
