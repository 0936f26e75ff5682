"""From prices to an assignment: one candidate for every row, within the capacities.

Rows choose their cheapest priced candidate; those that hesitate are rounded one by one, the
heaviest first, each so that the errors of those before it are made up for (error diffusion: Floyd
and Steinberg 1976). What is too full then lets go of the rows that lose least, and what has room
left takes the rows that gain most.

What rows pay is summed on the way, exact: the certificate is made of that. Rows that pruning has
settled are known already; of the others there are few.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.market import F32, F64, Arrays, Crew, Ints, Market
from aggregator.newton import OVERFLOW_US, supply
from aggregator.pruning import Pruned
from popsteer.kernel import kernel

CUTOFF = 7.0
"""In temperatures: candidates dearer than this above the cheapest are never chosen."""
DIFFUSED_US_MAX = 1_000.0
"""Softer choices than this are drawn by a fixed number of the row: there are so many that others
would change with every error, and nearly the same prices have to give nearly the same choices."""
PASSES_MAX = 8
GAIN_US_MIN = 20.0
"""Smaller gains are not worth a second look at a row."""
SPREADS_MAX = 6
"""Passes over all rows when not all fits."""
ENOUGH_MOVES = 5e-3
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
    open: Ints
    """The rows that hesitate between candidates, or might soon."""


@kernel
def _weigh(
    i: int, market: Arrays, price: F64, cutoff: float, temperature: float, weight: F64
) -> tuple[int, int, float]:
    """Row i's soft choice; the cheapest candidate, how many have a weight, and the least cost."""
    cost, pop, link, _ = market
    best = np.inf
    cheapest, near, whole = 0, 0, 0.0
    for c in range(cost.shape[1]):
        weight[c] = np.inf
        if cost[i, c] > best + cutoff:  # No price makes it cheaper.
            continue
        weight[c] = cost[i, c] + (price[pop[i, c]] + price[link[i, c]])
        if weight[c] < best:
            best = weight[c]
            cheapest = c
    for c in range(cost.shape[1]):
        near += weight[c] < best + cutoff
    if near > 1:
        for c in range(cost.shape[1]):
            inside = weight[c] < best + cutoff
            weight[c] = math.exp((best - weight[c]) / temperature) if inside else 0.0
            whole += weight[c]
        for c in range(cost.shape[1]):
            weight[c] /= whole
    return cheapest, near, best


@kernel
def _choose(
    market: Arrays,
    price: F64,
    temperature: float,
    rows: Ints,
    at: Ints,
    load: F64,
    soft: F64,
    torn: Ints,
    first: int,
    last: int,
) -> tuple[float, int]:
    """Choices of the rows that do not hesitate; the others are listed, with their soft load.

    Gives the sum of demand times the cheapest priced cost, and how many hesitate.
    """
    _, pop, link, demand = market
    weight = np.empty(pop.shape[1])
    value, count = 0.0, 0
    for i in rows[first:last]:
        k, near, best = _weigh(i, market, price, CUTOFF * temperature, temperature, weight)
        value += demand[i] * best
        at[i] = k
        if near < 2:
            load[pop[i, k]] += demand[i]
            load[link[i, k]] += demand[i]
            continue
        torn[first + count] = i
        count += 1
        for c in range(pop.shape[1]):
            soft[pop[i, c]] += demand[i] * weight[c]
            soft[link[i, c]] += demand[i] * weight[c]
    return value, count


