"""Sets of answers share one account of what POPs and links can carry."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.policy import POLICIES
from aggregator.solve import Problem
from aggregator.together import IN_TURN, solved

BLIND = ("nearest", "weighted", "failover")


def problem(
    cost_ms: np.ndarray, demand_bps: np.ndarray, capacity_bps: np.ndarray, links: bool = False
) -> Problem:
    """All POPs are candidates of every prefix; nobody is anywhere yet."""
    n, p = cost_ms.shape
    pop = np.tile(np.arange(p), (n, 1))
    return Problem(
        pop=pop,
        cost_us=cost_ms * 1e3,
        move_us=np.zeros((n, p)),
        demand_bps=demand_bps,
        capacity_bps=capacity_bps,
        present=np.zeros((n, p)),
        link=pop.copy() if links else None,
        link_bps=0.5 * capacity_bps if links else None,
    )


def random_problem(seed: int, capacity_bps: np.ndarray, links: bool = False) -> Problem:
    """Many light prefixes, so that what rounding leaves over is little."""
    rng = np.random.default_rng(seed)
    cost = rng.uniform(5, 100, (300, len(capacity_bps)))
    return problem(cost, rng.uniform(0.05, 0.15, 300), capacity_bps, links)


def whole_load(found: list[np.ndarray]) -> np.ndarray:
    return np.asarray(np.sum(found, axis=0))


@pytest.mark.parametrize("policy", POLICIES)
def test_one_policy_alone_is_what_it_always_was(policy: str) -> None:
    own = random_problem(3, np.full(4, 12.0))

    (found,) = solved([(policy, own)])

    assert found.problem is own
    assert np.array_equal(found.assignment.share, POLICIES[policy][1](own).share)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    policies=st.lists(st.sampled_from(IN_TURN), min_size=2, max_size=3),
    links=st.booleans(),
)
def test_together_they_fill_no_more_than_there_is(
    seed: int, policies: list[str], links: bool
) -> None:
    capacity = np.full(5, 30.0 * len(policies) / 5 * (2.6 if links else 1.3))
    asked = [
        (policy, random_problem(seed + number, capacity, links))
        for number, policy in enumerate(policies)
    ]

    found = solved(asked)

    load = whole_load([one.assignment.load_bps for one in found])
    assert (load <= capacity * 1.01).all()
    assert load.sum() == pytest.approx(sum(one.demand_bps.sum() for _, one in asked))
    for one, (_, own) in zip(found, asked, strict=True):
        others = load - one.assignment.load_bps
        assert one.problem.capacity_bps == pytest.approx(np.maximum(own.capacity_bps - others, 0))


@pytest.mark.parametrize("blind", BLIND)
def test_what_a_policy_without_regard_for_capacity_takes_is_left_alone(blind: str) -> None:
    capacity = np.array([20.0, 40.0, 40.0])
    careless = problem(np.tile([5.0, 50.0, 60.0], (10, 1)), np.full(10, 2.0), capacity)
    careful = problem(np.tile([5.0, 10.0, 20.0], (30, 1)), np.ones(30), capacity)

    by_order = solved([("optimum", careful), (blind, careless)])
    other_way = solved([(blind, careless), ("optimum", careful)])

    for first, second in ((by_order[0], by_order[1]), (other_way[1], other_way[0])):
        load = first.assignment.load_bps + second.assignment.load_bps
        assert (load <= capacity * (1 + 1e-9)).all()
        alone = POLICIES[blind][1](careless)
        assert np.array_equal(second.assignment.share, alone.share)


def test_one_set_yields_a_pop_to_another_that_has_nowhere_else_to_go() -> None:
    capacity = np.array([10.0, 30.0])
    anywhere = problem(np.tile([5.0, 10.0], (20, 1)), np.full(20, 0.5), capacity)
    only_first = replace(anywhere, cost_us=np.where([True, False], anywhere.cost_us, np.inf))

    free, bound = solved([("optimum", anywhere), ("optimum", only_first)])

    assert bound.assignment.load_bps == pytest.approx([10, 0])
    assert free.assignment.load_bps == pytest.approx([0, 10])


def test_links_are_shared_too() -> None:
    capacity = np.array([100.0, 100.0])
    first = problem(np.tile([5.0, 20.0], (20, 1)), np.ones(20), capacity, links=True)
    first = replace(first, link_bps=np.array([25.0, 100.0]))

    found = solved([("optimum", first), ("optimum", first)])

    load = whole_load([one.assignment.load_bps for one in found])
    assert load == pytest.approx([25, 15], abs=1e-6)
