"""From prices to an assignment: one candidate for every row, within the capacities.

Rows choose their cheapest priced candidate; those that hesitate are rounded one way or another by
a fixed number of the row, so that the same prices give the same choice. What is too full then
lets go of the rows that lose least, and what has room left takes the rows that gain most.

The pass over all rows also gives what they pay, exact: the certificate is made of that.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.kernel import kernel
from aggregator.market import F32, F64, Arrays, Crew, Ints, Market
from aggregator.newton import supply

PASSES_MAX = 4
GAIN_US_MIN = 20.0
"""Smaller gains are not worth a second look at a row."""
ENOUGH_MOVES = 1e-3
"""Passes end when fewer rows than this, of n^0.8, still move."""
FULL = 1 + 1e-6

Bools = NDArray[np.bool_]


@dataclass(slots=True)
class Rounded:
    """A choice for each row; the repair works on it in place."""

    at: Ints
    """[n], the candidate."""
    load: F64
    """[r]"""
    value: float
    """Demand times the cheapest priced cost, summed; less what the supply is paid, a bound."""


@kernel
def _choose(
    cost: F32,
    pop: Ints,
    link: Ints,
    demand: F32,
    price: F64,
    temperature: float,
    at: Ints,
    load: F64,
    first: int,
    last: int,
) -> float:
    """Soft choices, rounded; gives the sum of demand times the cheapest priced cost."""
    k = cost.shape[1]
    priced = np.empty(k)
    value = 0.0
    for i in range(first, last):
        best = np.inf
        chosen = 0
        for c in range(k):
            priced[c] = cost[i, c] + (price[pop[i, c]] + price[link[i, c]])
            if priced[c] < best:
                best = priced[c]
                chosen = c
        value += demand[i] * best
        whole = 0.0
        near = 0
        for c in range(k):
            excess = (priced[c] - best) / temperature
            priced[c] = 0.0
            if excess < 7.0:
                priced[c] = math.exp(-excess)
                whole += priced[c]
                near += 1
        if near > 1:
            # The golden ratio's multiples spread evenly over [0, 1) for neighbouring rows.
            mark = ((i * 0.6180339887498949) % 1.0) * whole
            for c in range(k):
                mark -= priced[c]
                if priced[c] > 0 and mark <= 0:
                    chosen = c
                    break
        at[i] = chosen
        load[pop[i, chosen]] += demand[i]
        load[link[i, chosen]] += demand[i]
    return value


def choose(market: Market, price_us: F64, temperature_us: float, crew: Crew) -> Rounded:
    """What each row takes at these prices, and what the rows would pay."""
    at = np.empty(len(market), np.int16)
    arrays = (market.cost_us, market.pop, market.link, market.demand)

    def work(first: int, last: int) -> tuple[float, F64]:
        load = np.zeros(len(market.capacity))
        return _choose(*arrays, price_us, temperature_us, at, load, first, last), load

    parts = crew.each(len(market), work)
    load: F64 = np.sum([part[1] for part in parts], axis=0)
    value = sum(part[0] for part in parts)
    return Rounded(at, load, value)


@kernel
def _best_with_room(
    cost: F32,
    pop: Ints,
    link: Ints,
    price: F32,
    k: int,
    demand: np.float32,
    load: F64,
    room: F64,
) -> int:
    """Another candidate with room for the row and the least priced cost; -1 when there is none."""
    best = np.float32(1e11)
    found = -1
    for c in range(len(cost)):
        if c == k:
            continue
        p, q = pop[c], link[c]
        if p != pop[k] and load[p] + demand > room[p]:
            continue
        if q != link[k] and load[q] + demand > room[q]:
            continue
        priced = cost[c] + (price[p] + price[q])
        if priced < best:
            best = priced
            found = c
    return found


@kernel
def _scan(
    market: Arrays,
    price: F32,
    relief: bool,
    at: Ints,
    load: F64,
    room: F64,
    row: Ints,
    key: F32,
    first: int,
    last: int,
) -> int:
    """Rows worth a move and what each loses by it, per demand; gives how many.

    With relief, rows at too full resources; else all those that would gain.
    """
    cost, pop, link, demand = market
    count = first
    for i in range(first, last):
        k = at[i]
        p, q = pop[i, k], link[i, k]
        own = cost[i, k] + (price[p] + price[q])
        if relief:
            if load[p] <= room[p] * FULL and load[q] <= room[q] * FULL:
                continue
        else:
            least = own
            for c in range(cost.shape[1]):
                least = min(least, cost[i, c])
            if least > own - np.float32(GAIN_US_MIN):
                continue
        c = _best_with_room(cost[i], pop[i], link[i], price, k, demand[i], load, room)
        if c < 0:
            continue
        loss = cost[i, c] + (price[pop[i, c]] + price[link[i, c]]) - own
        if relief or loss < -np.float32(GAIN_US_MIN):
            row[count] = i
            key[count] = loss
            count += 1
    return count - first


@kernel
def _move(
    market: Arrays,
    price: F32,
    relief: bool,
    careful: bool,
    at: Ints,
    load: F64,
    room: F64,
    order: Ints,
) -> int:
    """Move rows, in this order, as long as it helps; gives how many were moved."""
    cost, pop, link, demand = market
    moved = 0
    for i in order:
        k = at[i]
        p, q, own = pop[i, k], link[i, k], demand[i]
        if relief:
            over = max(load[p] - room[p], load[q] - room[q])
            if over <= 0 or (careful and own > 1.5 * over):
                continue
        c = _best_with_room(cost[i], pop[i], link[i], price, k, own, load, room)
        if c < 0 or (not relief and cost[i, c] > cost[i, k] - np.float32(GAIN_US_MIN)):
            continue
        load[p] -= own
        load[q] -= own
        load[pop[i, c]] += own
        load[link[i, c]] += own
        at[i] = c
        moved += 1
    return moved


def repair(market: Market, rounded: Rounded, price_us: F64, crew: Crew) -> None:
    """Move rows in place, until nothing is too full and no room is wasted on nobody."""
    room = supply(market.capacity, price_us)
    price = price_us.astype(np.float32)
    free: F32 = np.zeros_like(price)
    enough = ENOUGH_MOVES * len(market) ** 0.8
    for number in range(PASSES_MAX):
        relieved = _pass(market, rounded, price, room, crew, relief=True, careful=number == 0)
        gained = _pass(market, rounded, free, room, crew, relief=False, careful=False)
        if not relieved and gained < enough:
            return


def _pass(
    market: Market,
    rounded: Rounded,
    price: F32,
    room: F64,
    crew: Crew,
    *,
    relief: bool,
    careful: bool,
) -> int:
    if relief and not (rounded.load > room * FULL).any():
        return 0
    arrays = (market.cost_us, market.pop, market.link, market.demand)
    at, load = rounded.at, rounded.load
    row, key = np.empty(len(market), np.int32), np.empty(len(market), np.float32)

    def scan(first: int, last: int) -> slice:
        count = _scan(arrays, price, relief, at, load, room, row, key, first, last)
        return slice(first, first + count)

    parts = crew.each(len(market), scan)
    rows = np.concatenate([row[part] for part in parts])
    keys = np.concatenate([key[part] for part in parts])
    order = rows[np.argsort(keys, kind="stable")]
    return int(_move(arrays, price, relief, careful, at, load, room, order))
