"""What the planner wants to know better, and an agent that follows."""

import asyncio
import socket
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.candidates import Candidates
from aggregator.estimate import NINE_IN_TEN_SIGMAS, Estimates
from aggregator.explore import LIFE_MS, wanted_pairs, worth_of_knowing
from aggregator.prefixes import Prefixes
from aggregator.solve import NOWHERE, Assignment, Problem
from benchmarks.scene import make_scene
from popsteer import wanted as wanted_format
from popsteer.config import Probe
from popsteer.names import Prefix, SourceId, prefix_arrays
from popsteer.samples import Batch, RttBatch
from popsteer.store import MemoryStore
from popsteer.targets import Targets
from popsteer.wanted import KEY, PAIRS_MAX, Wanted
from probes.rounds import Rounds
from probes.wanted import Follower

POPS = ("a", "b", "c")


def situation(
    cost_us: list[list[float]], spread_us: list[list[float]], demand: list[float]
) -> tuple[Candidates, Problem, Assignment]:
    """The first candidate of each row is the chosen one; NaN is padding."""
    cost, spread = np.array(cost_us), np.array(spread_us)
    n, k = cost.shape
    there = np.isfinite(cost)
    pop = np.where(there, np.arange(k), NOWHERE)
    none = np.zeros(0)
    considered = Candidates(
        np.arange(n),
        pop,
        cost,
        spread,
        np.where(there, cost, np.inf),
        np.zeros((n, k), np.int64),
        Estimates(none.astype(np.int64), none, none, none, none, none),
        np.zeros((n, k), np.uint8),
    )
    share = np.zeros((n, k))
    share[:, 0] = 1.0
    problem = Problem(
        pop,
        np.where(there, cost, np.inf),
        np.zeros((n, k)),
        np.array(demand),
        np.full(k, np.inf),
        share,
    )
    return considered, problem, Assignment(share, np.zeros(k), np.zeros(k), np.nan)


def test_a_pop_whose_capacity_is_dear_is_not_worth_knowing() -> None:
    nan = float("nan")
    considered, problem, assignment = situation([[10e3, 11e3, nan]], [[1e3, 5e3, nan]], [1.0])
    dear = replace(assignment, price_us=np.array([0.0, 500e3, 0.0]))

    assert worth_of_knowing(considered, problem, assignment)[0, 1] > 0
    assert worth_of_knowing(considered, problem, dear)[0, 1] == 0


def test_near_doubtful_and_busy_pairs_are_worth_the_most() -> None:
    nan = float("nan")
    worth = worth_of_knowing(
        *situation(
            [[10e3, 11e3, 90e3], [10e3, 11e3, nan], [10e3, 11e3, nan], [10e3, 30e3, nan]],
            [[1e3, 5e3, 5e3], [1e3, 5e3, nan], [1e3, 500, nan], [1e3, 5e3, nan]],
            [1.0, 9.0, 1.0, 1.0],
        )
    )

    assert worth[0, 2] == 0
    assert worth[1, 1] == pytest.approx(9 * worth[0, 1])
    assert worth[0, 1] > worth[0, 0] > 0
    assert worth[0, 1] > worth[2, 1] > 0
    assert worth[3, 1] == 0
    assert (worth[1:, 2] == 0).all()


@given(st.floats(0, 20e3), st.floats(100, 9e3), st.floats(100, 9e3), st.integers(0, 2**32 - 1))
@settings(max_examples=30)
def test_the_worth_is_the_mean_of_what_knowing_saves(
    behind_us: float, spread_us: float, own_us: float, seed: int
) -> None:
    worth = worth_of_knowing(*situation([[50e3, 50e3 + behind_us]], [[own_us, spread_us]], [1.0]))

    rng, n = np.random.default_rng(seed), 50_000
    own = rng.normal(50e3, own_us / NINE_IN_TEN_SIGMAS, n)
    other = rng.normal(50e3 + behind_us, spread_us / NINE_IN_TEN_SIGMAS, n)
    saved = np.maximum(own - other, 0.0)
    error = 6 * saved.std() / np.sqrt(n) + 1e-3 * (own_us + spread_us)
    assert worth.sum() == pytest.approx(saved.mean(), abs=error)


