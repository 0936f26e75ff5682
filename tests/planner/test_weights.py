"""What moves cost, against the sum written out; and the bound that counts them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.optimum import optimum
from aggregator.solve import Problem
from aggregator.weights import moved_us


@given(seed=st.integers(0, 1 << 16))
def test_moves_cost_what_goes_where_it_was_not(seed: int) -> None:
    dice = np.random.default_rng(seed)
    share, present = dice.dirichlet(np.ones(4), (2, 20))
    present[::5] = 0
    move = dice.uniform(0, 5_000, share.shape).astype(np.float32)

    paid = moved_us(share, present, move)

    fresh = np.maximum(share - present, 0) * move
    expected = np.where(present.any(axis=1), fresh.sum(axis=1), 0)
    assert paid == pytest.approx(expected)


def test_the_bound_with_moves_is_met_where_staying_is_worth_something() -> None:
    dice = np.random.default_rng(1)
    n, p = 400, 6
    demand, cost = dice.pareto(1.5, n) + 0.2, dice.uniform(1_000, 50_000, (n, p))
    capacity = np.full(p, demand.sum() / p / 0.8)
    none = np.zeros((n, p))
    problem = Problem(np.tile(np.arange(p), (n, 1)), cost, none, demand, capacity, none)
    there = optimum(problem).share
    other = cost * dice.lognormal(0, 0.3, cost.shape)
    problem = replace(
        problem, cost_us=other, present=there, move_us=np.full_like(cost, 8_000), move_share_max=1.0
    )

    found = optimum(problem)

    mean_us = float(demand @ (found.share * other).sum(axis=1)) / demand.sum()
    moves_us = float(demand @ moved_us(found.share, there, problem.move_us)) / demand.sum()
    assert moves_us > 0
    assert mean_us + moves_us == pytest.approx(found.moving_bound_us, rel=1e-4)
    assert found.bound_us < found.moving_bound_us
