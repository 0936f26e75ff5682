"""Prices, rounding and the optimum policy against the whole linear programme (HiGHS)."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog

from aggregator import optimum as policy
from aggregator.exact import OVERFLOW_EDGES
from aggregator.gathering import gathered
from aggregator.market import Market, crew
from aggregator.newton import OVERFLOW_US, overflow_cost, paid
from aggregator.optimum import optimum
from aggregator.policy import POLICIES
from aggregator.prices import Cleared, clear
from aggregator.rounding import choose, weighed
from aggregator.solve import NOWHERE, Problem, greedy
from benchmarks.solver_peers import unavoidable
from benchmarks.solver_world import Shape, changed, make_market

F64 = NDArray[np.float64]


def problem(seed: int, n: int, p: int, utilisation: float, links: int = 0) -> Problem:
    """Any candidates of any POPs; some rows have fewer, some heavy demand."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, p + 1))
    pop = np.argsort(rng.random((n, p)), axis=1)[:, :k]
    pop[:, 1:][rng.random((n, k - 1)) < 0.1] = NOWHERE
    cost = np.where(pop >= 0, rng.uniform(1_000, 200_000, (n, k)), np.inf)
    demand = rng.pareto(1.5, n) + 0.2
    capacity = rng.uniform(0.3, 1.7, p)
    capacity *= demand.sum() / capacity.sum() / utilisation
    whole = Problem(pop, cost, np.zeros((n, k)), demand, capacity, np.zeros((n, k)))
    if not links:
        return whole
    link = np.where(rng.random((n, k)) < 0.8, rng.integers(0, links, (n, k)), NOWHERE)
    link_bps = rng.uniform(0.5, 2.0, links) * demand.sum() / links / utilisation
    return replace(whole, link=link, link_bps=link_bps)


def loads(p: Problem, share: F64) -> tuple[F64, F64]:
    """Load over capacity, of POPs and links."""
    amount = share * p.demand_bps[:, None]
    pops = np.zeros(len(p.capacity_bps))
    np.add.at(pops, np.maximum(p.pop, 0), amount)
    links = np.zeros(0 if p.link_bps is None else len(p.link_bps))
    if p.link is not None:
        used = p.link >= 0
        np.add.at(links, p.link[used], amount[used])
    return pops, links


def over(p: Problem, share: F64) -> float:
    pops, links = loads(p, share)
    limit = np.zeros(0) if p.link_bps is None else p.link_bps
    return float(np.maximum(pops - p.capacity_bps, 0).sum() + np.maximum(links - limit, 0).sum())


def mean_us(p: Problem, share: F64) -> float:
    cost = (np.where(share > 0, p.cost_us, 0) * share).sum(axis=1)
    return float((cost * p.demand_bps).sum() / p.demand_bps.sum())


def spent(p: Problem, share: F64) -> float:
    """Demand times cost, and the convex cost of what overflows."""
    pops, links = loads(p, share)
    limit = np.zeros(0) if p.link_bps is None else p.link_bps
    overflow = overflow_cost(p.capacity_bps, pops) + overflow_cost(limit, links)
    return mean_us(p, share) * float(p.demand_bps.sum()) + overflow


def exact(p: Problem, overflow_us: float) -> tuple[F64, float]:
    """The shares of the linear programme over all candidates at once, and what overflows."""
    row, column = np.nonzero(np.isfinite(p.cost_us))
    demand, e, n, pops = p.demand_bps[row], len(row), len(p.demand_bps), len(p.capacity_bps)
    line = [p.pop[row, column]]
    limit = p.capacity_bps
    if p.link is not None and p.link_bps is not None:
        line.append(np.where(p.link[row, column] >= 0, pops + p.link[row, column], NOWHERE))
        limit = np.concatenate([limit, p.link_bps])
    r = len(limit)
    resource = np.concatenate([*line, np.arange(r)])
    entry = np.concatenate([np.tile(np.arange(e), len(line)), e + np.arange(r)])
    amount = np.concatenate([np.tile(demand, len(line)), np.full(r, -1.0)])
    real = resource >= 0
    use = sparse.csr_matrix((amount[real], (resource[real], entry[real])), (r, e + r))
    whole = sparse.csr_matrix((np.ones(e), (row, np.arange(e))), (n, e + r))
    cost = np.concatenate([p.cost_us[row, column] * demand, np.full(r, overflow_us)])
    found = linprog(cost, A_ub=use, b_ub=limit, A_eq=whole, b_eq=np.ones(n), method="highs")
    assert found.success
    overload = float(found.x[e:].sum())
    share = np.zeros(p.cost_us.shape)
    share[row, column] = found.x[:e]
    return share, overload