@kernel
def _diffuse(
    market: Arrays,
    capacity: F64,
    price: F64,
    temperature: float,
    order: Ints,
    at: Ints,
    load: F64,
    error: F64,
) -> None:
    """Choices of the rows that hesitate, each so that the loads stay closest to the supply.

    Very soft ones are drawn.

    `error` is what is too much, with those that have not chosen yet where they want to be.
    """
    _, pop, link, demand = market
    weight = np.empty(pop.shape[1])
    for i in order:
        own = np.float64(demand[i])
        _weigh(i, market, price, CUTOFF * temperature, temperature, weight)
        for c in range(pop.shape[1]):
            error[pop[i, c]] -= own * weight[c]
            error[link[i, c]] -= own * weight[c]
        least, chosen = np.inf, 0
        # The golden ratio's multiples spread evenly over [0, 1) for neighbouring rows.
        mark = (i * 0.6180339887498949) % 1.0
        for c in range(pop.shape[1]):
            if weight[c] <= 0:
                continue
            if temperature > DIFFUSED_US_MAX:
                chosen = c
                mark -= weight[c]
                if mark <= 0:
                    break
                continue
            badness = 0.0
            for r in (pop[i, c], link[i, c]):
                if capacity[r] == np.inf:
                    continue
                # Room that nobody pays for may stay empty.
                after, before = error[r] + own, error[r]
                if price[r] <= 0:
                    after, before = max(after, 0.0), max(before, 0.0)
                badness += (after * after - before * before) / max(capacity[r], own)
            if badness < least:
                least = badness
                chosen = c
        at[i] = chosen
        for r in (pop[i, chosen], link[i, chosen]):
            error[r] += own
            load[r] += own


def choose(market: Market, price_us: F64, temperature_us: float, crew: Crew) -> Rounded:
    """What each row takes at these prices, and what the rows would pay."""
    rows = np.arange(len(market), dtype=np.int32)
    none = Rounded(np.empty(len(market), np.int16), np.zeros(len(market.capacity)), 0.0, rows)
    return _chosen(market, none, price_us, temperature_us, crew)


def choose_open(
    market: Market, pruned: Pruned, price_us: F64, temperature_us: float, crew: Crew
) -> Rounded:
    """The same, exact as long as no price has left its box since the market was pruned."""
    settled = pruned.settled_cost + float(pruned.load @ price_us)
    settled_rows = Rounded(pruned.at, pruned.load, settled, pruned.row)
    return _chosen(market, settled_rows, price_us, temperature_us, crew)


def _chosen(
    market: Market, rest: Rounded, price_us: F64, temperature_us: float, crew: Crew
) -> Rounded:
    """With the choices of the open rows added to those of the rest."""
    arrays = (market.cost_us, market.pop, market.link, market.demand)
    rows, at, r = rest.open, rest.at, len(market.capacity)
    torn = np.empty(len(rows), np.int32)

    def work(first: int, last: int) -> tuple[float, slice, F64, F64]:
        load, soft = np.zeros(r), np.zeros(r)
        value, count = _choose(
            arrays, price_us, temperature_us, rows, at, load, soft, torn, first, last
        )
        return value, slice(first, first + count), load, soft

    parts = crew.each(len(rows), work)
    load: F64 = rest.load + np.sum([part[2] for part in parts], axis=0)
    error = load + np.sum([part[3] for part in parts], axis=0) - supply(market.capacity, price_us)
    waiting = np.concatenate([torn[part[1]] for part in parts])
    # The heaviest first: what they leave uneven the light ones make even.
    order = waiting[np.argsort(-market.demand[waiting], kind="stable")]
    _diffuse(arrays, market.capacity, price_us, temperature_us, order, at, load, error)
    return Rounded(at, load, rest.value + sum(part[0] for part in parts), rows)


def expense(market: Market, at: Ints, crew: Crew) -> float:
    """Demand times cost of an assignment."""

    def work(first: int, last: int) -> float:
        return _expense(market.cost_us, market.demand, at, first, last)

    return sum(crew.each(len(market), work))


@kernel
def _expense(cost: F32, demand: F32, at: Ints, first: int, last: int) -> float:
    total = 0.0
    for i in range(first, last):
        total += np.float64(demand[i]) * cost[i, at[i]]
    return total


