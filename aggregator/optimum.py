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
from aggregator.market import DEAR_US, F32, F64, Crew, Ints, Market, crew, resource_numbers
from aggregator.newton import level, overflow_cost, paid, supply
from aggregator.prices import clear, seek
from aggregator.rounding import choose
from aggregator.solve import NOWHERE, Assignment, Problem, piece_counts
from popsteer.kernel import kernel

EXACT_ROWS_MAX = 20_000
"""Larger problems are not solved exactly: prices and rounding are faster there and as good."""
EXACT_SHORT_ROWS_MAX = 2_000
"""The same when not all demand fits: every resource has a price then, and pieces of overflow."""
REVERT_PASSES_MAX = 4
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
    usable = np.isfinite(problem.cost_us.min(axis=1, initial=np.inf))
    p = len(problem.capacity_bps)
    if not usable.any():
        nothing = np.zeros(problem.cost_us.shape)
        return Assignment(nothing, np.zeros(p), np.zeros(p), np.nan)
    capacity = _capacity(problem)
    with crew() as workers:
        offer, share, price = _solve(problem, usable, capacity, workers)
        share = _with_few_moves(problem, offer, share, price)
        least = _least(problem, usable, capacity, price, workers)
    n, k = problem.cost_us.shape
    where = offer.row[:, None] * k + np.arange(k)
    part = (share * offer.part[:, None]).ravel()
    whole = np.asarray(np.bincount(where.ravel(), part, n * k), np.float64).reshape(n, k)
    load = _load(offer.market, share)
    bound = least - overflow_cost(capacity, load)
    return Assignment(
        whole,
        load[:p],
        price[:p],
        bound / float(offer.market.demand.sum(dtype=np.float64)),
        price[p:-1],
    )


def _capacity(problem: Problem) -> F64:
    """[p + l + 1]: POPs, links, and what candidates without a link use."""
    links = np.zeros(0) if problem.link_bps is None else problem.link_bps
    return np.concatenate([problem.capacity_bps, links, [np.inf]])


def _solve(
    problem: Problem, usable: NDArray[np.bool_], capacity: F64, workers: Crew
) -> tuple[_Offer, F64, F64]:
    """The offer, [m, k] the shares of its rows, and the prices."""
    warm = _warm(problem, capacity)
    rows = np.count_nonzero(usable)
    if rows <= EXACT_ROWS_MAX:
        offer = _offer(problem, usable, capacity, cut=False)
        if rows <= EXACT_SHORT_ROWS_MAX or not level(offer.market).any():
            price, _ = seek(offer.market, workers, warm)
            solved = exact.solve(offer.market, price)
            if solved is not None:
                return offer, solved.share, solved.price_us
            warm = price
    offer = _offer(problem, usable, capacity, cut=True)
    cleared = clear(offer.market, workers, warm)
    share = np.zeros(offer.market.cost_us.shape)
    share[np.arange(len(share)), cleared.at] = 1.0
    return offer, share, cleared.price_us


def _warm(problem: Problem, capacity: F64) -> F64 | None:
    if problem.warm_us is None:
        return None
    links = len(capacity) - 1 - len(problem.capacity_bps)
    known = np.zeros(links) if problem.warm_link_us is None else problem.warm_link_us
    return np.concatenate([problem.warm_us, known, [0.0]])


def _offer(problem: Problem, usable: NDArray[np.bool_], capacity: F64, *, cut: bool) -> _Offer:
    """One row for each POP that a prefix is at; cut also into pieces that are not too large."""
    row, present, part = _parts(problem, usable)
    if cut:
        count = np.maximum(np.ceil(piece_counts(problem)[row] * part - 1e-9), 1).astype(np.int64)
        row, present, part = (np.repeat(x, count) for x in (row, present, part / count))
    k = problem.cost_us.shape[1]
    stays = (present == NOWHERE)[:, None] | (present[:, None] == np.arange(k))
    cost = problem.cost_us[row] + np.where(stays, 0.0, problem.move_us[row])
    demand = _demand(problem)[row] * part
    return _Offer(_market(problem, row, cost, demand, capacity), row, present, part)


