"""Prices of scarce capacity: the dual of the assignment problem, by a smoothed Newton method.

Minimising sum d_i c_ik x_ik under load_r <= C_r is a linear programme. What does not fit overflows
at a convex cost, `OVERFLOW_US` for the first bit above the capacity and more for every further
one, so that an overload is spread. The dual function

    D(q) = sum_i d_i min_k (c_ik + q_pop + q_link) - sum_r (C_r q_r + G_r max(q_r - M, 0)^2 / 2)

with M = `OVERFLOW_US` and G_r = C_r / M is a lower bound for whatever prices q >= 0, so each
solution carries its own certificate. D is concave with kinks; with the minimum replaced by a soft
one of temperature t, its gradient is load less supply and its Hessian is cheap, so that Newton's
method finds the top in few steps. Low and Lapsley, "Optimization flow control" (1999), give the
economics; Nesterov, "Smooth minimization of non-smooth functions" (2005), the smoothing.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from aggregator.market import F32, F64, Crew, Ints, Market
from aggregator.pruning import Pruned
from popsteer.kernel import kernel

OVERFLOW_US = 1_000_000.0
"""No capacity is worth more than this while the demand fits: it is more than any two paths
differ."""
PRICE_US_MAX = 5 * OVERFLOW_US
CUTOFF = 9.0
"""In temperatures: candidates dearer than this above the cheapest have no weight (e^-9)."""
RIDGE = 1e-2
"""Relative regularisation of the Hessian: resources that few rows hesitate about have little."""
RIDGE_MAX, RIDGE_GROWTH = 1.0, 10.0
"""It grows where no step climbs, as one cut at the trust may not: the more of it, the more each
price goes its own way up."""
RIDGE_CAPACITY = 2e-3
"""The same, in capacities per `OVERFLOW_US`: for those that nobody hesitates about."""
TRUST_TEMPERATURES = 4.0
"""A first step is at most this many temperatures long; full steps make the next ones longer."""
TRUST_GROWTH = 2.0
BACKTRACK, BACKTRACKS_MAX = 0.35, 5


@dataclass(frozen=True, slots=True)
class Slope:
    """The smoothed dual at some prices."""

    value: float
    gradient: F64
    """[s], load less supply."""
    hessian: F32
    """[s, s], of the negated dual, without the supply's part; its lower triangle."""


@dataclass(frozen=True, slots=True)
class Found:
    """Prices, and whether the box that they had to stay in kept them from better ones."""

    price_us: F64
    """[r]"""
    held: int
    """How many prices stand at the border of the box."""


def supply(capacity: F64, price_us: F64) -> F64:
    """What is offered at a price: the capacity, and above `OVERFLOW_US` more than that."""
    stretch: F64 = 1 + np.maximum(price_us - OVERFLOW_US, 0.0) / OVERFLOW_US
    return capacity * stretch


def paid(capacity: F64, price_us: F64) -> float:
    """What the supply earns: the integral of `supply` over the prices."""
    limited = np.isfinite(capacity)
    capacity, price = capacity[limited], price_us[limited]
    above = np.maximum(price - OVERFLOW_US, 0.0)
    return float(capacity @ (price + above * above / (2 * OVERFLOW_US)))


def level(market: Market) -> F64:
    """[r], the same price for all POPs at which they offer what is wanted; 0 while there is room.

    When less than all demand fits, all prices rise above `OVERFLOW_US`; from here Newton's method
    has only their differences to find.
    """
    price = np.zeros(len(market.capacity))
    used = np.zeros(len(price), np.bool_)
    _mark(market.pop, used)
    whole = float(market.capacity[used].sum())
    short = float(market.demand.sum(dtype=np.float64)) / whole if whole > 0 else np.inf
    if short > 1:
        price[used] = min(short * OVERFLOW_US, PRICE_US_MAX)
    return np.where(market.limited, price, 0.0)


@kernel
def _mark(number: Ints, used: NDArray[np.bool_]) -> None:
    """Which numbers occur."""
    n, k = number.shape
    for i in range(n):
        for c in range(k):
            used[number[i, c]] = True


def overflow_cost(capacity: F64, load: F64) -> float:
    """What load above the capacities costs: the convex cost that the prices answer to."""
    over = np.where(np.isfinite(capacity), np.maximum(load - capacity, 0.0), 0.0)
    hit = over > 0
    with np.errstate(divide="ignore"):
        more = over[hit] / (2 * capacity[hit])
    return float((OVERFLOW_US * over[hit] * (1 + more)).sum())


@kernel
def _subtract(hessian: F32, row: int, column: int, amount: np.float32) -> None:
    """Of an entry and its mirror, the one in the lower triangle; of the diagonal, both."""
    if row == column:
        hessian[row, row] -= amount + amount
    else:
        hessian[max(row, column), min(row, column)] -= amount