def weighed(market: Market, share: F64) -> tuple[F64, float]:
    """The load of shares, and demand times their cost."""
    load = np.zeros(len(market.capacity))
    arrays = (market.cost_us, market.pop, market.link, market.demand)
    return load, _weigh_shares(arrays, share, load)


@kernel
def _weigh_shares(market: Arrays, share: F64, load: F64) -> float:
    cost, pop, link, demand = market
    total = 0.0
    for i in range(len(demand)):
        for c in range(cost.shape[1]):
            own = share[i, c] * demand[i]
            if own > 0:
                load[pop[i, c]] += own
                load[link[i, c]] += own
                total += own * cost[i, c]
    return total


def worth(market: Market, price_us: F64, crew: Crew) -> float:
    """Demand times the cheapest priced cost, summed; less what the supply is paid, a bound."""
    arrays = (market.cost_us, market.pop, market.link, market.demand)

    def work(first: int, last: int) -> float:
        return _worth(arrays, price_us, first, last)

    return sum(crew.each(len(market), work))


@kernel
def _worth(market: Arrays, price: F64, first: int, last: int) -> float:
    cost, pop, link, demand = market
    total = 0.0
    for i in range(first, last):
        best = np.inf
        for c in range(cost.shape[1]):
            if cost[i, c] < best:
                best = min(best, cost[i, c] + (price[pop[i, c]] + price[link[i, c]]))
        total += demand[i] * best
    return total


@kernel
def _best_with_room(i: int, k: int, market: Arrays, price: F32, load: F64, room: F64) -> int:
    """Row i's least priced candidate with room for it, other than k; -1 when there is none."""
    cost, pop, link, demand = market
    best = np.float32(1e11)
    found = -1
    for c in range(cost.shape[1]):
        if c == k:
            continue
        p, q = pop[i, c], link[i, c]
        if p != pop[i, k] and load[p] + demand[i] > room[p]:
            continue
        if q != link[i, k] and load[q] + demand[i] > room[q]:
            continue
        priced = cost[i, c] + (price[p] + price[q])
        if priced < best:
            best = priced
            found = c
    return found


@kernel
def _scan(
    market: Arrays,
    price: F32,
    relief: bool,
    over: Bools,
    at: Ints,
    load: F64,
    open_to: F64,
    rows: Ints,
    row: Ints,
    key: F32,
    first: int,
    last: int,
) -> int:
    """Rows worth a move and what each loses by it, per demand; gives how many.

    With relief, rows at too full resources; else all those that would gain.
    """
    cost, pop, link, _ = market
    count = first
    for i in rows[first:last]:
        k = at[i]
        p, q = pop[i, k], link[i, k]
        if relief and not over[p] and not over[q]:
            continue
        own = cost[i, k] + (price[p] + price[q])
        if not relief:
            least = own
            for c in range(cost.shape[1]):
                least = min(least, cost[i, c])
            if least > own - np.float32(GAIN_US_MIN):
                continue
        c = _best_with_room(i, k, market, price, load, open_to)
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
    open_to: F64,
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
        c = _best_with_room(i, k, market, price, load, open_to)
        if c < 0 or (not relief and cost[i, c] > cost[i, k] - np.float32(GAIN_US_MIN)):
            continue
        load[p] -= own
        load[q] -= own
        load[pop[i, c]] += own
        load[link[i, c]] += own
        at[i] = c
        moved += 1
    return moved