def _parts(problem: Problem, usable: NDArray[np.bool_]) -> tuple[Ints, Ints, F64]:
    """Prefix, present candidate and share of each part; what is nowhere yet is a part, too."""
    row, present = np.nonzero((problem.present > 0) & usable[:, None])
    rest = 1 - problem.present.sum(axis=1)
    new = np.flatnonzero(usable & (rest > 1e-6))
    rows = np.concatenate([row, new])
    columns = np.concatenate([present, np.full(len(new), NOWHERE)])
    part = np.concatenate([problem.present[row, present], rest[new]])
    order = np.argsort(rows, kind="stable")
    whole = np.bincount(rows, part, len(usable))
    return rows[order], columns[order], (part / whole[rows])[order]


def _demand(problem: Problem) -> F64:
    mean = float(problem.demand_bps.mean()) or 1.0
    return np.maximum(problem.demand_bps, DEMAND_MIN * mean)


def _market(problem: Problem, row: Ints, cost: F64, demand: F64, capacity: F64) -> Market:
    nothing = len(capacity) - 1
    pop = np.maximum(problem.pop, 0)
    link = np.full(pop.shape, nothing)
    if problem.link is not None:
        first = len(problem.capacity_bps)
        link = np.where(problem.link >= 0, first + problem.link, nothing)
    pops, links = (resource_numbers(number[row], len(capacity)) for number in (pop, link))
    dear: F32 = np.minimum(cost, float(DEAR_US)).astype(np.float32)
    return Market(dear, pops, links, demand.astype(np.float32), capacity)


def _least(
    problem: Problem, usable: NDArray[np.bool_], capacity: F64, price: F64, workers: Crew
) -> float:
    """The dual value without what moving costs: the bound holds for those who may move freely."""
    row = np.flatnonzero(usable)
    market = _market(problem, row, problem.cost_us[row], _demand(problem)[row], capacity)
    return choose(market, price, 1.0, workers).value - paid(capacity, price)


def _load(market: Market, share: F64) -> F64:
    """[r]."""
    r = len(market.capacity)
    amount = (share * market.demand[:, None]).ravel()
    load = np.bincount(market.pop.ravel(), amount, r)
    return np.asarray(load + np.bincount(market.link.ravel(), amount, r), np.float64)


def _with_few_moves(problem: Problem, offer: _Offer, share: F64, price: F64) -> F64:
    """The shares after taking back moves for gain beyond the bound, those of least gain first.

    What has to leave a POP or link that is too full moves for need, not for gain.
    """
    market = offer.market
    mine = np.maximum(offer.present, 0)
    line = np.arange(len(mine))
    able = (offer.present != NOWHERE) & (market.cost_us[line, mine] < DEAR_US)
    moved = np.where(able, market.demand * (1 - share[line, mine]), 0.0)
    before = np.zeros(share.shape)
    before[line[able], mine[able]] = 1.0
    need = float(np.maximum(_load(market, before) - market.capacity, 0.0).sum())
    allowed = need + problem.move_share_max * float(market.demand.sum(dtype=np.float64))
    excess = float(moved.sum()) - allowed
    if excess <= 0:
        return share
    priced = market.cost_us + (price[market.pop] + price[market.link])
    gain = priced[line, mine] - (priced * share).sum(axis=1)
    movers = np.flatnonzero(moved > 0)
    order = movers[np.argsort(gain[movers], kind="stable")]
    share, load = share.copy(), _load(market, share)
    arrays = (market.pop, market.link, market.demand)
    room = supply(market.capacity, price)
    for _ in range(REVERT_PASSES_MAX):
        left = _take_back(arrays, order, offer.present, room, share, load, excess)
        if left <= 0 or left == excess:
            break
        excess = left
    return share


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
