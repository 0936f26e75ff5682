"""Light prefixes are not split, POPs get about what the solution gives them, heavy ones stay so."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.gathering import EXCESS_SHARE_MAX, gathered
from aggregator.solve import Assignment, Problem


def problem_of(demand: np.ndarray, pop: np.ndarray, capacity: np.ndarray) -> Problem:
    return Problem(
        pop=pop,
        cost_us=np.ones(pop.shape),
        move_us=np.zeros(pop.shape),
        demand_bps=demand,
        capacity_bps=capacity,
        present=np.zeros(pop.shape),
    )


def solved(problem: Problem, share: np.ndarray) -> Assignment:
    load = np.zeros(len(problem.capacity_bps))
    np.add.at(load, problem.pop, share * problem.demand_bps[:, None])
    return Assignment(share, load, np.zeros(len(load)), np.nan)


def test_many_light_halves_become_wholes_and_the_loads_stay() -> None:
    problem = problem_of(np.ones(400), np.tile([0, 1], (400, 1)), np.full(2, 200.0))
    before = solved(problem, np.full((400, 2), 0.5))

    after = gathered(problem, before)

    assert (after.share.max(axis=1) == 1).all()
    assert after.load_bps == pytest.approx(before.load_bps, abs=1)


def test_a_prefix_that_is_heavy_for_its_pops_stays_split() -> None:
    problem = problem_of(np.array([100.0, 1.0]), np.tile([0, 1], (2, 1)), np.full(2, 60.0))
    before = solved(problem, np.array([[0.5, 0.5], [0.3, 0.7]]))

    after = gathered(problem, before)

    assert after.share[0].tolist() == [0.5, 0.5]
    assert after.share[1].max() == 1


def test_a_link_is_not_overfilled_for_the_sake_of_a_whole_prefix() -> None:
    problem = problem_of(np.array([10.0]), np.array([[0, 1]]), np.full(2, np.inf))
    problem = Problem(
        **{name: getattr(problem, name) for name in ("pop", "cost_us", "move_us", "demand_bps")},
        capacity_bps=problem.capacity_bps,
        present=problem.present,
        link=np.array([[0, 1]]),
        link_bps=np.array([10.0, 10.0]),
    )

    after = gathered(problem, solved(problem, np.array([[0.6, 0.4]])))

    assert after.share.tolist() == [[0.6, 0.4]]


@given(seed=st.integers(0, 1 << 16), pops=st.integers(2, 6), unlimited=st.booleans())
def test_no_pop_gets_more_than_it_may(seed: int, pops: int, unlimited: bool) -> None:
    dice = np.random.default_rng(seed)
    n = 60
    pop = np.argsort(dice.random((n, pops)), axis=1)[:, : min(pops, 4)]
    share = dice.dirichlet(np.full(pop.shape[1], 0.3), n)
    share[dice.random(n) < 0.3] = np.eye(pop.shape[1])[0]
    share[share < 0.01] = 0
    share /= share.sum(axis=1, keepdims=True)
    problem = problem_of(dice.pareto(1.2, n), pop, np.zeros(pops))
    load = solved(problem, share).load_bps
    capacity = np.maximum(load * dice.uniform(1, 2, pops), 1e-9)
    if unlimited:
        capacity[0] = np.inf
    problem = problem_of(problem.demand_bps, pop, capacity)
    before = solved(problem, share)

    after = gathered(problem, before)

    assert after.share.sum(axis=1) == pytest.approx(1)
    assert ((after.share == share).all(axis=1) | (after.share.max(axis=1) == 1)).all()
    assert ((after.share > 0) <= (share > 0)).all()
    assert after.load_bps == pytest.approx(solved(problem, after.share).load_bps)
    finite = np.isfinite(capacity)
    excess = (after.load_bps - before.load_bps)[finite]
    assert (excess <= EXCESS_SHARE_MAX * capacity[finite] * (1 + 1e-9) + 1e-9).all()
