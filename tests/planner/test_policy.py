"""Every policy by what it promises, on one small scene: four POPs, two prefixes."""

from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.policy import ADDITIVE, BY_LOCATION, DEFAULT, POLICIES, capped, first, in_band
from aggregator.solve import NOWHERE, Problem
from aggregator.terms import even
from popsteer.config import POLICIES as NAMES
from popsteer.config import Service

F64 = NDArray[np.float64]

RTT_MS = np.array([[10.0, 12.0, 30.0, 80.0], [40.0, 41.0, 20.0, 90.0]])
KM = np.array([[900.0, 400.0, 2_000.0, 6_000.0], [3_000.0, 2_500.0, 500.0, 700.0]])


def scene(
    rtt_ms: F64 = RTT_MS,
    demand: tuple[float, ...] = (1.0, 1.0),
    capacity: float = 10.0,
    down: tuple[int, ...] = (),
) -> Problem:
    """Candidates are the POPs by number; nothing is placed yet."""
    n, p = rtt_ms.shape
    cost = rtt_ms * 1e3
    cost[:, list(down)] = np.inf
    return Problem(
        pop=np.tile(np.arange(p), (n, 1)),
        cost_us=cost,
        move_us=np.full((n, p), 2_000.0),
        demand_bps=np.array(demand),
        capacity_bps=np.full(p, capacity),
        present=np.zeros((n, p)),
        terms=replace(even(p), km=KM[:n]),
    )


def chosen(name: str, problem: Problem) -> list[int]:
    """The main POP of each prefix."""
    share = POLICIES[name][1](problem).share
    assert share.sum(axis=1) == pytest.approx(1)
    return [int(problem.pop[i, k]) for i, k in enumerate(share.argmax(axis=1))]


def test_the_configuration_knows_every_policy() -> None:
    assert set(NAMES) == set(POLICIES)
    assert set(POLICIES) >= BY_LOCATION | ADDITIVE | {DEFAULT}
    assert get_type_hints(Service)["policy"] is str
    assert Service(name="a.").policy == DEFAULT


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"static"}))
def test_no_policy_sends_anybody_to_a_pop_that_is_down(name: str) -> None:
    problem = scene(RTT_MS.copy(), down=(0, 2))

    share = POLICIES[name][1](problem).share

    assert not share[:, [0, 2]].any()
    assert share.sum(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(set(POLICIES) - {"static"}))
def test_a_prefix_without_a_usable_pop_is_nobodys(name: str) -> None:
    rtt_ms = RTT_MS.copy()
    rtt_ms[0] = np.inf

    share = POLICIES[name][1](scene(rtt_ms)).share

    assert not share[0].any()
    assert share[1].sum() == pytest.approx(1)


def test_static_does_not_even_look_at_health() -> None:
    assert chosen("static", scene(RTT_MS.copy(), down=(1,))) == [1, 2]


def test_geographic_goes_by_distance_and_nearest_by_rtt() -> None:
    assert chosen("geographic", scene()) == [1, 2]
    assert chosen("nearest", scene()) == [0, 2]
    assert chosen("fastroute", scene()) == [0, 2]


def test_without_places_geography_goes_by_rtt() -> None:
    nowhere = replace(scene(), terms=None)

    assert chosen("geographic", nowhere) == chosen("nearest", nowhere)


def test_a_bias_makes_a_pop_attract_from_farther() -> None:
    attracts = replace(even(4), km=KM, bias=np.array([60.0, 0, 0, 0]))
    repels = replace(even(4), km=KM, bias=np.array([0.0, 0, -50.0, 0]))

    assert chosen("geoproximity", scene()) == [1, 2]
    assert chosen("geoproximity", replace(scene(), terms=attracts)) == [0, 2]
    assert chosen("geoproximity", replace(scene(), terms=repels)) == [1, 3]


def test_a_negative_bias_lets_a_pop_attract_from_half_as_far() -> None:
    problem = scene()
    assert problem.terms is not None
    near_and_far = np.array([[150.0, 250.0, 9e3, 9e3], [150.0, 310.0, 9e3, 9e3]])
    bias = np.array([-50.0, 0.0, 0.0, 0.0])

    biased = replace(problem, terms=replace(problem.terms, km=near_and_far, bias=bias))

    assert chosen("geoproximity", biased) == [1, 0]


