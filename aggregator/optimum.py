"""The optimum policy: prices first, then the greedy at priced costs.

The prices make every prefix see what a place at a POP costs the others, so that the greedy, which
looks at one prefix at a time, ends within a small gap of the linear programme's optimum. It keeps
all its promises: capacities, stickiness, bounded moves, overflow spread alike.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aggregator.prices import Market, bound, clear
from aggregator.solve import Assignment, Problem, greedy

CELLS_MAX = 40_000_000
"""Prefixes times POPs that prices are sought for; beyond it the plain greedy has to do."""

F64 = NDArray[np.float64]


def optimum(problem: Problem) -> Assignment:
    """Near the least demand-weighted cost, with the prices and the lower bound that show it."""
    n, p = len(problem.demand_bps), len(problem.capacity_bps)
    usable = np.isfinite(problem.cost_us.min(axis=1, initial=np.inf)) & (problem.demand_bps > 0)
    if n * p > CELLS_MAX or not usable.any():
        return greedy(problem)
    elsewhere = np.where(problem.present.sum(axis=1, keepdims=True) > 0, 1 - problem.present, 0.0)
    sticky: F64 = problem.cost_us + problem.move_us * elsewhere
    price = clear(_market(problem, sticky, usable), problem.warm_us)
    priced = greedy(replace(problem, cost_us=problem.cost_us + price[problem.pop]))
    # Prices leave a little room at dear POPs, as pieces are not infinitely small: fill it.
    solved = greedy(
        replace(
            problem, cost_us=sticky, move_us=np.zeros_like(problem.move_us), present=priced.share
        )
    )
    total = float(problem.demand_bps[usable].sum())
    least = bound(_market(problem, problem.cost_us, usable), price) / total
    return replace(solved, price_us=price, bound_us=least)


def _market(problem: Problem, cost_us: F64, usable: NDArray[np.bool_]) -> Market:
    """The problem over all POPs; candidates that a row does not have cannot be had."""
    line, column = np.nonzero(np.isfinite(cost_us) & usable[:, None])
    dense = np.full((len(cost_us), len(problem.capacity_bps)), np.inf)
    dense[line, problem.pop[line, column]] = cost_us[line, column]
    return Market(dense[usable], problem.demand_bps[usable], problem.capacity_bps)
