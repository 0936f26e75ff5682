"""Prices of scarce capacity: the dual of the assignment problem, by a smoothed Newton method.

Minimising sum d_i c_ik x_ik under sum_i d_i x_ip <= C_p is a linear programme; its dual function

    D(q) = sum_i d_i min_k (c_ik + q_k) - sum_p C_p q_p        (q >= 0)

is a lower bound of every assignment's cost for whatever prices q, so each solution carries its own
certificate. D is concave but has kinks; with the minimum replaced by a soft one of temperature t
its gradient is (load - capacity) and its Hessian is cheap, so Newton's method finds the top in few
steps, and the temperature is lowered step by step. Low and Lapsley, "Optimization flow control"
(1999), give the economics; Nesterov, "Smooth minimization of non-smooth functions" (2005), the
smoothing.

Pure numpy over a dense [n, p] matrix of costs; the caller bounds n * p.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve

PRICE_US_MAX = 400_000.0
"""No capacity is worth more than this; beyond it the demand does not fit and overflows."""
COLD_TEMPERATURES_US = (30_000.0, 8_000.0, 2_000.0, 500.0)
WARM_TEMPERATURES_US = (6_000.0, 1_500.0, 500.0)
STEPS_MAX = 8
"""Newton steps at each temperature."""
CLOSE_ENOUGH = 2e-3
"""Of all demand, how much load may lie beyond where the gradient wants it."""
RIDGE = 1e-3
"""Relative regularisation of the Hessian: POPs that nobody hesitates about have none."""
BACKTRACKS_MAX = 4

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Market:
    """n buyers and p sellers."""

    cost_us: F64
    """[n, p], infinite where a POP cannot be had; every row has a finite one."""
    demand: F64
    """[n]"""
    capacity: F64
    """[p], finite; POPs without a limit have infinite capacity and price 0."""


def bound(market: Market, price_us: F64) -> float:
    """D(q): no assignment within the capacities costs less, demand times RTT summed."""
    priced = np.isfinite(market.capacity)
    paid = float((market.capacity[priced] * price_us[priced]).sum())
    cheapest = (market.cost_us + price_us).min(axis=1, initial=np.inf)
    return float((market.demand * cheapest).sum()) - paid


def clear(market: Market, warm_us: F64 | None = None) -> F64:
    """[p], prices near the top of D, from 0 to `PRICE_US_MAX`.

    `warm_us` are prices of a similar market; they save most of the steps.
    """
    price = np.zeros(len(market.capacity)) if warm_us is None else warm_us.copy()
    for temperature in COLD_TEMPERATURES_US if warm_us is None else WARM_TEMPERATURES_US:
        price = _newton(market, price, temperature)
    return price


def _newton(market: Market, price: F64, temperature: float) -> F64:
    """Projected Newton ascent of the smoothed dual, with backtracking."""
    scarce = np.isfinite(market.capacity)
    capacity = np.where(scarce, market.capacity, 0.0)
    total = float(market.demand.sum())
    value, choice = _soft(market, price, temperature)
    for _ in range(STEPS_MAX):
        gradient = np.where(scarce, market.demand @ choice - capacity, 0.0)
        free = scarce & ((price > 0) | (gradient > 0)) & ((price < PRICE_US_MAX) | (gradient < 0))
        if np.abs(gradient[free]).sum() < CLOSE_ENOUGH * total:
            break
        step = _step(market, choice, gradient, free, temperature)
        for _ in range(BACKTRACKS_MAX):
            tried = np.clip(price + step, 0.0, PRICE_US_MAX)
            tried_value, tried_choice = _soft(market, tried, temperature)
            if tried_value > value + 1e-4 * float(gradient @ (tried - price)):
                break
            step *= 0.35
        else:
            break
        price, value, choice = tried, tried_value, tried_choice
    return price


def _soft(market: Market, price: F64, temperature: float) -> tuple[float, F64]:
    """The smoothed dual and [n, p], the soft choice of each buyer (rows add up to 1)."""
    whole = market.cost_us + price
    least = whole.min(axis=1, initial=np.inf)
    weight = np.exp((least[:, None] - whole) / temperature)
    total = weight.sum(axis=1)
    priced = np.isfinite(market.capacity)
    paid = float((market.capacity[priced] * price[priced]).sum())
    value = float((market.demand * (least - temperature * np.log(total))).sum()) - paid
    return value, weight / total[:, None]


def _step(market: Market, choice: F64, gradient: F64, free: NDArray[np.bool_], t: float) -> F64:
    """The Newton direction over the free prices, at most a few temperatures long."""
    here = np.flatnonzero(free)
    chosen = choice[:, here]
    weighted = chosen * (market.demand / t)[:, None]
    hessian = np.diag(weighted.sum(axis=0)) - chosen.T @ weighted
    diagonal = hessian.diagonal().copy()
    ridge = RIDGE * diagonal + RIDGE * market.capacity[here] / t + 1e-12 * market.demand.sum() / t
    hessian[np.arange(len(here)), np.arange(len(here))] += ridge
    try:
        found = cho_solve(cho_factor(hessian, lower=True, check_finite=False), gradient[here])
    except LinAlgError:
        found = gradient[here] / (diagonal + ridge)
    step = np.zeros(len(gradient))
    step[here] = np.clip(found, -8 * t, 8 * t)
    return step
