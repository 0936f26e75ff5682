"""Demand: proportions from reports, scale from measured load, the prior while few report."""

import numpy as np
import pytest

from aggregator.demand import SCALE_MAX, SCALE_MIN, Demand
from aggregator.prefixes import Prefixes
from benchmarks.scene import T0_MS, WINDOW_MS, demand_partial
from popsteer.names import Prefix, prefix_arrays

POPS = ("a", "b", "c")
NET, PLEN = prefix_arrays([Prefix.parse(f"10.0.{i}.0/24") for i in range(6)])
TRUTH_BPS = np.array([4e9, 2e9, 1e9, 5e8, 3e8, 2e8])
AT = np.array([0, 1, 2, 0, 1, 2])
LOAD_BPS = np.bincount(AT, TRUTH_BPS).astype(np.float64)


def watched(
    windows: int, queries: int = 50, unit: float = 0.1, demand: Demand | None = None
) -> tuple[Demand, Prefixes]:
    demand = Demand(POPS, 20) if demand is None else demand
    prefixes = Prefixes()
    prefixes.add(NET, PLEN)
    for number in range(windows):
        bits = TRUTH_BPS * unit * WINDOW_MS / 1e3
        start_ms = T0_MS + number * WINDOW_MS
        demand.observe([demand_partial(start_ms, NET, PLEN, POPS, AT, bits, queries)], prefixes)
    return demand, prefixes


@pytest.mark.parametrize("unit", [0.01, 1.0, 30.0])
def test_reports_of_any_unit_are_scaled_to_the_measured_load(unit: float) -> None:
    demand, _ = watched(20, unit=unit)

    assert demand.bps(6, LOAD_BPS) == pytest.approx(TRUTH_BPS, rel=1e-6)


def test_foreign_load_on_one_pop_does_not_bend_the_scale() -> None:
    demand, _ = watched(20)
    load = LOAD_BPS + np.array([0, 9e10, 0])

    assert demand.bps(6, load) == pytest.approx(TRUTH_BPS, rel=1e-6)


def test_without_reports_the_expectation_rules() -> None:
    demand = Demand(POPS, 20)
    demand.expect(np.arange(6), TRUTH_BPS)

    assert demand.bps(8, np.full(3, np.nan)).tolist() == [*TRUTH_BPS.tolist(), 0, 0]
    assert demand.trust(6) == 0


def test_a_single_question_hardly_changes_what_is_expected() -> None:
    demand = Demand(POPS, 20)
    demand.expect(np.arange(6), TRUTH_BPS)
    prefixes = Prefixes()
    prefixes.add(NET, PLEN)
    one = demand_partial(T0_MS, NET[:1], PLEN[:1], POPS, AT[:1], np.array([4e7]), queries=1)

    demand.observe([one], prefixes)

    assert demand.bps(6, LOAD_BPS)[1:] == pytest.approx(TRUTH_BPS[1:], rel=0.1)


def test_many_reports_overrule_the_expectation() -> None:
    demand = Demand(POPS, 20)
    demand.expect(np.arange(6), TRUTH_BPS[::-1].copy())
    demand, _ = watched(30, queries=500, demand=demand)

    assert demand.bps(6, LOAD_BPS) == pytest.approx(TRUTH_BPS, rel=0.05)


def test_a_flash_crowd_shows_within_half_a_minute() -> None:
    demand, prefixes = watched(20)
    for number in range(20, 23):
        bits = 2 * TRUTH_BPS * 0.1 * WINDOW_MS / 1e3
        start_ms = T0_MS + number * WINDOW_MS
        demand.observe([demand_partial(start_ms, NET, PLEN, POPS, AT, bits, 100)], prefixes)

    assert demand.bps(6, 2 * LOAD_BPS).sum() == pytest.approx(2 * TRUTH_BPS.sum(), rel=0.01)
    assert demand.reported_bps().sum() > 0.1 * 1.7 * TRUTH_BPS.sum()


