"""Who may move, what is measured of it, and what goes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.compare import Answers
from aggregator.publish import REFUSED_PREFIX
from aggregator.rollout import STAY_S, Mode, Rollout, Trial, canaries, regret_us, staged
from aggregator.solve import Assignment, Problem
from benchmarks.scene import Scene, make_scene
from popsteer import orders
from popsteer.names import Prefix, prefix_arrays
from popsteer.orders import Order, OrderKind
from popsteer.table import CURRENT_KEY

NOW_MS = 1_700_000_000_000
N = 2_000
NET, PLEN = prefix_arrays(Prefix.parse(f"10.{i // 250}.{i % 250}.0/24") for i in range(N))


def answers(pops: list[int]) -> Answers:
    return Answers(np.array(pops)[:, None], np.ones((len(pops), 1)))


def trial(old: list[int], new: list[int], demand_bps: list[float]) -> Trial:
    m = len(old)
    return Trial(NET[:m], PLEN[:m], np.array(demand_bps), answers(old), answers(new))


def test_without_a_canary_everybody_moves() -> None:
    assert Rollout().may_move(NET, PLEN, np.ones(N), N).all()


def test_a_canary_is_a_fixed_part_of_those_who_would_move() -> None:
    rollout = Rollout(Mode.CANARY, share=0.1)

    chosen = rollout.may_move(NET, PLEN, np.ones(N), N)

    assert 0.07 * N < chosen.sum() < 0.13 * N
    assert (chosen == rollout.may_move(NET, PLEN, np.ones(N), N)).all()


def test_a_table_that_moves_little_needs_none() -> None:
    gain = np.where(np.arange(N) < 0.02 * N, 1.0, 0.0)

    assert Rollout(Mode.CANARY).may_move(NET, PLEN, gain, N).all()


def tried(slower_us: float, now_ms: int = NOW_MS) -> Rollout:
    """After two prefixes on trial were measured so much slower than before."""
    begun = Rollout(Mode.CANARY, trial=trial([0, 0], [1, 1], [1, 1]))
    return begun.judged(lambda _, said: np.where(said.pop == 1, slower_us, 0.0), now_ms)


def test_all_follow_when_nobody_regrets() -> None:
    assert tried(-2_000).may_move(NET, PLEN, np.ones(N), N).all()
    assert not tried(-2_000).goes_back


def test_noise_is_no_regret() -> None:
    assert not tried(400).goes_back


def test_what_is_regretted_stays_for_a_while() -> None:
    judged = tried(3_000)
    assert judged.goes_back

    gain = np.where(np.arange(N) < 2, 1.0, 0.0)
    assert judged.may_move(NET, PLEN, gain, N).tolist() == [False] * 2 + [True] * (N - 2)
    later = Rollout(Mode.CANARY, regretted=judged.regretted)
    assert later.judged(lambda *_: np.zeros(0), NOW_MS + int(STAY_S * 1_000) + 1).regretted == {}


def test_regret_is_weighted_by_demand_and_leaves_out_the_unknown() -> None:
    cost = {0: 10_000.0, 1: 14_000.0, 2: np.nan}

    def cost_us(said: Answers) -> NDArray[np.float64]:
        return np.array([[cost[int(pop)] for pop in row] for row in said.pop])

    assert regret_us(trial([0, 1], [1, 0], [3, 1]), cost_us) == pytest.approx(2_000)
    assert regret_us(trial([0, 0], [1, 2], [1, 9]), cost_us) == pytest.approx(4_000)
    assert np.isnan(regret_us(trial([2], [0], [1]), cost_us))


@given(share=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_canaries_are_nested(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    net = rng.integers(0, 2**63, 200).astype(np.uint64)
    plen = np.full(200, 24, np.uint8)

    few, more = canaries(net, plen, share / 2), canaries(net, plen, share)

    assert not (few & ~more).any()
    assert not canaries(net, plen, 0.0).any()
    assert canaries(net, plen, 1.0).all()


def first_answers(scene: Scene) -> list[str]:
    return [scene.answer(prefix) for prefix in scene.prefixes()]


def moved(before: list[str], after: list[str]) -> set[int]:
    return {i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new}


def until_moved(scene: Scene, before: list[str], seconds: int = 90) -> set[int]:
    for _ in range(seconds):
        scene.run(1)
        if found := moved(before, first_answers(scene)):
            return found
    raise AssertionError(f"nobody moved in {seconds} s")


def slowed(rollout: str) -> tuple[Scene, list[str]]:
    """A scene at rest in which every prefix's own POP becomes far slower."""
    scene = make_scene(prefixes=60, headroom=20, rollout=rollout, canary_share=0.2)
    scene.run(95)
    before = first_answers(scene)
    for i, pop in enumerate(before):
        scene.rtt_us[i, scene.pops.index(pop)] += 300_000
    return scene, before


