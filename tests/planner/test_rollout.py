"""Who may move, what is measured of it, and what goes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.compare import Answers
from aggregator.rollout import STAY_S, Mode, Rollout, Trial, canaries, regret_us
from popsteer.names import Prefix, prefix_arrays

NOW_MS = 1_700_000_000_000
N = 2_000
NET, PLEN = prefix_arrays(Prefix.parse(f"10.{i // 250}.{i % 250}.0/24") for i in range(N))


def answers(pops: list[int]) -> Answers:
    return Answers(np.array(pops)[:, None], np.ones((len(pops), 1)))


def trial(old: list[int], new: list[int], demand_bps: list[float]) -> Trial:
    m = len(old)
    return Trial(NOW_MS, NET[:m], PLEN[:m], np.array(demand_bps), answers(old), answers(new))


def test_without_a_canary_everybody_moves() -> None:
    assert Rollout().may_move(NET, PLEN, np.ones(N), N).all()


def test_a_canary_is_a_fixed_part_of_those_who_would_move() -> None:
    rollout = Rollout(Mode.CANARY, share=0.1)

    chosen = rollout.may_move(NET, PLEN, np.ones(N), N)

    assert 0.07 * N < chosen.sum() < 0.13 * N
    assert (chosen == rollout.may_move(NET, PLEN, np.ones(N), N)).all()


def test_a_table_that_moves_little_needs_none() -> None:
    rollout = Rollout(Mode.CANARY, above=0.03)
    gain = np.where(np.arange(N) < 0.02 * N, 1.0, 0.0)

    assert rollout.may_move(NET, PLEN, gain, N).all()


def test_all_follow_when_nobody_regrets() -> None:
    begun = Rollout(Mode.CANARY).begun(trial([0, 1], [1, 0], [1, 1]))
    assert begun.trial is not None

    judged = begun.judged(-2_000.0, NOW_MS)

    assert judged.may_move(NET, PLEN, np.ones(N), N).all()
    assert judged.begun(trial([0], [1], [1])).trial is None


def test_what_is_regretted_stays_for_a_while() -> None:
    begun = Rollout(Mode.CANARY).begun(trial([0, 1], [1, 0], [1, 1]))

    judged = begun.judged(3_000.0, NOW_MS)

    allowed = judged.may_move(NET, PLEN, np.ones(N), N)
    assert not allowed[:2].any()
    assert allowed[2:].all()
    later = judged.begun(trial([], [], [])).judged(0.0, NOW_MS + int(STAY_S * 1_000) + 1)
    assert later.regretted == {}


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