def small_problems(links: int, least: float, most: float) -> st.SearchStrategy[Problem]:
    return st.builds(
        problem,
        seed=st.integers(0, 2**32),
        n=st.integers(1, 20),
        p=st.integers(2, 6),
        utilisation=st.floats(least, most),
        links=st.just(links),
    )


problems = small_problems(0, 0.1, 1.4) | small_problems(3, 0.1, 1.4)


@pytest.mark.parametrize("links", [0, 3])
@pytest.mark.parametrize(("least", "most"), [(0.1, 0.8), (0.8, 1.0), (1.0, 1.4)])
@given(data=st.data())
@settings(max_examples=560, deadline=None)
def test_small_problems_are_solved_exactly(
    links: int, least: float, most: float, data: st.DataObject
) -> None:
    p = data.draw(small_problems(links, least, most))
    best, overload = exact(p, 1e6)
    least = mean_us(p, best)

    solved = optimum(p)

    usable = np.isfinite(p.cost_us).any(axis=1)
    np.testing.assert_allclose(solved.share.sum(axis=1), usable, atol=1e-9)
    np.testing.assert_allclose(solved.load_bps, loads(p, solved.share)[0], rtol=1e-5, atol=1e-6)
    assert (solved.price_us >= 0).all()
    whole = p.demand_bps.sum()
    if overload < 1e-7 * whole:
        assert over(p, solved.share) <= 1e-5 * whole
        assert mean_us(p, solved.share) <= least * (1 + 1e-4)
        assert solved.bound_us <= mean_us(p, solved.share) * (1 + 1e-5)
        # When all is just full, prices may be those of the first piece of overflow.
        bend = OVERFLOW_US * (OVERFLOW_EDGES[0] / 2) ** 2 / 2
        assert solved.bound_us >= least * (1 - 1e-4) - bend
    else:
        # The cost of overflow is convex, so a spread overload may be more in total but costs less.
        assert spent(p, solved.share) <= spent(p, best) * 1.01
        assert solved.bound_us <= mean_us(p, solved.share) * (1 + 1e-5)


def market(p: Problem) -> Market:
    """The same without links, row by row."""
    usable = np.asarray(np.isfinite(p.cost_us).any(axis=1))
    with crew() as workers:
        capacity = np.append(p.capacity_bps, np.inf)
        return policy._offer(p, usable, capacity, workers, cut=False).market


@given(problems, st.lists(st.floats(0, 4e5), min_size=6, max_size=6))
@settings(max_examples=300, deadline=None)
def test_any_prices_give_a_bound(p: Problem, prices: list[float]) -> None:
    p = replace(p, link=None, link_bps=None)
    best, overload = exact(p, 1e6)
    sold = market(p)
    price = np.append(np.array(prices[: len(p.capacity_bps)]), 0.0)

    with crew() as workers:
        bound = choose(sold, price, 100.0, workers).value - paid(sold.capacity, price)

    if overload < 1e-9 * p.demand_bps.sum():
        assert bound / p.demand_bps.sum() <= mean_us(p, best) * (1 + 1e-6) + 1e-3


@given(problems, st.floats(0.7, 1.4))
@settings(max_examples=150, deadline=None)
def test_prices_of_another_day_lead_to_the_same_optimum(p: Problem, change: float) -> None:
    before = optimum(replace(p, capacity_bps=p.capacity_bps * change))

    cold = optimum(p)
    warm = optimum(replace(p, warm_us=before.price_us, warm_link_us=before.link_price_us))

    scale = 1e-6 * p.demand_bps.sum()
    if over(p, cold.share) < scale:
        assert over(p, warm.share) < 10 * scale
        assert mean_us(p, warm.share) == pytest.approx(mean_us(p, cold.share), rel=1e-4)


