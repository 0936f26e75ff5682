"""The exact optimum of a small market: HiGHS on the columns that matter.

Prices from Newton's method tell nearly which candidates can be chosen at all. The linear
programme over those alone is small; its own prices then tell whether any other candidate would
be cheaper. Those are added and it is solved again, until none is left out wrongly: column
generation (Dantzig and Wolfe 1960). What comes out is the optimum over all candidates.

With few columns a resource may look far too small, at a price that would call for every other
candidate. So overflow is cheap at first, little above the prices that are known (a stabilised
column generation: du Merle, Villeneuve, Desrosiers and Hansen 1999); where the solution makes use
of that, its true cost is set, and it is solved again.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from aggregator.market import F64, Ints, Market
from aggregator.newton import OVERFLOW_US

WINDOW_US = 500.0
"""Candidates within this of their row's cheapest are in from the start."""
CEILING_US = 10_000.0
"""So far above the known price overflow costs at first."""
OVER_MIN = 1e-6
"""Of the mean demand: less overflow is none."""
MARGIN_US = 1e-3
"""What a candidate must be cheaper by than those that are in, to come in."""
ROUNDS_MAX = 25
OVERFLOW_EDGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0)
"""The convex cost of overflow in straight pieces: shares above the capacity where it bends."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Optimum:
    """The solution of the linear programme."""

    share: F64
    """[n, k]"""
    price_us: F64
    """[r]"""


@dataclass(frozen=True, slots=True)
class _Solved:
    share: F64
    price_us: F64
    over: F64
    """[r], load beyond the capacity, in mean demands."""


def solve(market: Market, price_us: F64) -> Optimum | None:
    """The least cost, overflow included; None when the rounds do not suffice or HiGHS fails.

    `price_us` are prices close to the optimum's; better ones make it faster, not other.
    """
    priced = _priced(market, price_us)
    held = priced <= priced.min(axis=1, keepdims=True) + WINDOW_US
    # Never above what overflow really costs, or the programme would be another.
    ceiling = np.where(price_us + CEILING_US < OVERFLOW_US, price_us + CEILING_US, np.inf)
    for _ in range(ROUNDS_MAX):
        solved = _restricted(market, held, ceiling)
        if solved is None:
            return None
        priced = _priced(market, solved.price_us)
        inside = np.where(held, priced, np.inf).min(axis=1, keepdims=True)
        missing = ~held & (priced < inside - MARGIN_US)
        if missing.any():
            held |= missing
            continue
        cheated = np.isfinite(ceiling) & (solved.over > OVER_MIN)
        if not cheated.any():
            return Optimum(solved.share, solved.price_us)
        ceiling[cheated] = np.inf
    return None


def _priced(market: Market, price_us: F64) -> F64:
    priced: F64 = market.cost_us + (price_us[market.pop] + price_us[market.link])
    return priced


def _restricted(market: Market, held: Bools, ceiling_us: F64) -> _Solved | None:
    """The linear programme over the candidates that are held.

    Overflow costs what it does where the ceiling [r] is infinite, and the ceiling elsewhere.
    """
    choices = held.sum(axis=1)
    fixed, open_rows = np.flatnonzero(choices == 1), np.flatnonzero(choices > 1)
    share = np.zeros(held.shape)
    column = held[fixed].argmax(axis=1)
    share[fixed, column] = 1.0
    r = len(market.capacity)
    load = np.zeros(r)
    for number in (market.pop, market.link):
        load += np.bincount(number[fixed, column], market.demand[fixed], r)
    row, column = np.nonzero(held[open_rows])
    at = open_rows[row]
    over_cost, over_size, over_resource = _overflow(market.capacity, ceiling_us)
    demand, scale = market.demand[at].astype(np.float64), float(market.demand.mean())
    n, e, o = len(open_rows), len(at), len(over_cost)
    limited = np.flatnonzero(market.limited)
    number = np.full(r, -1)
    number[limited] = np.arange(len(limited))
    used = [number[resource[at, column]] for resource in (market.pop, market.link)]
    lines = np.concatenate([*used, number[over_resource]])
    columns = np.concatenate([np.arange(e), np.arange(e), e + np.arange(o)])
    entries = np.concatenate([demand, demand, np.full(o, -scale)]) / scale
    real = lines >= 0
    shape = (len(limited), e + o)
    use = sparse.csr_matrix((entries[real], (lines[real], columns[real])), shape)
    whole = sparse.csr_matrix((np.ones(e), (row, np.arange(e))), (n, e + o))
    found = linprog(
        np.concatenate([market.cost_us[at, column] * demand / scale, over_cost]),
        A_ub=use,
        b_ub=(market.capacity - load)[limited] / scale,
        A_eq=whole if n else None,
        b_eq=np.ones(n) if n else None,
        bounds=np.stack([np.zeros(e + o), np.concatenate([np.ones(e), over_size / scale])], axis=1),
        method="highs",
        # There is little left to find out before: it takes longer than what it saves.
        options={"presolve": False},
    )
    if not found.success:
        return None
    share[at, column] = found.x[:e]
    price = np.zeros(r)
    price[limited] = np.maximum(-found.ineqlin.marginals, 0.0)
    over = np.bincount(over_resource, found.x[e:], r)
    return _Solved(share, price, np.asarray(over, np.float64))


def _overflow(capacity: F64, ceiling_us: F64) -> tuple[F64, F64, Ints]:
    """Cost, size and resource of each piece of overflow; the last piece has no end.

    Where there is a ceiling there is one piece, at that cost.
    """
    capped = np.flatnonzero(np.isfinite(capacity) & np.isfinite(ceiling_us))
    limited = np.flatnonzero(np.isfinite(capacity) & np.isinf(ceiling_us))
    edges = np.array([0.0, *OVERFLOW_EDGES])
    cost = OVERFLOW_US * (1 + np.append((edges[1:] + edges[:-1]) / 2, 2 * edges[-1]))
    width = np.append(np.diff(edges), np.inf)
    with np.errstate(invalid="ignore"):
        size = np.where(np.isinf(width), np.inf, capacity[limited, None] * width)
    return (
        np.concatenate([ceiling_us[capped], np.tile(cost, len(limited))]),
        np.concatenate([np.full(len(capped), np.inf), size.ravel()]),
        np.concatenate([capped, np.repeat(limited, len(width))]),
    )
