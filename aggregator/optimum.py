"""The optimum policy: the least demand-weighted cost under the capacities of POPs and links.

Small problems are solved exactly, large ones by prices and rounding (`aggregator.prices`); heavy
prefixes are then cut into pieces, which become the shares of a weighted answer. What moving costs
is part of the cost. What does not fit overflows at a convex cost, so that an overload is spread.
Moves for gain are bounded; those of least gain are taken back first.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator import exact
from aggregator.market import DEAR_US, F32, F64, Arrays, Crew, Ints, Market, crew, resource_kind
from aggregator.newton import level, overflow_cost, paid, supply
from aggregator.prices import clear, seek
from aggregator.rounding import worth
from aggregator.solve import NOWHERE, Assignment, Problem, piece_counts
from popsteer.kernel import kernel

EXACT_ROWS_MAX = 20_000
"""Larger problems are not solved exactly: prices and rounding are faster there and as good."""
EXACT_SHORT_ROWS_MAX = 2_000
"""The same when not all demand fits: every resource has a price then, and pieces of overflow."""
REVERT_PASSES_MAX = 4
REST_MIN = 1e-6
"""Of a prefix, what is less than this is not new."""
DEMAND_MIN = 1e-9
"""Of the mean demand: what a prefix counts for that nobody asked for."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """A problem as a market: the rows are parts of prefixes that are at one POP now."""

    market: Market
    row: Ints
    """[m], the prefix of each part."""
    present: Ints
    """[m], the candidate that it has now; NOWHERE is new."""
    part: F64
    """[m], its share of the prefix."""


def optimum(problem: Problem) -> Assignment:
    """The least cost, exact or near it, with the prices and the lower bound that show it."""
    usable = _usable(problem.cost_us)
    p = len(problem.capacity_bps)
    if not usable.any():
        nothing = np.zeros(problem.cost_us.shape)
        return Assignment(nothing, np.zeros(p), np.zeros(p), np.nan)
    capacity = problem.resource_bps
    with crew() as workers:
        offer, share, price = _solve(problem, usable, capacity, workers)
        share = _with_few_moves(problem, offer, share, price)
        least = _least(problem, capacity, price, workers)
        moving = worth(offer.market, price, workers) - paid(capacity, price)
    whole = np.zeros(problem.cost_us.shape)
    _put_together(offer.row, offer.part, share, whole)
    load = _load(offer.market, share)
    over = overflow_cost(capacity, load)
    demand = float(offer.market.demand.sum(dtype=np.float64))
    bounds = (least - over) / demand, (moving - over) / demand
    return Assignment(whole, load[:p], price[:p], bounds[0], price[p:-1], bounds[1])


@kernel
def _usable(cost: F64) -> NDArray[np.bool_]:
    """[n], prefixes with a candidate that can be used."""
    n, k = cost.shape
    usable = np.zeros(n, np.bool_)
    for i in range(n):
        for c in range(k):
            if cost[i, c] < np.inf:
                usable[i] = True
                break
    return usable


@kernel
def _put_together(row: Ints, part: F64, share: F64, whole: F64) -> None:
    """Adds up the parts of each prefix."""
    for j in range(len(row)):
        for c in range(share.shape[1]):
            whole[row[j], c] += part[j] * share[j, c]


def _solve(
    problem: Problem, usable: NDArray[np.bool_], capacity: F64, workers: Crew
) -> tuple[_Offer, F64, F64]:
    """The offer, [m, k] the shares of its rows, and the prices."""
    warm = _warm(problem, capacity)
    rows = np.count_nonzero(usable)
    if rows <= EXACT_ROWS_MAX:
        offer = _offer(problem, usable, capacity, workers, cut=False)
        if rows <= EXACT_SHORT_ROWS_MAX or not level(offer.market).any():
            price, _ = seek(offer.market, workers, warm)
            solved = exact.solve(offer.market, price)
            if solved is not None:
                return offer, solved.share, solved.price_us
            warm = price
    offer = _offer(problem, usable, capacity, workers, cut=True)
    cleared = clear(offer.market, workers, warm)
    share = cleared.share(offer.market.cost_us.shape[1])
    return offer, share, cleared.price_us


def _warm(problem: Problem, capacity: F64) -> F64 | None:
    if problem.warm_us is None:
        return None
    links = len(capacity) - 1 - len(problem.capacity_bps)
    known = np.zeros(links) if problem.warm_link_us is None else problem.warm_link_us
    return np.concatenate([problem.warm_us, known, [0.0]])


def _offer(
    problem: Problem, usable: NDArray[np.bool_], capacity: F64, workers: Crew, *, cut: bool
) -> _Offer:
    """One row for each POP that a prefix is at; cut also into pieces that are not too large."""
    pieces = piece_counts(problem) if cut else np.ones(len(usable), np.int64)
    nothing = np.zeros(0, np.int32), np.zeros(0, np.int16), np.zeros(0)
    m = _cut(problem.present, usable, pieces, *nothing)
    row, present, part = np.empty(m, np.int32), np.empty(m, np.int16), np.empty(m)
    _cut(problem.present, usable, pieces, row, present, part)
    shape = m, problem.cost_us.shape[1]
    kind = resource_kind(len(capacity))
    arrays = (
        np.empty(shape, np.float32),
        np.empty(shape, kind),
        np.empty(shape, kind),
        np.empty(m, np.float32),
    )
    link = np.full((1, shape[1]), NOWHERE) if problem.link is None else problem.link
    given = (problem.cost_us, problem.move_us, problem.pop, link, _demand(problem))
    first = len(problem.capacity_bps)

    def work(begin: int, end: int) -> None:
        _fill(given, row, present, part, first, len(capacity) - 1, arrays, begin, end)

    workers.each(m, work)
    return _Offer(Market(*arrays, capacity), row, present, part)


@kernel
def _cut(
    present: F64,
    usable: NDArray[np.bool_],
    pieces: Ints,
    row: Ints,
    at: Ints,
    part: F64,
) -> int:
    """Prefix, present candidate and share of each piece, as far as there is room for them.

    What is nowhere yet is a part, too. Gives how many pieces there are.
    """
    n, k = present.shape
    filled = 0
    for i in range(n):
        if not usable[i]:
            continue
        held = 0.0
        for c in range(k):
            held += present[i, c]
        rest = 1 - held if 1 - held > REST_MIN else 0.0
        for c in range(k + 1):
            share = (present[i, c] if c < k else rest) / (held + rest)
            if share <= 0:
                continue
            count = max(int(np.ceil(pieces[i] * share - 1e-9)), 1)
            for j in range(filled, min(filled + count, len(row))):
                row[j] = i
                at[j] = c if c < k else NOWHERE
                part[j] = share / count
            filled += count
    return filled


@kernel
def _fill(
    given: tuple[F64, F64, Ints, Ints, F64],
    row: Ints,
    present: Ints,
    part: F64,
    first_link: int,
    nothing: int,
    into: Arrays,
    first: int,
    last: int,
) -> None:
    """Rows of a market: costs with what moving costs, and numbers of resources."""
    cost, move, pop, link, demand = given
    into_cost, into_pop, into_link, into_demand = into
    for j in range(first, last):
        i = row[j]
        linked = len(link) == len(cost)
        for c in range(cost.shape[1]):
            moving = present[j] != NOWHERE and present[j] != c
            own = cost[i, c] + (move[i, c] if moving else 0.0)
            into_cost[j, c] = min(own, DEAR_US)
            into_pop[j, c] = max(pop[i, c], 0)
            through = link[i, c] if linked else NOWHERE
            into_link[j, c] = first_link + through if through != NOWHERE else nothing
        into_demand[j] = demand[i] * part[j]


def _demand(problem: Problem) -> F64:
    mean = float(problem.demand_bps.mean()) or 1.0
    return np.maximum(problem.demand_bps, DEMAND_MIN * mean)


def _least(problem: Problem, capacity: F64, price: F64, workers: Crew) -> float:
    """The dual value without what moving costs: the bound holds for those who may move freely."""
    p, link = len(problem.capacity_bps), problem.link
    at_link = np.full((1, problem.pop.shape[1]), NOWHERE) if link is None else link
    given = (problem.cost_us, problem.pop, at_link, _demand(problem))

    def work(first: int, last: int) -> float:
        return _cheapest(given, price[:p], price[p:], first, last)

    return sum(workers.each(len(problem.pop), work)) - paid(capacity, price)


@kernel
def _cheapest(
    given: tuple[F64, Ints, Ints, F64], pop_us: F64, link_us: F64, first: int, last: int
) -> float:
    """Demand times the cheapest priced cost, summed."""
    cost, pop, link, demand = given
    linked = len(link) == len(cost)
    value = 0.0
    for i in range(first, last):
        best = np.inf
        for c in range(cost.shape[1]):
            if cost[i, c] >= best:  # No price makes it cheaper.
                continue
            priced = cost[i, c] + pop_us[pop[i, c]]
            if linked and link[i, c] != NOWHERE:
                priced += link_us[link[i, c]]
            best = min(best, priced)
        if best < np.inf:
            value += demand[i] * best
    return value


def _load(market: Market, share: F64) -> F64:
    """[r]."""
    load = np.zeros(len(market.capacity))
    _add_up(market.pop, market.link, market.demand, share, load)
    return load


@kernel
def _add_up(pop: Ints, link: Ints, demand: F32, share: F64, load: F64) -> None:
    """The load of shares."""
    for i in range(len(demand)):
        for c in range(share.shape[1]):
            if share[i, c] > 0:
                load[pop[i, c]] += share[i, c] * demand[i]
                load[link[i, c]] += share[i, c] * demand[i]


def _with_few_moves(problem: Problem, offer: _Offer, share: F64, price: F64) -> F64:
    """The shares after taking back moves for gain beyond the bound, those of least gain first.

    What has to leave a POP or link that is too full moves for need, not for gain.
    """
    market, n = offer.market, len(offer.present)
    arrays = (market.cost_us, market.pop, market.link, market.demand)
    moved, gain = np.zeros(n), np.zeros(n)
    before = np.zeros(len(market.capacity))
    _weigh(arrays, price, offer.present, share, moved, gain, before)
    need = float(np.maximum(before - market.capacity, 0.0).sum())
    allowed = need + problem.move_share_max * float(market.demand.sum(dtype=np.float64))
    excess = float(moved.sum()) - allowed
    if excess <= 0:
        return share
    movers = np.flatnonzero(moved > 0)
    order = movers[np.argsort(gain[movers], kind="stable")]
    share, load = share.copy(), _load(market, share)
    room = supply(market.capacity, price)
    for _ in range(REVERT_PASSES_MAX):
        left = _take_back(arrays[1:], order, offer.present, room, share, load, excess)
        if left <= 0 or left == excess:
            break
        excess = left
    return share


@kernel
def _weigh(
    market: Arrays,
    price: F64,
    present: Ints,
    share: F64,
    moved: F64,
    gain: F64,
    before: F64,
) -> None:
    """Of each row, the demand that moves for gain and what it gains, and the load without moves."""
    cost, pop, link, demand = market
    for i in range(len(demand)):
        here = present[i]
        if here == NOWHERE or cost[i, here] >= DEAR_US:
            continue
        before[pop[i, here]] += demand[i]
        before[link[i, here]] += demand[i]
        moved[i] = demand[i] * (1 - share[i, here])
        gain[i] = cost[i, here] + (price[pop[i, here]] + price[link[i, here]])
        for c in range(share.shape[1]):
            if share[i, c] > 0:
                gain[i] -= share[i, c] * (cost[i, c] + (price[pop[i, c]] + price[link[i, c]]))


@kernel
def _take_back(
    market: tuple[Ints, Ints, F32],
    order: Ints,
    present: Ints,
    room: F64,
    share: F64,
    load: F64,
    excess: float,
) -> float:
    """Return rows to where they are, where there is room; gives what is still moved too much."""
    pop, link, demand = market
    for i in order:
        if excess <= 0:
            break
        here = present[i]
        back = demand[i] * (1 - share[i, here])
        if back <= 0:
            continue
        p, q = pop[i, here], link[i, here]
        if load[p] + back > room[p] or load[q] + back > room[q]:
            continue
        for c in range(pop.shape[1]):
            load[pop[i, c]] -= demand[i] * share[i, c]
            load[link[i, c]] -= demand[i] * share[i, c]
            share[i, c] = 0.0
        share[i, here] = 1.0
        load[p] += demand[i]
        load[q] += demand[i]
        excess -= back
    return excess
