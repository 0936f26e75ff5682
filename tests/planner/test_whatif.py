"""What a loss or a surge does, against plain arithmetic row by row."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.compare import Answers
from aggregator.failover import Ladder
from aggregator.services import ServiceSet
from aggregator.survival import n_plus_one
from aggregator.terms import even
from aggregator.whatif import Change, Situation, whatif
from popsteer.names import Prefix, prefix_arrays

POPS = ("ams1", "fra1", "lhr1")


def situation(
    said: list[list[tuple[int, float]]],
    demand_bps: list[float],
    rtt_ms: list[list[float]],
    capacity_bps: list[float],
) -> Situation:
    """`said` is (POP, share) by rank; candidates of every row are all POPs."""
    n, p = len(said), len(capacity_bps)
    net, plen = prefix_arrays(Prefix.parse(f"10.0.{i}.0/24") for i in range(n))
    ranks = max(len(row) for row in said)
    pop, share = np.full((n, ranks), -1, np.int64), np.zeros((n, ranks))
    for i, row in enumerate(said):
        for j, (number, part) in enumerate(row):
            pop[i, j], share[i, j] = number, part
    return Situation(
        pops=tuple(f"p{i}" for i in range(p)) if p != len(POPS) else POPS,
        net=net,
        plen=plen,
        demand_bps=np.array(demand_bps, np.float64),
        pop=np.tile(np.arange(p), (n, 1)),
        rtt_us=np.array(rtt_ms) * 1e3,
        spread_us=np.zeros((n, p)),
        said=Answers(pop, share),
        up=np.ones(p, bool),
        drained=np.zeros(p, bool),
        capacity_bps=np.array(capacity_bps, np.float64),
        fill=1.0,
        move_gain_us=0.0,
        sets=(ServiceSet((), "optimum", np.ones(p, bool), even(p), 1.0),),
        ladders=(Ladder(np.ones(p, bool), np.zeros(0, np.int64)),),
        ends=(n,),
    )


@pytest.fixture
def small() -> Situation:
    """Two prefixes at ams1 and one at fra1; their second ranks differ."""
    return situation(
        said=[[(0, 1.0), (1, 0.0)], [(0, 1.0), (2, 0.0)], [(1, 1.0), (0, 0.0)]],
        demand_bps=[10, 20, 30],
        rtt_ms=[[5, 8, 30], [6, 40, 9], [20, 4, 50]],
        capacity_bps=[40, 35, 100],
    )


def test_a_lost_pop_hands_over_by_rank(small: Situation) -> None:
    account = whatif(small, Change(down=frozenset({"ams1"})))

    assert account.now.load_bps.tolist() == [30, 30, 0]
    assert account.at_once.load_bps.tolist() == [0, 40, 20]
    assert account.at_once.overload_share == pytest.approx(5 / 60)
    moves = list(
        zip(
            account.moved_at_once.source,
            account.moved_at_once.target,
            account.moved_at_once.bps,
            account.moved_at_once.added_us,
            strict=True,
        )
    )
    assert moves == [(0, 2, 20, 3_000), (0, 1, 10, 3_000)]


def test_replanning_takes_the_overload_away(small: Situation) -> None:
    account = whatif(small, Change(down=frozenset({"ams1"})))

    assert account.replanned.overload_share == pytest.approx(0, abs=1e-9)
    assert account.replanned.load_bps[0] == 0
    assert account.replanned.load_bps.sum() == pytest.approx(60)


def test_replanning_asks_each_services_policy(small: Situation) -> None:
    everywhere, only_lhr = np.ones(3, bool), np.array([False, False, True])
    base = replace(
        small,
        sets=(
            ServiceSet(("www.",), "nearest", everywhere, even(3), 0.5),
            ServiceSet(("video.",), "optimum", only_lhr, even(3), 0.5),
        ),
        ladders=(Ladder(everywhere, np.arange(3)), Ladder(only_lhr, np.array([2]))),
        ends=(2, 3),
    )

    account = whatif(base, Change())

    assert account.replanned.load_bps.tolist() == [30, 0, 30]


def test_the_mean_is_weighted_by_demand(small: Situation) -> None:
    account = whatif(small, Change())

    assert account.now.latency_us == pytest.approx((10 * 5 + 20 * 6 + 30 * 4) / 60 * 1e3)
    assert account.at_once.latency_us == account.now.latency_us
    assert not len(account.moved_at_once.bps)


def test_demand_grows_within_the_prefix_alone(small: Situation) -> None:
    account = whatif(small, Change(demand={Prefix.parse("10.0.2.0/23"): 3.0}))

    assert account.at_once.load_bps.tolist() == [30, 90, 0]
    assert account.at_once.overload_share == pytest.approx(55 / 120)


def test_a_pin_sends_its_prefixes_to_one_pop_and_the_plan_makes_room(small: Situation) -> None:
    pins = {Prefix.parse("10.0.0.0/23"): "fra1"}

    told = whatif(small, Change(pins=pins))

    assert told.at_once.load_bps == pytest.approx([0, 60, 0])
    assert told.at_once.overload_share == pytest.approx(25 / 60)
    assert told.replanned.load_bps[1] == pytest.approx(35)
    assert told.replanned.said.pop[:2, 0].tolist() == [1, 1]
    assert told.replanned.said.share[:2, 0] == pytest.approx([1, 1])


def test_a_pin_to_a_pop_that_is_away_is_not_obeyed(small: Situation) -> None:
    away = replace(small, up=np.array([True, False, True]))

    told = whatif(away, Change(pins={Prefix.parse("10.0.0.0/23"): "fra1"}))

    assert told.at_once.load_bps == pytest.approx(told.now.load_bps)


def test_a_smaller_capacity_overloads_at_once_and_is_planned_around(small: Situation) -> None:
    account = whatif(small, Change(capacity_bps={"ams1": 12}))

    assert account.at_once.overload_share == pytest.approx(18 / 60)
    assert account.replanned.load_bps[0] <= 12 * (1 + 1e-9)


def test_the_new_plan_fills_to_the_target_alone() -> None:
    roomy = situation(
        said=[[(0, 1.0)] for _ in range(10)],
        demand_bps=[10.0] * 10,
        rtt_ms=[[5, 8 + i, 30] for i in range(10)],
        capacity_bps=[100, 100, 100],
    )

    told = whatif(replace(roomy, fill=0.6), Change())

    assert told.replanned.load_bps == pytest.approx([60, 40, 0])


def test_the_new_plan_moves_nobody_for_less_than_moving_is_worth() -> None:
    near = situation(
        said=[[(0, 1.0), (1, 0.0)]],
        demand_bps=[10],
        rtt_ms=[[7, 5, 30]],
        capacity_bps=[100, 100, 100],
    )

    assert whatif(near, Change()).replanned.load_bps == pytest.approx([0, 10, 0])
    held = replace(near, move_gain_us=3_000.0)
    assert whatif(held, Change()).replanned.load_bps == pytest.approx([10, 0, 0])
    doubted = replace(near, spread_us=np.full((1, 3), 3_000.0))
    assert whatif(doubted, Change()).replanned.load_bps == pytest.approx([10, 0, 0])


def test_n_plus_one_names_the_pop_that_gets_fullest(small: Situation) -> None:
    losses = n_plus_one(small.parts(small.said), small.capacity_bps, small.up, small.drained)

    assert losses.overload_share.tolist() == pytest.approx([5 / 60, 20 / 60, 0])
    assert losses.fullest.tolist() == [1, 0, -1]
    assert losses.utilisation.tolist()[:2] == pytest.approx([40 / 35, 60 / 40])


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    p = draw(st.integers(1, 5))
    rows = []
    for _ in range(draw(st.integers(1, 8))):
        order = draw(st.permutations(range(p)))
        ranks = draw(st.integers(1, p))
        cuts = sorted(draw(st.lists(st.floats(0, 1), min_size=ranks - 1, max_size=ranks - 1)))
        shares = np.diff([0.0, *cuts, 1.0]).tolist()
        rows.append(list(zip(order[:ranks], shares, strict=True)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    n = len(rows)
    return situation(
        rows,
        rng.integers(1, 100, n).tolist(),
        rng.integers(1, 100, (n, p)).tolist(),
        rng.integers(1, 300, p).tolist(),
    )


@settings(max_examples=60)
@given(base=situations(), data=st.data())
def test_what_moves_is_the_difference_of_the_placements(
    base: Situation, data: st.DataObject
) -> None:
    lost = data.draw(st.sampled_from(base.pops))

    account = whatif(base, Change(down=frozenset({lost})))

    for flows, after in (
        (account.moved_at_once, account.at_once),
        (account.moved_replanned, account.replanned),
    ):
        p = len(base.pops)
        change = np.bincount(flows.target, flows.bps, p) - np.bincount(flows.source, flows.bps, p)
        served = after.load_bps.sum() == pytest.approx(account.now.load_bps.sum())
        if served:
            assert change == pytest.approx(after.load_bps - account.now.load_bps, abs=1e-6)
