"""Leave out of a market what nearby prices cannot change.

Given prices, a candidate whose priced cost is more than a window above its row's cheapest is not
the cheapest while no price moves by more than a quarter of it; among the candidates that use no
contested resource only the cheapest can ever be; and a contested one that is dearer than that even
for nothing never is. A row with one candidate left is settled: it counts as fixed load. What
remains is a few percent of the market, and that is where Newton's method and the rounding work.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.market import F32, F64, Arrays, Crew, Ints, Market
from popsteer.kernel import kernel

Bools = NDArray[np.bool_]
Buffers = tuple[Ints, F32, Ints, Ints, F32, Ints]
"""Ends of rows; costs, POPs and links of candidates; demands and numbers of rows."""
BOX = 0.25
"""Of the window, how far prices may move: two of either of two candidates may move against it."""


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
    row: Ints
    """[m], ascending, which rows these are."""
    at: Ints
    """[n], the candidate of each settled row; of the others, any."""
    load: F64
    """[r], load of the settled rows."""
    settled_load: F64
    """[s + 1], the same by contested resource."""
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
    """Fill `kept` with row i's candidates that may be chosen; gives how many there are.

    With fewer than two, `kept` begins with the cheapest.
    """
    cost, pop, link, _ = market
    best = second = free = np.float32(np.inf)
    cheapest, cheapest_free = 0, -1
    for k in range(cost.shape[1]):
        priced[k] = np.float32(np.inf)
        if cost[i, k] > best + window:  # No price makes it cheaper.
            continue
        p, q = pop[i, k], link[i, k]
        priced[k] = cost[i, k] + (price[p] + price[q])
        if priced[k] < best:
            second = best
            best = priced[k]
            cheapest = k
        elif priced[k] < second:
            second = priced[k]
        if priced[k] < free and not contested[p] and not contested[q]:
            free = priced[k]
            cheapest_free = k
    kept[0] = cheapest
    limit = best + window
    if second > limit:
        return 1
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
    at: Ints,
    load: F64,
    first: int,
    last: int,
) -> tuple[int, int, float]:
    """Copy what is kept of some rows to where these rows begin in the buffers.

    Gives how many rows and candidates that are, and the cost of the settled rows; adds up the
    load of those.
    """
    cost, pop, link, demand = market
    end, kept_cost, kept_pop, kept_link, kept_demand, kept_row = out
    kept = np.empty(cost.shape[1], np.int64)
    priced = np.empty(cost.shape[1], np.float32)
    row, begin = first, first * cost.shape[1]
    filled = begin
    settled = 0.0
    for i in range(first, last):
        left = _keep(i, market, price, contested, window, priced, kept)
        if left < 2:
            k = kept[0]
            at[i] = k
            load[pop[i, k]] += demand[i]
            load[link[i, k]] += demand[i]
            settled += np.float64(demand[i]) * cost[i, k]
            continue
        for j in range(left):
            k = kept[j]
            kept_cost[filled] = cost[i, k]
            kept_pop[filled] = slot[pop[i, k]]
            kept_link[filled] = slot[link[i, k]]
            filled += 1
        kept_demand[row] = demand[i]
        kept_row[row] = i
        end[row] = filled - begin
        row += 1
    return row - first, filled - begin, settled


def prune(market: Market, price_us: F64, contested: Bools, window_us: float, crew: Crew) -> Pruned:
    """What of a market can still change while prices stay within the window of `price_us`."""
    (n, k), s = market.cost_us.shape, int(contested.sum())
    price, window = price_us.astype(np.float32), np.float32(window_us)
    kind = market.pop.dtype
    slot = np.full(len(contested), s, kind)
    slot[contested] = np.arange(s)
    rows = (market.cost_us, market.pop, market.link, market.demand)
    at = np.empty(n, np.int16)
    # Room for everything; what stays empty is never touched and so takes no memory.
    ends, amount, number = np.empty(n, np.int64), np.empty(n, np.float32), np.empty(n, np.int32)
    room = (np.empty(n * k, np.float32), np.empty(n * k, kind), np.empty(n * k, kind))
    out = (ends, *room, amount, number)

    def work(first: int, last: int) -> tuple[slice, slice, float, F64]:
        load = np.zeros(len(contested))
        m, e, cost = _prune(rows, price, contested, window, slot, out, at, load, first, last)
        return slice(first, first + m), slice(first * k, first * k + e), cost, load

    parts = crew.each(n, work)
    start, reached = [np.zeros(1, np.int64)], 0
    for mine, entries, _, _ in parts:
        start.append(ends[mine] + reached)
        reached += entries.stop - entries.start
    cost, pop, link = (np.concatenate([x[part[1]] for part in parts]) for x in room)
    load = np.sum([part[3] for part in parts], axis=0)
    return Pruned(
        np.flatnonzero(contested),
        np.concatenate(start),
        cost,
        pop,
        link,
        np.concatenate([amount[part[0]] for part in parts]),
        np.concatenate([number[part[0]] for part in parts]),
        at,
        load,
        np.bincount(slot, load, s + 1).astype(np.float64),
        sum(part[2] for part in parts),
    )