def judged(market: Market, cleared: Cleared) -> tuple[float, float]:
    """Of the bound, how much more it costs, overload included; of all demand, what is too much."""
    share = cleared.share(market.cost_us.shape[1])
    np.testing.assert_allclose(share.sum(axis=1), 1.0, atol=1e-9)
    load, spent = weighed(market, share)
    np.testing.assert_allclose(load, cleared.load, rtol=1e-6, atol=1e-6 * market.demand.sum())
    excess = np.maximum(load - market.capacity, 0.0).sum() / market.demand.sum()
    return (spent + overflow_cost(market.capacity, load)) / cleared.bound - 1, float(excess)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_large_market_is_cleared_within_a_fraction_of_its_bound(seed: int) -> None:
    sold = make_market(Shape(rows=60_000, pops=100, seed=seed))

    with crew() as workers:
        cold = clear(sold, workers)
        later = changed(sold, 0.01, seed)
        warm = clear(later, workers, cold.price_us)

    for market, cleared in ((sold, cold), (later, warm)):
        gap, excess = judged(market, cleared)
        assert -1e-6 <= gap <= 0.0015
        assert excess <= 1e-6


def test_a_market_that_is_nearly_full_is_cleared_without_overload() -> None:
    sold = make_market(Shape(rows=20_000, pops=100, seed=2, utilisation=0.95))

    with crew() as workers:
        cleared = clear(sold, workers)

    gap, excess = judged(sold, cleared)
    assert unavoidable(sold) == 0
    assert -1e-6 <= gap <= 0.0015
    assert excess <= 1e-6


def test_where_staying_is_worth_much_the_certificate_is_as_good() -> None:
    sold = make_market(Shape(rows=40_000, pops=60, seed=3))
    with crew() as workers:
        first = clear(sold, workers)
        later = changed(sold, 0.05, 3)
        cost = later.cost_us + np.float32(8_000)
        row = np.arange(len(later))
        cost[row, first.at] = later.cost_us[row, first.at]
        sticky = replace(later, cost_us=cost)

        warm = clear(sticky, workers, first.price_us)

    gap, excess = judged(sticky, warm)
    assert -1e-6 <= gap <= 0.0015
    assert excess <= 1e-6
    assert np.mean(warm.at != first.at) < 0.05


@given(small_problems(0, 0.5, 1.4))
@settings(max_examples=100, deadline=None)
def test_what_no_assignment_avoids_is_known(p: Problem) -> None:
    """The judge of the benchmark, held to the linear programme."""
    sold = market(p)
    # Each POP with one link that is as large.
    pops = len(p.capacity_bps)
    links = np.where(sold.pop < pops, sold.pop + pops + 1, sold.link)
    capacity = np.concatenate([sold.capacity, p.capacity_bps])
    demand = float(sold.demand.sum(dtype=np.float64))

    told = unavoidable(replace(sold, link=links, capacity=capacity))

    assert told == pytest.approx(exact(p, 1e9)[1] / demand, abs=1e-5)


def test_prices_and_rounding_reach_what_the_exact_way_reaches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    p = problem(3, 3_000, 20, 0.75, links=30)
    best = optimum(p)
    monkeypatch.setattr(policy, "EXACT_ROWS_MAX", 0)

    rounded = optimum(p)

    assert over(p, best.share) <= 1e-5 * p.demand_bps.sum()
    assert over(p, rounded.share) <= 1e-3 * p.demand_bps.sum()
    assert mean_us(p, rounded.share) <= mean_us(p, best.share) * 1.03
    assert rounded.bound_us <= mean_us(p, best.share) * (1 + 1e-6)


def test_links_are_kept_within_their_capacities() -> None:
    p = problem(4, 1_000, 10, 0.7, links=12)
    blind = optimum(replace(p, link=None, link_bps=None))

    seeing = optimum(p)

    assert over(p, blind.share) > 1e-3 * p.demand_bps.sum()
    assert over(p, seeing.share) <= 1e-5 * p.demand_bps.sum()
    assert seeing.link_price_us.shape == (12,)
    assert seeing.link_price_us.max() > 0


