"""Prices against the exact linear programme (HiGHS) on random instances."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from aggregator.optimum import optimum
from aggregator.policy import POLICIES
from aggregator.prices import Market, bound, clear
from aggregator.solve import Problem, greedy


def market(seed: int, n: int, p: int, utilisation: float) -> Market:
    rng = np.random.default_rng(seed)
    demand = rng.pareto(1.5, n) + 0.2
    capacity = rng.uniform(0.3, 1.7, p)
    capacity *= demand.sum() / capacity.sum() / utilisation
    return Market(rng.uniform(1_000, 200_000, (n, p)), demand, capacity)


def exact(m: Market) -> float:
    """The optimum cost; NaN when it is not feasible."""
    n, p = m.cost_us.shape
    use = np.zeros((p, n * p))
    whole = np.zeros((n, n * p))
    for i in range(n):
        for j in range(p):
            use[j, i * p + j] = m.demand[i]
            whole[i, i * p + j] = 1
    cost = (m.cost_us * m.demand[:, None]).ravel()
    found = linprog(cost, A_ub=use, b_ub=m.capacity, A_eq=whole, b_eq=np.ones(n), method="highs")
    return float(found.fun) if found.success else float("nan")


markets = st.builds(
    market,
    seed=st.integers(0, 2**32),
    n=st.integers(2, 25),
    p=st.integers(2, 6),
    utilisation=st.floats(0.1, 1.3),
)


@given(markets)
@settings(max_examples=1_000, deadline=None)
def test_the_bound_is_below_the_optimum_and_close_to_it(m: Market) -> None:
    least = bound(m, clear(m))

    optimal = exact(m)
    if np.isfinite(optimal):
        assert least <= optimal * (1 + 1e-9)
        assert least >= optimal * 0.98


@given(markets, st.floats(0.8, 1.25))
@settings(max_examples=300, deadline=None)
def test_warm_prices_are_as_good_as_cold_ones(m: Market, change: float) -> None:
    optimal = exact(m)
    warm = clear(m, clear(replace(m, capacity=m.capacity * change)))

    if np.isfinite(optimal):
        assert bound(m, warm) >= optimal * 0.97


@given(markets, st.lists(st.floats(0, 4e5), min_size=6, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_prices_give_a_bound(m: Market, prices: list[float]) -> None:
    optimal = exact(m)

    if np.isfinite(optimal):
        assert bound(m, np.array(prices[: len(m.capacity)])) <= optimal * (1 + 1e-9) + 1e-6


def problem_of(m: Market) -> Problem:
    n, p = m.cost_us.shape
    return Problem(
        np.tile(np.arange(p), (n, 1)),
        m.cost_us,
        np.zeros((n, p)),
        m.demand,
        m.capacity,
        np.zeros((n, p)),
    )


def mean_us(problem: Problem, share: np.ndarray) -> float:
    cost = (np.where(share > 0, problem.cost_us, 0) * share).sum(axis=1)
    return float((cost * problem.demand_bps).sum() / problem.demand_bps.sum())


@pytest.mark.parametrize(("utilisation", "gap"), [(0.5, 0.01), (0.75, 0.015), (0.9, 0.03)])
def test_with_many_small_prefixes_the_optimum_is_met(utilisation: float, gap: float) -> None:
    problem = problem_of(market(1, 2_000, 20, utilisation))

    solved = optimum(problem)

    assert (solved.load_bps <= problem.capacity_bps * (1 + 1e-9)).all()
    assert mean_us(problem, solved.share) <= solved.bound_us * (1 + gap)
    assert mean_us(problem, solved.share) <= mean_us(problem, greedy(problem).share) * 1.0001


def test_prices_are_paid_only_where_it_is_full() -> None:
    problem = problem_of(market(2, 2_000, 20, 0.6))

    solved = optimum(problem)

    used = solved.load_bps / problem.capacity_bps
    assert (used[solved.price_us > 2_000] > 0.97).all()
    assert (solved.price_us >= 0).all()


def test_unlimited_pops_cost_nothing() -> None:
    m = market(3, 200, 5, 0.9)
    problem = problem_of(m)
    capacity = np.where(np.arange(5) == 2, np.inf, m.capacity)

    solved = optimum(replace(problem, capacity_bps=capacity))

    assert solved.price_us[2] == 0
    assert np.isfinite(solved.bound_us)


def test_what_does_not_fit_overflows_alike() -> None:
    problem = problem_of(market(4, 2_000, 10, 1.2))

    used = optimum(problem).load_bps / problem.capacity_bps

    assert used.max() < 1.35
    assert used.min() > 1.0


def test_prefixes_without_a_usable_pop_cost_no_other_its_place() -> None:
    problem = problem_of(market(5, 50, 4, 0.5))
    cost = problem.cost_us.copy()
    cost[7] = np.inf

    share = optimum(replace(problem, cost_us=cost)).share

    assert not share[7].any()
    assert np.allclose(np.delete(share, 7, axis=0).sum(axis=1), 1)


def test_it_is_the_default_and_named_honestly() -> None:
    assert POLICIES["optimum"] == ("optimum by prices", optimum)