def test_only_canaries_move_first_and_the_others_follow() -> None:
    scene, before = slowed("canary")
    chosen = set(np.flatnonzero(canaries(scene.net, scene.plen, 0.2)).tolist())

    first = until_moved(scene, before)
    assert first <= chosen
    assert "canary:" in scene.table().meta.note

    scene.run(35)
    assert moved(before, first_answers(scene)) - chosen


def test_regretted_moves_go_back() -> None:
    scene, before = slowed("canary")
    first = until_moved(scene, before)
    after = first_answers(scene)
    for i in first:
        scene.rtt_us[i, scene.pops.index(after[i])] += 900_000

    notes = []
    scene.run(40, lambda now: notes.append(now.table().meta.note))

    back = [note for note in notes if "went back after a regret of" in note]
    assert back
    assert {i for i in first if first_answers(scene)[i] == before[i]} == first


@pytest.mark.parametrize(("old_us", "share"), [(12_000.0, [1, 0, 0]), (np.inf, [0, 1, 0])])
def test_what_is_regretted_goes_back_unless_its_pop_is_away(
    old_us: float, share: list[float]
) -> None:
    """One prefix was tried at POP 1 instead of 0, and now wants to POP 2."""
    problem = Problem(
        pop=np.array([[0, 1, 2]]),
        cost_us=np.array([[old_us, 20_000.0, 10_000.0]]),
        move_us=np.zeros((1, 3)),
        demand_bps=np.ones(1),
        capacity_bps=np.full(3, np.inf),
        present=np.array([[0.0, 1.0, 0.0]]),
    )
    wanted = Assignment(np.array([[0.0, 0.0, 1.0]]), np.array([0.0, 0, 1]), np.zeros(3), np.nan)
    began = Rollout(Mode.CANARY, trial=trial([0], [1], [1.0]))
    regretted = began.judged(lambda _, said: np.where(said.pop == 1, 3_000.0, 0.0), NOW_MS)

    done, after = staged(regretted, problem, wanted, answers([1]), NET[:1], PLEN[:1])

    assert done.share.tolist() == [share]
    assert done.load_bps.tolist() == share
    assert after.trial is None


def test_a_failure_waits_for_no_canary() -> None:
    scene = make_scene(prefixes=60, headroom=20, rollout="canary", canary_share=0.1)
    scene.run(95)
    before = first_answers(scene)
    victim = before[0]

    scene.down.add(victim)
    scene.run(15)

    assert victim not in first_answers(scene)


def test_a_pop_that_is_too_full_waits_for_no_canary() -> None:
    scene = make_scene(prefixes=60, headroom=3, rollout="canary", canary_share=0.05)
    scene.run(95)
    load = scene.load_bps()
    busiest = int(load.argmax())
    cap = Order(
        id="cap-1",
        kind=OrderKind.CAP,
        pop=scene.pops[busiest],
        value_bps=float(load[busiest]) / 3,
        owner="ops",
        reason="a test",
        created_ms=scene.now_ms,
        expires_ms=scene.now_ms + 600_000,
    )
    before = [scene.pops[busiest] == pop for pop in first_answers(scene)]

    orders.give(scene.store, cap, scene.now_ms)
    scene.run(5)

    left = [scene.pops[busiest] == pop for pop in first_answers(scene)]
    assert sum(left) <= 0.7 * sum(before)


def test_in_the_shadow_tables_are_kept_and_nobody_is_sent_by_them() -> None:
    scene = make_scene(rollout="shadow")

    scene.run(60)

    assert scene.store.read(CURRENT_KEY) is None
    assert "shadow" in scene.planner.refused
    assert scene.store.list(REFUSED_PREFIX)