def full_problem(seed: int, n: int, p: int, utilisation: float) -> Problem:
    """Every prefix can go to every POP."""
    rng = np.random.default_rng(seed)
    demand = rng.pareto(1.5, n) + 0.2
    capacity = rng.uniform(0.3, 1.7, p)
    capacity *= demand.sum() / capacity.sum() / utilisation
    cost = rng.uniform(1_000, 200_000, (n, p))
    pop = np.tile(np.arange(p), (n, 1))
    return Problem(pop, cost, np.zeros((n, p)), demand, capacity, np.zeros((n, p)))


@pytest.mark.parametrize("utilisation", [0.5, 0.75, 0.9])
def test_the_optimum_is_met_and_better_than_the_greedy(utilisation: float) -> None:
    p = full_problem(1, 2_000, 20, utilisation)

    solved = optimum(p)

    assert (solved.load_bps <= p.capacity_bps * (1 + 1e-6)).all()
    assert mean_us(p, solved.share) <= solved.bound_us * 1.0001
    assert mean_us(p, solved.share) <= mean_us(p, greedy(p).share) * 1.0001


def test_prices_are_paid_only_where_it_is_full() -> None:
    p = full_problem(2, 2_000, 20, 0.6)

    solved = optimum(p)

    used = solved.load_bps / p.capacity_bps
    assert (used[solved.price_us > 2_000] > 0.97).all()
    assert (solved.price_us >= 0).all()


def test_unlimited_pops_cost_nothing() -> None:
    p = full_problem(3, 200, 5, 0.9)
    capacity = np.where(np.arange(5) == 2, np.inf, p.capacity_bps)

    solved = optimum(replace(p, capacity_bps=capacity))

    assert solved.price_us[2] == 0
    assert np.isfinite(solved.bound_us)


@pytest.mark.parametrize("exact_rows", [0, 10_000])
def test_what_does_not_fit_overflows_alike(
    exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "EXACT_ROWS_MAX", exact_rows)
    p = full_problem(4, 2_000, 10, 1.2)

    used = optimum(p).load_bps / p.capacity_bps

    assert used.max() < 1.35
    assert used.min() > 1.0


def test_an_overload_is_spread_over_all_pops_and_links() -> None:
    sold = make_market(Shape(rows=5_000, pops=100, utilisation=1.15))

    with crew() as workers:
        cleared = clear(sold, workers)

    gap, _ = judged(sold, cleared)
    assert (cleared.load / sold.capacity).max() < 1.5
    assert 0 <= gap <= 0.03


@pytest.mark.parametrize("exact_rows", [0, 10_000])
def test_moves_for_gain_are_bounded(exact_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "EXACT_ROWS_MAX", exact_rows)
    p = full_problem(5, 2_000, 10, 0.7)
    there = optimum(p).share
    p = replace(p, cost_us=full_problem(6, 2_000, 10, 0.7).cost_us, present=there)

    free, bounded = optimum(p), optimum(replace(p, move_share_max=0.05))

    moved = [p.demand_bps @ np.maximum(s.share - there, 0).sum(axis=1) for s in (free, bounded)]
    assert moved[0] > 0.5 * p.demand_bps.sum()
    assert 0.04 * p.demand_bps.sum() < moved[1] <= 0.0501 * p.demand_bps.sum()
    assert (bounded.load_bps <= p.capacity_bps * 1.001).all()


def test_nobody_moves_for_less_than_moving_costs() -> None:
    p = full_problem(7, 500, 5, 0.5)
    there = optimum(p).share
    noisy = p.cost_us + np.random.default_rng(1).uniform(-900, 900, p.cost_us.shape)

    again = optimum(replace(p, cost_us=noisy, present=there, move_us=np.full_like(noisy, 2_000)))

    np.testing.assert_allclose(again.share, there, atol=1e-6)


def test_prefixes_without_a_usable_pop_cost_no_other_its_place() -> None:
    p = full_problem(5, 50, 4, 0.5)
    cost = p.cost_us.copy()
    cost[7] = np.inf

    share = optimum(replace(p, cost_us=cost)).share

    assert not share[7].any()
    assert np.allclose(np.delete(share, 7, axis=0).sum(axis=1), 1)


def test_it_is_the_default_and_named_honestly() -> None:
    name, placed_by = POLICIES["optimum"]
    p = full_problem(5, 50, 4, 0.5)

    assert name == "optimum by prices"
    # But for what it does not split, it is the optimum.
    assert (placed_by(p).share == gathered(p, optimum(p)).share).all()