def test_a_pop_without_a_place_comes_after_those_that_have_one() -> None:
    problem = scene(RTT_MS[:, [1, 0, 2, 3]])
    assert problem.terms is not None
    km = KM.copy()
    km[:, 1] = np.nan

    unplaced = replace(problem, terms=replace(problem.terms, km=km))

    assert chosen("geographic", unplaced) == [0, 2]
    km[0] = np.nan
    assert chosen("geographic", unplaced) == [1, 2]


def test_weights_share_among_as_many_as_a_row_holds() -> None:
    many = scene(np.tile(np.arange(10.0, 22.0), (2, 1)))
    problem = replace(many, terms=even(12))

    share = POLICIES["weighted"][1](problem).share

    assert (share > 0).sum(axis=1).tolist() == [8, 8]
    assert not share[:, 8:].any()


def test_failover_takes_the_first_that_is_up() -> None:
    assert chosen("failover", scene()) == [0, 0]
    assert chosen("failover", scene(RTT_MS.copy(), down=(0, 1))) == [2, 2]


def test_weights_share_a_prefix() -> None:
    terms = replace(even(4), weight=np.array([1.0, 3.0, 0.0, 4.0]))

    found = POLICIES["weighted"][1](replace(scene(), terms=terms))

    assert found.share[0] == pytest.approx([0.125, 0.375, 0, 0.5])
    assert found.load_bps == pytest.approx([0.25, 0.75, 0, 1.0])


def test_the_band_shares_among_those_as_fast_as_the_fastest() -> None:
    share = POLICIES["latency-band"][1](scene()).share

    assert share[0] == pytest.approx([0.5, 0.5, 0, 0])
    assert share[1] == pytest.approx([0, 0, 1, 0])


def test_noise_at_the_edge_of_the_band_moves_nobody() -> None:
    problem = scene(np.array([[10.0, 16.0, 17.0, 90.0]]), demand=(1.0,))
    present = np.array([[0.5, 0.5, 0.0, 0.0]])

    assert in_band(replace(problem, present=present))[0].tolist() == [True, True, False, False]
    assert in_band(problem)[0].tolist() == [True, False, False, False]


def test_cost_aware_takes_the_cheapest_traffic_within_the_band() -> None:
    terms = replace(even(4), cost=np.array([3.0, 1.0, 0.5, 0.1]))

    assert chosen("cost-aware", replace(scene(), terms=terms)) == [1, 2]
    assert chosen("cost-aware", scene()) == chosen("nearest", scene())


@pytest.mark.parametrize("name", ["greedy", "optimum"])
def test_capacities_are_kept_where_they_can_be(name: str) -> None:
    problem = scene(np.tile([10.0, 12.0, 30.0, 80.0], (6, 1)), (1.0,) * 6, capacity=2.0)
    problem = replace(problem, terms=None)

    load = POLICIES[name][1](problem).load_bps

    assert load.max() <= 2.0 + 1e-9
    assert load.sum() == pytest.approx(6)


@pytest.mark.parametrize("name", ["nearest", "geographic", "failover", "weighted", "static"])
def test_others_look_at_no_capacity(name: str) -> None:
    tight = POLICIES[name][1](scene(capacity=0.01)).share

    assert (tight == POLICIES[name][1](scene(capacity=1e9)).share).all()


def test_who_has_a_pop_leaves_it_only_for_a_gain_worth_the_move() -> None:
    present = np.array([[0.0, 1.0, 0, 0], [0, 0, 1.0, 0]])
    worth = replace(scene(), present=present, move_us=np.full((2, 4), 1_000.0))
    not_worth = replace(worth, move_us=np.full((2, 4), 3_000.0))

    assert chosen("nearest", worth) == [0, 2]
    assert chosen("nearest", not_worth) == [1, 2]


def test_parts_compose() -> None:
    def even_numbers(problem: Problem) -> NDArray[np.bool_]:
        here: NDArray[np.bool_] = problem.pop % 2 == 0
        return here

    def slowest(problem: Problem) -> F64:
        return -problem.cost_us

    assert first(even_numbers, slowest)(scene()).share.argmax(axis=1).tolist() == [2, 0]
    assert capped(even_numbers, slowest)(scene()).share.argmax(axis=1).tolist() == [2, 0]


def test_a_filter_that_leaves_nothing_is_passed_over() -> None:
    def nobody(problem: Problem) -> NDArray[np.bool_]:
        here: NDArray[np.bool_] = problem.pop == NOWHERE
        return here

    by_rtt = first(nobody, lambda problem: problem.cost_us)

    assert by_rtt(scene()).share.argmax(axis=1).tolist() == [0, 2]
