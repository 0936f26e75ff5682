"""The greedy assignment against its promises, on random instances."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.backups import backups
from aggregator.market import crew
from aggregator.solve import NOWHERE, Problem, greedy, piece_counts


def random_problem(
    seed: int, n: int, p: int, k: int, tightness: float, move_ms: float = 0.0, heavy: bool = False
) -> Problem:
    rng = np.random.default_rng(seed)
    k = min(k, p)
    pop = np.argsort(rng.random((n, p)), axis=1)[:, :k]
    demand = rng.pareto(1.2, n) + 0.1
    if heavy:
        demand[0] = demand.sum()
    capacity = rng.uniform(0.3, 1.7, p)
    capacity *= demand.sum() / capacity.sum() / tightness
    capacity[rng.random(p) < 0.1] = np.inf
    cost = rng.uniform(1_000, 200_000, (n, k))
    cost[rng.random((n, k)) < 0.05] = np.inf
    present = np.zeros((n, k))
    placed = rng.random(n) < 0.7
    present[np.flatnonzero(placed), rng.integers(0, k, placed.sum())] = 1.0
    return Problem(
        pop, cost, np.full((n, k), move_ms * 1e3), demand, capacity, present, move_share_max=1.0
    )


instances = st.builds(
    random_problem,
    seed=st.integers(0, 2**32),
    n=st.integers(1, 60),
    p=st.integers(1, 8),
    k=st.integers(1, 8),
    tightness=st.floats(0.2, 3.0),
    move_ms=st.sampled_from([0.0, 2.0, 50.0]),
    heavy=st.booleans(),
)


def loads(problem: Problem, share: np.ndarray) -> np.ndarray:
    load = np.zeros(len(problem.capacity_bps))
    for i in range(len(problem.demand_bps)):
        for j in range(problem.pop.shape[1]):
            load[problem.pop[i, j]] += share[i, j] * problem.demand_bps[i]
    return load


def pieces_bps(problem: Problem) -> np.ndarray:
    """The size of the pieces into which each prefix may be cut."""
    return np.asarray(problem.demand_bps / piece_counts(problem))


@given(instances)
@settings(max_examples=300)
def test_every_prefix_with_a_usable_pop_is_placed_whole_and_only_there(problem: Problem) -> None:
    share = greedy(problem).share

    usable = np.isfinite(problem.cost_us)
    assert (share[~usable] == 0).all()
    assert np.allclose(share.sum(axis=1), usable.any(axis=1))


@given(instances)
@settings(max_examples=300)
def test_loads_are_what_the_shares_bring(problem: Problem) -> None:
    solved = greedy(problem)

    assert np.allclose(solved.load_bps, loads(problem, solved.share))


@given(instances)
@settings(max_examples=300)
def test_no_blocking_pair(problem: Problem) -> None:
    """No piece of a prefix could be faster, by more than its cost of moving, where it has room."""
    solved = greedy(problem)

    for i, piece in enumerate(pieces_bps(problem).tolist()):
        for worse in np.flatnonzero(solved.share[i] > 0):
            for better in np.flatnonzero(np.isfinite(problem.cost_us[i])):
                gain = problem.cost_us[i, worse] - problem.cost_us[i, better]
                if gain > problem.move_us[i, better]:
                    pop = problem.pop[i, better]
                    room = problem.capacity_bps[pop] - solved.load_bps[pop]
                    assert room < piece * (1 + 1e-9)


@given(instances)
@settings(max_examples=200)
def test_pops_are_filled_over_their_capacity_only_when_something_fits_nowhere(
    problem: Problem,
) -> None:
    solved = greedy(problem)

    room = problem.capacity_bps - solved.load_bps
    for pop in np.flatnonzero(room < -1e-9 * solved.load_bps):
        here = ((problem.pop == pop) & (solved.share > 0)).any(axis=1)
        usable = np.isfinite(problem.cost_us)
        fits = usable & (room[problem.pop] >= pieces_bps(problem)[:, None] * (1 + 1e-9))
        assert (here & ~fits.any(axis=1)).any()


def test_overflow_is_spread_alike() -> None:
    n, p = 600, 6
    rng = np.random.default_rng(3)
    pop = np.tile(np.arange(p), (n, 1))
    cost = rng.uniform(1_000, 90_000, (n, p))
    capacity = np.full(p, n / p / 1.3)
    problem = Problem(pop, cost, np.zeros((n, p)), np.ones(n), capacity, np.zeros((n, p)))

    used = greedy(problem).load_bps / capacity

    assert used.min() > 1.2
    assert used.max() < 1.4


def test_a_present_assignment_that_fits_does_not_move_for_less_than_the_cost_of_moving() -> None:
    problem = random_problem(5, 50, 5, 5, tightness=0.1, move_ms=500.0)
    kept = problem.present.any(axis=1) & (problem.present * np.isfinite(problem.cost_us)).any(
        axis=1
    )

    share = greedy(problem).share

    assert np.array_equal(share[kept], problem.present[kept])


def test_the_budget_bounds_moves_for_gain() -> None:
    problem = random_problem(6, 400, 5, 5, tightness=0.1)
    budget = 0.05
    bounded = Problem(
        problem.pop,
        np.nan_to_num(problem.cost_us, posinf=1e6),
        problem.move_us,
        problem.demand_bps,
        np.full(5, np.inf),
        problem.present,
        move_share_max=budget,
    )

    share = greedy(bounded).share

    had = problem.present.any(axis=1)
    moved = (np.maximum(problem.present - share, 0).sum(axis=1) * problem.demand_bps)[had].sum()
    assert 0 < moved <= budget * problem.demand_bps.sum()


def test_a_heavy_prefix_is_split_over_pops() -> None:
    pop = np.array([[0, 1]])
    problem = Problem(
        pop,
        np.array([[1_000.0, 2_000.0]]),
        np.zeros((1, 2)),
        np.array([10.0]),
        np.array([6.0, 6.0]),
        np.zeros((1, 2)),
    )

    share = greedy(problem).share[0]

    assert share[0] == pytest.approx(0.6, abs=0.03)
    assert share.sum() == pytest.approx(1)


def test_small_pops_are_filled_too() -> None:
    n, capacity = 50, np.array([0.5, 100.0])
    cost = np.tile([1_000.0, 50_000.0], (n, 1))
    pop = np.tile([0, 1], (n, 1))
    problem = Problem(pop, cost, np.zeros((n, 2)), np.ones(n), capacity, np.zeros((n, 2)))

    assert greedy(problem).load_bps[0] > 0.9 * capacity[0]


def test_backups_spread_over_the_room_that_is_left() -> None:
    """All prefixes of POP 0 are nearest to POP 1, which is small; 2 and 3 have room."""
    n = 100
    cost = np.tile([1_000.0, 2_000.0, 9_000.0, 9_500.0], (n, 1))
    pop = np.tile(np.arange(4), (n, 1))
    capacity = np.array([100.0, 10.0, 100.0, 100.0])
    problem = Problem(pop, cost, np.zeros((n, 4)), np.ones(n), capacity, np.zeros((n, 4)))

    with crew() as workers:
        backup = backups(problem, greedy(problem), workers)

    given_bps = np.bincount(backup, minlength=4)
    assert given_bps[0] == 0
    assert given_bps[1] <= 20
    assert given_bps[2] > 20


def test_it_is_deterministic() -> None:
    problem = random_problem(9, 500, 8, 8, tightness=0.9, heavy=True)

    assert np.array_equal(greedy(problem).share, greedy(problem).share)


def test_padding_is_never_used() -> None:
    problem = random_problem(4, 40, 6, 4, tightness=0.9)
    pop, cost = problem.pop.copy(), problem.cost_us.copy()
    pop[:, 3], cost[:, 3] = NOWHERE, np.inf

    share = greedy(
        Problem(
            pop,
            cost,
            problem.move_us,
            problem.demand_bps,
            problem.capacity_bps,
            problem.present * 0,
        )
    ).share

    assert not share[:, 3].any()


def test_a_hundred_thousand_prefixes_take_seconds() -> None:
    problem = random_problem(1, 100_000, 100, 16, tightness=0.8)

    started = time.process_time()
    greedy(problem)

    assert time.process_time() - started < 8


def test_an_overload_is_spread_over_who_is_left_and_found_at_once() -> None:
    rng = np.random.default_rng(3)
    n, p = 400, 20
    up = np.arange(p) % 3 == 0
    cost = np.where(up[None, :], rng.uniform(1_000, 200_000, (n, p)), np.inf)
    problem = Problem(
        pop=np.broadcast_to(np.arange(p), (n, p)).copy(),
        cost_us=cost,
        move_us=np.zeros((n, p)),
        demand_bps=np.full(n, 1e9),
        capacity_bps=np.full(p, 2e10),
        present=np.zeros((n, p)),
    )

    solved = greedy(problem)

    used = solved.load_bps[up] / problem.capacity_bps[up]
    assert np.allclose(solved.share.sum(axis=1), 1)
    assert solved.load_bps[~up].sum() == 0
    assert used.max() < 1.15 * used.mean()
    with crew() as workers:
        assert (backups(problem, solved, workers) >= 0).all()