def test_what_cannot_be_used_is_not_worth_knowing() -> None:
    considered, problem, solved = situation([[10e3, 10e3]], [[5e3, 5e3]], [1.0])
    problem.cost_us[0, 1] = np.inf

    assert not worth_of_knowing(considered, problem, solved).any()


def test_the_plan_is_bounded_and_the_dearest_come_first() -> None:
    n = PAIRS_MAX
    demand = np.random.default_rng(4).permutation(n) + 1.0
    prefixes = Prefixes()
    prefixes.add(*prefix_arrays([Prefix(i << 40, 24) for i in range(n)]))

    plan = wanted_pairs(
        *situation([[10e3, 10e3]] * n, [[1e3, 2e3]] * n, demand.tolist()), prefixes, POPS, 7
    )

    assert sum(len(listed) for listed in plan.pops.values()) == PAIRS_MAX
    assert plan.expires_ms == 7 + LIFE_MS
    for listed in plan.pops.values():
        rows = [Prefix.parse(text).net >> 40 for text in listed]
        assert (np.diff(demand[rows]) < 0).all()
    assert wanted_format.decode(wanted_format.encode(plan)) == plan
    # The rival is more doubtful than the chosen one, so more of it is wanted.
    assert len(plan.pops["b"]) > len(plan.pops["a"])


async def follow(
    store: MemoryStore, pop: str, targets: Targets, port: int, for_s: float
) -> list[tuple[int, int]]:
    """What an agent at `pop` measures."""
    seen: list[tuple[int, int]] = []

    def offer(batch: Batch) -> bool:
        assert isinstance(batch, RttBatch)
        seen.extend(zip(batch.net.tolist(), batch.plen.tolist(), strict=True))
        return True

    probe = Probe(pop=pop, methods=("tcp",), port=port, interval_s=0.5, rate_max_per_s=200.0)
    rounds = Rounds(targets, probe, SourceId(f"{pop}.rtt"), offer, np.random.default_rng(2))
    follower = Follower(store, pop, targets, rounds.want, poll_s=0.05)
    tasks = [asyncio.create_task(one.run()) for one in (rounds, follower)]
    await asyncio.sleep(for_s)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


async def test_an_agent_measures_more_often_what_the_planner_doubts() -> None:
    """Planner and agent meet in the store alone: partials in, plan out, rounds that follow."""
    scene = make_scene(pops=3, prefixes=20, headroom=30)
    scene.rtt_us[:10] = [10e3, 60e3, 90e3]
    scene.rtt_us[10:] = [90e3, 60e3, 10e3]
    scene.rtt_us[4] = [20e3, 20.5e3, 90e3]
    scene.run(60)
    stored = scene.store.read(KEY)
    assert stored is not None
    plan = wanted_format.decode(stored.body)
    doubtful = scene.prefixes()[4]
    rival = scene.pops[1]
    assert plan.pops[rival] == (str(doubtful),)
    # The agent's clock is today's, the scene's is not.
    today = Wanted(created_ms=0, expires_ms=int(time.time() * 1e3) + 60_000, pops=plan.pops)
    store = MemoryStore({KEY: wanted_format.encode(today)})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        targets = Targets(scene.net, scene.plen, ("127.0.0.1",) * 20, scene.demand_bps)

        seen = await follow(store, rival, targets, port, 2.2)

    counts = {prefix: seen.count((prefix.net, prefix.plen)) for prefix in scene.prefixes()}
    others = [count for prefix, count in counts.items() if prefix != doubtful]
    assert min(others) >= 2
    assert counts[doubtful] >= 2.5 * max(others)
    assert len(seen) <= 200 * 2.4


def test_an_agent_forgets_a_plan_that_expired_and_one_that_is_broken() -> None:
    net, plen = prefix_arrays([Prefix.parse("10.0.0.0/24"), Prefix.parse("10.0.1.0/24")])
    targets = Targets(net, plen, ("", ""), np.zeros(2))
    given: list[list[int]] = []
    plan = Wanted(created_ms=0, expires_ms=100, pops={"a": ("10.0.1.0/24", "10.0.9.0/24")})
    store = MemoryStore({KEY: wanted_format.encode(plan)})
    follower = Follower(store, "a", targets, lambda indices: given.append(indices.tolist()))

    follower.read()
    follower.follow(50)
    follower.follow(60)
    store.objects[KEY] = b"broken"
    follower.read()
    follower.follow(70)
    follower.follow(100)

    assert given == [[1], []]
