"""Leave out of a market what nearby prices cannot change.

Given prices, a candidate whose priced cost is more than a window above its row's cheapest will
not be chosen while prices stay near; among the candidates that use no contested resource only the
cheapest can ever be; and a contested one that is dearer than that even for nothing never is. A row
with one candidate left is settled: it counts as fixed load. What remains is a few percent of the
market, and that is where Newton's method works.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.kernel import kernel
from aggregator.market import F32, F64, Arrays, Crew, Ints, Market

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pruned:
    """m rows that still have a choice; e candidates; s contested resources, numbered from 0.

    Number s is whatever is not contested; its price is 0.
    """

    contested: Ints
    """[s], which resources these are."""
    start: Ints
    """[m + 1], where each row's candidates begin."""
    cost_us: F32
    """[e]"""
    pop: Ints
    """[e]"""
    link: Ints
    """[e]"""
    demand: F32
    """[m]"""
    settled_load: F64
    """[s + 1], load of the settled rows."""
    settled_cost: float
    """Demand times cost of the settled rows, without prices."""


@kernel
def _keep(
    cost: F32,
    pop: Ints,
    link: Ints,
    price: F32,
    contested: Bools,
    window: np.float32,
    kept: Ints,
) -> int:
    """Fill `kept` with one row's candidates that may be chosen; gives how many there are."""
    best = np.float32(np.inf)
    free = np.float32(np.inf)
    cheapest = 0
    cheapest_free = -1
    for k in range(len(cost)):
        priced = cost[k] + (price[pop[k]] + price[link[k]])
        if priced < best:
            best = priced
            cheapest = k
        if priced < free and not contested[pop[k]] and not contested[link[k]]:
            free = priced
            cheapest_free = k
    count = 0
    for k in range(len(cost)):
        priced = cost[k] + (price[pop[k]] + price[link[k]])
        if priced > best + window:
            continue
        wanted = cost[k] < free and (contested[pop[k]] or contested[link[k]])
        if wanted or k == cheapest_free:
            kept[count] = k
            count += 1
    if count < 2:
        kept[0] = cheapest
    return count


@kernel
def _count(
    cost: F32,
    pop: Ints,
    link: Ints,
    price: F32,
    contested: Bools,
    window: np.float32,
    count: Ints,
    first: int,
    last: int,
) -> None:
    """`count[i]` candidates are kept of row i; 0 when it is settled."""
    kept = np.empty(cost.shape[1], np.int64)
    for i in range(first, last):
        left = _keep(cost[i], pop[i], link[i], price, contested, window, kept)
        count[i] = left if left > 1 else 0


@kernel
def _fill(
    market: Arrays,
    price: F32,
    contested: Bools,
    window: np.float32,
    slot: Ints,
    place: tuple[Ints, Ints],
    out: tuple[F32, Ints, Ints, F32],
    load: F64,
    first: int,
    last: int,
) -> float:
    """Copy what is kept to its place; gives the cost of the settled rows, adds up their load."""
    cost, pop, link, demand = market
    start, row_at = place
    kept_cost, kept_pop, kept_link, kept_demand = out
    kept = np.empty(cost.shape[1], np.int64)
    settled = 0.0
    for i in range(first, last):
        left = _keep(cost[i], pop[i], link[i], price, contested, window, kept)
        if left < 2:
            k = kept[0]
            load[slot[pop[i, k]]] += demand[i]
            load[slot[link[i, k]]] += demand[i]
            settled += np.float64(demand[i]) * cost[i, k]
            continue
        kept_demand[row_at[i]] = demand[i]
        at = start[i]
        for j in range(left):
            k = kept[j]
            kept_cost[at] = cost[i, k]
            kept_pop[at] = slot[pop[i, k]]
            kept_link[at] = slot[link[i, k]]
            at += 1
    return settled


def prune(market: Market, price_us: F64, contested: Bools, window_us: float, crew: Crew) -> Pruned:
    """What of a market can still change while prices stay within the window of `price_us`."""
    n, s = len(market), int(contested.sum())
    price, window = price_us.astype(np.float32), np.float32(window_us)
    kind = market.pop.dtype
    slot = np.full(len(contested), s, kind)
    slot[contested] = np.arange(s)
    arrays = (market.cost_us, market.pop, market.link)
    count = np.empty(n, np.int32)
    crew.each(n, lambda a, b: _count(*arrays, price, contested, window, count, a, b))
    end = np.cumsum(count, dtype=np.int64)
    live = count > 0
    row_at = np.cumsum(live, dtype=np.int64) - 1
    m, e = int(row_at[-1]) + 1, int(end[-1])
    out = (np.empty(e, np.float32), np.empty(e, kind), np.empty(e, kind), np.empty(m, np.float32))

    def fill(first: int, last: int) -> tuple[float, F64]:
        load = np.zeros(s + 1)
        rows, place = (*arrays, market.demand), (end - count, row_at)
        cost = _fill(rows, price, contested, window, slot, place, out, load, first, last)
        return cost, load

    parts = crew.each(n, fill)
    start = np.concatenate([np.zeros(1, np.int64), end[live]])
    settled_load = np.sum([load for _, load in parts], axis=0)
    settled_cost = sum(cost for cost, _ in parts)
    return Pruned(np.flatnonzero(contested), start, *out, settled_load, settled_cost)
