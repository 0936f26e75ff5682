"""The exact optimum of a small market: HiGHS on the columns that matter.

Prices from Newton's method tell nearly which candidates can be chosen at all. The linear
programme over those alone is small; its own prices then tell whether any other candidate would
be cheaper. Those are added and it is solved again, until none is left out wrongly: column
generation (Dantzig and Wolfe 1960). What comes out is the optimum over all candidates.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from aggregator.market import F64, Ints, Market
from aggregator.newton import OVERFLOW_US

WINDOW_US = 1_000.0
"""Candidates within this of their row's cheapest are in from the start."""
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


def solve(market: Market, price_us: F64) -> Optimum | None:
    """The least cost, overflow included; None when the rounds do not suffice or HiGHS fails.

    `price_us` are prices close to the optimum's; better ones make it faster, not other.
    """
    price, share = price_us, None
    least = _priced(market, price).min(axis=1, keepdims=True)
    held = _priced(market, price) <= least + WINDOW_US
    for _ in range(ROUNDS_MAX):
        solved = _restricted(market, held)
        if solved is None:
            return None
        price, share = solved.price_us, solved.share
        priced = _priced(market, price)
        inside = np.where(held, priced, np.inf).min(axis=1, keepdims=True)
        missing = ~held & (priced < inside - MARGIN_US)
        if not missing.any():
            return Optimum(share, price)
        held |= missing
    return None


def _priced(market: Market, price_us: F64) -> F64:
    priced: F64 = market.cost_us + (price_us[market.pop] + price_us[market.link])
    return priced


def _restricted(market: Market, held: Bools) -> _Solved | None:
    """The linear programme over the candidates that are held."""
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
    over_cost, over_size, over_resource = _overflow(market.capacity)
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
    )
    if not found.success:
        return None
    share[at, column] = found.x[:e]
    price = np.zeros(r)
    price[limited] = np.maximum(-found.ineqlin.marginals, 0.0)
    return _Solved(share, price)


def _overflow(capacity: F64) -> tuple[F64, F64, Ints]:
    """Cost, size and resource of each piece of overflow; the last piece has no end."""
    limited = np.flatnonzero(np.isfinite(capacity))
    edges = np.array([0.0, *OVERFLOW_EDGES])
    cost = OVERFLOW_US * (1 + np.append((edges[1:] + edges[:-1]) / 2, 2 * edges[-1]))
    width = np.append(np.diff(edges), np.inf)
    with np.errstate(invalid="ignore"):
        size = np.where(np.isinf(width), np.inf, capacity[limited, None] * width)
    times = len(limited)
    return np.tile(cost, times), size.ravel(), np.repeat(limited, len(width))