def test_a_crowd_in_one_region_is_known_by_its_prefixes_within_half_a_minute() -> None:
    demand, prefixes = watched(20)
    crowd = np.where(AT == 0, 2.0, 1.0) * TRUTH_BPS
    for number in range(20, 23):
        start_ms = T0_MS + number * WINDOW_MS
        bits = crowd * 0.1 * WINDOW_MS / 1e3
        demand.observe([demand_partial(start_ms, NET, PLEN, POPS, AT, bits, 100)], prefixes)

    grown = demand.bps(6, np.bincount(AT, crowd).astype(np.float64)) / TRUTH_BPS

    # By the long memory alone it would be 1.3.
    assert grown[AT == 0].min() > 1.55 * grown[AT != 0].max()


def test_one_busy_cache_is_no_crowd() -> None:
    demand, prefixes = watched(20)
    busy = np.where(AT == 0, 2.0, 1.0) * TRUTH_BPS * 0.1 * WINDOW_MS / 1e3
    start_ms = T0_MS + 20 * WINDOW_MS
    before = demand.bps(6, LOAD_BPS)

    demand.observe([demand_partial(start_ms, NET, PLEN, POPS, AT, busy, queries=1)], prefixes)

    share, share_before = (one / one.sum() for one in (demand.bps(6, LOAD_BPS), before))
    assert share == pytest.approx(share_before, rel=0.1)


def test_what_is_in_flight_follows_a_move_within_two_ttls() -> None:
    demand, prefixes = watched(20)
    moved = np.array([1, 1, 2, 1, 1, 2])
    for number in range(20, 24):
        bits = TRUTH_BPS * 0.1 * WINDOW_MS / 1e3
        start_ms = T0_MS + number * WINDOW_MS
        demand.observe([demand_partial(start_ms, NET, PLEN, POPS, moved, bits)], prefixes)

    assert demand.reported_bps()[0] < 0.2 * 0.1 * LOAD_BPS[0]


def test_late_reports_change_nothing_but_the_past() -> None:
    demand, prefixes = watched(20)
    late = demand_partial(T0_MS, NET[:1], PLEN[:1], POPS, AT[:1], np.array([1e11]), queries=1)

    demand.observe([late], prefixes)

    assert demand.bps(6, LOAD_BPS)[0] == pytest.approx(TRUTH_BPS[0], rel=0.3)


def test_foreign_load_on_most_pops_does_not_bend_the_scale_of_most_demand() -> None:
    demand, _ = watched(20)
    load = LOAD_BPS + np.array([0, 9e10, 9e10])

    assert demand.bps(6, load) == pytest.approx(TRUTH_BPS, rel=1e-6)


def test_a_late_report_counts_as_if_it_had_come_in_time() -> None:
    bits = TRUTH_BPS * 0.1 * WINDOW_MS / 1e3
    windows = [
        demand_partial(T0_MS + i * WINDOW_MS, NET, PLEN, POPS, AT, bits * (1 + i) ** 2, 50)
        for i in range(12)
    ]
    heavy = demand_partial(T0_MS, NET[:1], PLEN[:1], POPS, AT[:1], 50 * bits[:1], 50)
    told = []
    for order in ([heavy, *windows], [*windows, heavy]):
        demand, prefixes = Demand(POPS, 20), Prefixes()
        prefixes.add(NET, PLEN)
        for partial in order:
            demand.observe([partial], prefixes)
        told.append(demand.bps(6, LOAD_BPS))

    assert told[0] == pytest.approx(told[1], rel=1e-6)


def test_reports_are_not_believed_before_the_caches_have_filled() -> None:
    demand = Demand(POPS, 20)
    demand.expect(np.arange(6), TRUTH_BPS)

    watched(2, queries=10_000, demand=demand)
    assert demand.trust(6) == 0
    watched(12, queries=10_000, demand=demand)
    assert demand.trust(6) > 0.9


def test_a_scale_that_nobody_means_is_bounded() -> None:
    demand, _ = watched(20, unit=1e-9)

    assert demand.scale(LOAD_BPS) == SCALE_MAX
    assert demand.scale(LOAD_BPS * 1e-20) == SCALE_MIN