@kernel
def _spread(market: Arrays, capacity: F64, overflow_us: float, at: Ints, load: F64) -> int:
    """Move each row that adds to an overflow to where it costs least, the overflow included."""
    cost, pop, link, demand = market
    moved = 0
    for i in range(len(demand)):
        k, own = at[i], np.float64(demand[i])
        if load[pop[i, k]] <= capacity[pop[i, k]] and load[link[i, k]] <= capacity[link[i, k]]:
            continue
        load[pop[i, k]] -= own
        load[link[i, k]] -= own
        least, chosen, stay = np.inf, k, np.inf
        for c in range(cost.shape[1]):
            added = own * cost[i, c]
            for r in (pop[i, c], link[i, c]):
                before = max(load[r] - capacity[r], 0.0)
                after = max(load[r] + own - capacity[r], 0.0)
                if after > 0:
                    bend = (after + before) / (2 * capacity[r])
                    added += overflow_us * (after - before) * (1 + bend)
            if c == k:
                stay = added
            if added < least:
                least = added
                chosen = c
        if least >= stay * (1 - 1e-6):
            chosen = k
        load[pop[i, chosen]] += own
        load[link[i, chosen]] += own
        moved += chosen != k
        at[i] = chosen
    return moved


def repair(market: Market, rounded: Rounded, price_us: F64, crew: Crew) -> None:
    """Move rows in place, until nothing is too full and no room is wasted on nobody.

    What finds no room anywhere displaces others, in every second pass after the first two. What is
    too full in spite of all that is spread at the least cost.
    """
    _make_fit(market, rounded, price_us, crew)
    arrays = (market.cost_us, market.pop, market.link, market.demand)
    enough = ENOUGH_MOVES * len(market) ** 0.8
    for _ in range(SPREADS_MAX):
        if not (rounded.load > market.capacity * FULL).any():
            return
        moved = _spread(arrays, market.capacity, OVERFLOW_US, rounded.at, rounded.load)
        if moved < enough:
            return


def _make_fit(market: Market, rounded: Rounded, price_us: F64, crew: Crew) -> None:
    """Rows that hesitate are moved first; the others only when those cannot make it fit."""
    room = supply(market.capacity, price_us)
    price = price_us.astype(np.float32)
    free: F32 = np.zeros_like(price)
    enough = ENOUGH_MOVES * len(market) ** 0.8
    short = bool((price_us > OVERFLOW_US).any())
    rows = rounded.open
    for number in range(2 if short else PASSES_MAX):
        over = rounded.load > room * FULL
        push = number >= 2 and number % 2 == 0
        relieved = gained = 0
        if number and over.any():
            rows = np.arange(len(market), dtype=np.int32)
        if over.any():
            open_to = np.where(over, room, np.inf) if push else room
            relief = _Relief(over, careful=number == 0)
            relieved = _pass(market, rounded, rows, price, room, open_to, crew, relief)
        if not (push and relieved):
            gained = _pass(market, rounded, rows, free, room, room, crew, None)
        if not relieved and gained < enough and not (number <= 1 and over.any()):
            return


@dataclass(frozen=True, slots=True)
class _Relief:
    """Rows leave what is too full; without it, they go where it is cheaper."""

    over: Bools
    """[r]"""
    careful: bool
    """No row leaves that is much larger than what is too much."""


def _pass(
    market: Market,
    rounded: Rounded,
    rows: Ints,
    price: F32,
    room: F64,
    open_to: F64,
    crew: Crew,
    relief: _Relief | None,
) -> int:
    """Move rows to what is open to them; gives how many were moved."""
    arrays = (market.cost_us, market.pop, market.link, market.demand)
    at, load = rounded.at, rounded.load
    over = np.zeros(len(room), np.bool_) if relief is None else relief.over
    row, key = np.empty(len(rows), np.int32), np.empty(len(rows), np.float32)
    out = relief is not None

    def scan(first: int, last: int) -> slice:
        count = _scan(arrays, price, out, over, at, load, open_to, rows, row, key, first, last)
        return slice(first, first + count)

    parts = crew.each(len(rows), scan)
    movers = np.concatenate([row[part] for part in parts])
    keys = np.concatenate([key[part] for part in parts])
    order = movers[np.argsort(keys, kind="stable")]
    careful = relief is not None and relief.careful
    return int(_move(arrays, price, out, careful, at, load, room, open_to, order))