@kernel
def _soften(
    pruned: tuple[Ints, F32, Ints, Ints, F32],
    widest: int,
    price: F32,
    temperature: np.float32,
    load: F64,
    hessian: F32,
    first: int,
    last: int,
) -> float:
    """Adds up load and the Hessian's lower triangle; gives demand times the soft minimum."""
    start, cost, pop, link, demand = pruned
    weight = np.empty(widest, np.float32)
    at = np.empty(widest, np.int64)
    inverse = np.float32(1) / temperature
    value = 0.0
    for i in range(first, last):
        best = np.float32(np.inf)
        for e in range(start[i], start[i + 1]):
            best = min(best, cost[e] + (price[pop[e]] + price[link[e]]))
        near = 0
        whole = np.float32(0)
        for e in range(start[i], start[i + 1]):
            excess = (cost[e] + (price[pop[e]] + price[link[e]]) - best) * inverse
            if excess < np.float32(CUTOFF):
                weight[near] = np.float32(math.exp(-excess))
                whole += weight[near]
                at[near] = e
                near += 1
        value += np.float64(demand[i]) * (best - temperature * np.float32(math.log(whole)))
        for a in range(near):
            weight[a] /= whole
            load[pop[at[a]]] += demand[i] * weight[a]
            load[link[at[a]]] += demand[i] * weight[a]
        if near < 2:
            continue
        for a in range(near):
            p, q = pop[at[a]], link[at[a]]
            scaled = demand[i] * inverse * weight[a]
            own = scaled * (np.float32(1) - weight[a])
            hessian[p, p] += own
            hessian[q, q] += own
            _subtract(hessian, p, q, -own)
            for b in range(a):
                both = scaled * weight[b]
                p2, q2 = pop[at[b]], link[at[b]]
                _subtract(hessian, p, p2, both)
                _subtract(hessian, p, q2, both)
                _subtract(hessian, q, p2, both)
                _subtract(hessian, q, q2, both)
    return value


class Ascent:
    """Newton's method on the smoothed dual of a pruned market."""

    def __init__(self, market: Market, pruned: Pruned, crew: Crew) -> None:
        self._pruned = pruned
        self._crew = crew
        self._capacity = market.capacity[pruned.contested]
        self._floor = float(market.demand.sum(dtype=np.float64)) * 1e-9
        self._demand = float(market.demand.sum(dtype=np.float64))
        self._widest = market.cost_us.shape[1]
        self._arrays = (pruned.start, pruned.cost_us, pruned.pop, pruned.link, pruned.demand)

    def climb(
        self, price_us: F64, temperature: float, steps_max: int, tolerance: float, box_us: float
    ) -> Found:
        """Prices near the top, no further than the box from where it began.

        It ends when the load beyond the supply is below `tolerance` of all demand.
        """
        price = price_us[self._pruned.contested]
        low = np.maximum(price - box_us, 0.0)
        high = np.minimum(price + box_us, PRICE_US_MAX)
        trust, ridge = TRUST_TEMPERATURES * temperature, RIDGE
        here = self._slope(price, temperature)
        for _ in range(steps_max):
            up = here.gradient > 0
            free = ((price > low) | up) & ((price < high) | ~up)
            if np.abs(here.gradient[free]).sum() < tolerance * self._demand:
                break
            step = np.zeros(len(price))
            step[free] = np.clip(self._direction(here, price, free, ridge), -trust, trust)
            found = self._search(price, step, low, high, here, temperature)
            if found is None and ridge >= RIDGE_MAX:
                break
            if found is None:
                ridge *= RIDGE_GROWTH
                continue
            ridge = max(ridge / RIDGE_GROWTH, RIDGE)
            price, here, length = found
            trust *= TRUST_GROWTH if length == 1 else length
        held = ((price <= low) & (low > 0)) | ((price >= high) & (high < PRICE_US_MAX))
        result = price_us.copy()
        result[self._pruned.contested] = price
        return Found(result, int(held.sum()))

    def _search(
        self, price: F64, step: F64, low: F64, high: F64, here: Slope, temperature: float
    ) -> tuple[F64, Slope, float] | None:
        """The first of ever shorter steps that climbs; None when none does."""
        length = 1.0
        for _ in range(BACKTRACKS_MAX):
            tried = np.clip(price + length * step, low, high)
            slope = self._slope(tried, temperature)
            promised = float(here.gradient @ (tried - price))
            if slope.value >= here.value + 1e-3 * promised - 1e-9 * abs(here.value):
                return tried, slope, length
            length *= BACKTRACK
        return None

    def _slope(self, price: F64, temperature: float) -> Slope:
        s = len(price)
        spread: F32 = np.append(price, 0.0).astype(np.float32)

        def soften(first: int, last: int) -> tuple[float, F64, F32]:
            load, hessian = np.zeros(s + 1), np.zeros((s + 1, s + 1), np.float32)
            t = np.float32(temperature)
            value = _soften(self._arrays, self._widest, spread, t, load, hessian, first, last)
            return value, load, hessian

        parts = self._crew.each(len(self._pruned.demand), soften)
        load = self._pruned.settled_load + np.sum([part[1] for part in parts], axis=0)
        hessian = parts[0][2]
        for part in parts[1:]:
            hessian += part[2]
        settled = self._pruned.settled_cost + float(self._pruned.settled_load[:s] @ price)
        value = settled + sum(part[0] for part in parts) - paid(self._capacity, price)
        gradient = load[:s] - supply(self._capacity, price)
        return Slope(value, gradient, hessian[:s, :s])

    def _direction(self, here: Slope, price: F64, free: NDArray[np.bool_], relative: float) -> F64:
        hessian = here.hessian[np.ix_(free, free)]
        own = hessian.diagonal().astype(np.float64)
        capacity = np.maximum(self._capacity[free], self._floor)
        ridge = relative * own + RIDGE_CAPACITY * capacity / OVERFLOW_US
        ridge += np.where(price[free] > OVERFLOW_US, capacity / OVERFLOW_US, 0.0)
        hessian[np.arange(len(own)), np.arange(len(own))] = own + ridge
        gradient = here.gradient[free]
        try:
            factor = cho_factor(hessian, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            steepest: F64 = gradient / (own + ridge)
            return steepest
        solved = cho_solve(factor, gradient.astype(np.float32), check_finite=False)
        step: F64 = solved.astype(np.float64)
        return step
