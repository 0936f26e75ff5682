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

from aggregator.market import F32, F64, Arrays, Crew, Ints, Market
from popsteer.kernel import kernel

Bools = NDArray[np.bool_]
Buffers = tuple[Ints, F32, Ints, Ints, F32]
"""Ends of rows; costs, POPs and links of candidates; demands of rows."""


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
    i: int,
    market: Arrays,
    price: F32,
    contested: Bools,
    window: np.float32,
    priced: F32,
    kept: Ints,
) -> int:
    """Fill `kept` with row i's candidates that may be chosen; gives how many there are."""
    cost, pop, link, _ = market
    best = free = np.float32(np.inf)
    cheapest, cheapest_free = 0, -1
    for k in range(cost.shape[1]):
        priced[k] = np.float32(np.inf)
        if cost[i, k] > best + window:  # No price makes it cheaper.
            continue
        p, q = pop[i, k], link[i, k]
        priced[k] = cost[i, k] + (price[p] + price[q])
        if priced[k] < best:
            best = priced[k]
            cheapest = k
        if priced[k] < free and not contested[p] and not contested[q]:
            free = priced[k]
            cheapest_free = k
    limit = best + window
    count = 0
    for k in range(cost.shape[1]):
        if priced[k] > limit:
            continue
        wanted = cost[i, k] < free and (contested[pop[i, k]] or contested[link[i, k]])
        if wanted or k == cheapest_free:
            kept[count] = k
            count += 1
    if count < 2:
        kept[0] = cheapest
    return count


@kernel
def _prune(
    market: Arrays,
    price: F32,
    contested: Bools,
    window: np.float32,
    slot: Ints,
    out: Buffers,
    load: F64,
    first: int,
    last: int,
) -> tuple[int, int, float]:
    """Copy what is kept of some rows to where these rows begin in the buffers.

    Gives how many rows and candidates that are, and the cost of the settled rows; adds up the
    load of those.
    """
    cost, pop, link, demand = market
    end, kept_cost, kept_pop, kept_link, kept_demand = out
    kept = np.empty(cost.shape[1], np.int64)
    priced = np.empty(cost.shape[1], np.float32)
    row, begin = first, first * cost.shape[1]
    at = begin
    settled = 0.0
    for i in range(first, last):
        left = _keep(i, market, price, contested, window, priced, kept)
        if left < 2:
            k = kept[0]
            load[slot[pop[i, k]]] += demand[i]
            load[slot[link[i, k]]] += demand[i]
            settled += np.float64(demand[i]) * cost[i, k]
            continue
        for j in range(left):
            k = kept[j]
            kept_cost[at] = cost[i, k]
            kept_pop[at] = slot[pop[i, k]]
            kept_link[at] = slot[link[i, k]]
            at += 1
        kept_demand[row] = demand[i]
        end[row] = at - begin
        row += 1
    return row - first, at - begin, settled


def prune(market: Market, price_us: F64, contested: Bools, window_us: float, crew: Crew) -> Pruned:
    """What of a market can still change while prices stay within the window of `price_us`."""
    (n, k), s = market.cost_us.shape, int(contested.sum())
    price, window = price_us.astype(np.float32), np.float32(window_us)
    kind = market.pop.dtype
    slot = np.full(len(contested), s, kind)
    slot[contested] = np.arange(s)
    rows = (market.cost_us, market.pop, market.link, market.demand)
    # Room for everything; what stays empty is never touched and so takes no memory.
    row_room = (np.empty(n, np.int64), np.empty(n, np.float32))
    room = (np.empty(n * k, np.float32), np.empty(n * k, kind), np.empty(n * k, kind))
    out = (row_room[0], *room, row_room[1])

    def work(first: int, last: int) -> tuple[slice, slice, float, F64]:
        load = np.zeros(s + 1)
        m, e, cost = _prune(rows, price, contested, window, slot, out, load, first, last)
        return slice(first, first + m), slice(first * k, first * k + e), cost, load

    parts = crew.each(n, work)
    start, reached = [np.zeros(1, np.int64)], 0
    for mine, entries, _, _ in parts:
        start.append(row_room[0][mine] + reached)
        reached += entries.stop - entries.start
    cost, pop, link = (np.concatenate([x[part[1]] for part in parts]) for x in room)
    return Pruned(
        np.flatnonzero(contested),
        np.concatenate(start),
        cost,
        pop,
        link,
        np.concatenate([row_room[1][part[0]] for part in parts]),
        np.sum([part[3] for part in parts], axis=0),
        sum(part[2] for part in parts),
    )
