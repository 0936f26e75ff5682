"""N+1 kept current, a few POPs at a time, against looking at everything at once."""

import numpy as np
import pytest

from aggregator import survival
from aggregator.compare import answers, load_bps
from aggregator.failover import Ladder
from aggregator.survival import Placed, Survival, n_plus_one
from benchmarks.scene import T0_MS, Scene
from popsteer.names import Prefix, prefix_arrays
from popsteer.table import NO_POP, Table, TableMeta, build

P, N = 6, 200
POPS = tuple(f"p{i}" for i in range(P))
NET, PLEN = prefix_arrays(Prefix.parse(f"10.0.{i}.0/24") for i in range(N))
UP, DRAINED = np.ones(P, bool), np.zeros(P, bool)
LADDER = Ladder(np.ones(P, bool), np.arange(P))


def random_table(seed: int) -> Table:
    """Three candidates for each prefix, 10 ms apart; two have a share."""
    rng = np.random.default_rng(seed)
    pop = np.full((N, 8), NO_POP, np.uint16)
    share = np.zeros((N, 8), np.uint8)
    rtt = np.zeros((N, 8), np.uint16)
    for row in range(N):
        pop[row, :3] = rng.permutation(P)[:3]
        share[row, 0] = rng.integers(100, 256)
        share[row, 1] = 255 - share[row, 0]
        rtt[row, :3] = (100, 200, 300)
    return build(TableMeta(generation=1), POPS, NET, PLEN, pop, share, rtt)


def placed(table: Table, seed: int) -> Placed:
    demand = np.random.default_rng(seed).uniform(1, 9, N)
    return Placed(answers(table, NET, PLEN, POPS), demand, LADDER)


def test_after_enough_steps_it_is_what_all_at_once_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survival, "ROWS_PER_STEP", 90)
    tables = [random_table(1), random_table(2)]
    sets = [placed(table, seed) for seed, table in enumerate(tables)]
    capacity = np.full(P, 400.0)
    picture, looked = Survival(P), []

    for step in range(P):
        picture.step(sets, tables, (NET, PLEN), UP, DRAINED, T0_MS + step)
        whole = sum(float(one.demand_bps.sum()) for one in sets)
        load = np.sum([load_bps(one.said, one.demand_bps, P) for one in sets], axis=0)
        found = picture.losses(load, capacity, UP, whole)
        looked.append(int((found.seen_ms > 0).sum()))

    assert looked == [1, 2, 3, 4, 5, 6]
    want = n_plus_one(sets, capacity, UP, DRAINED)
    assert found.overload_bps == pytest.approx(want.overload_bps, rel=1e-4)
    assert found.fullest.tolist() == want.fullest.tolist()
    assert found.utilisation == pytest.approx(want.utilisation, rel=1e-4)


def test_a_capacity_that_shrinks_is_seen_without_looking_again() -> None:
    table, picture = random_table(3), Survival(P)
    one = placed(table, 3)
    picture.step([one], [table], (NET, PLEN), UP, DRAINED, T0_MS)
    load, whole = load_bps(one.said, one.demand_bps, P), float(one.demand_bps.sum())

    roomy = picture.losses(load, np.full(P, 1e4), UP, whole)
    tight = picture.losses(load, np.full(P, 100.0), UP, whole)

    assert not roomy.overload_bps.any()
    assert (tight.overload_bps > 0).all()


def test_added_rtt_is_what_those_who_move_pay() -> None:
    table, picture = random_table(4), Survival(P)
    one = placed(table, 4)
    picture.step([one], [table], (NET, PLEN), UP, DRAINED, T0_MS)

    added = picture.losses(np.zeros(P), np.full(P, np.inf), UP, 1.0).added_us

    # First candidates lose 10 ms to the second; the second's share goes on to the third.
    assert (added >= 10_000 - 1e-6).all()
    assert (added <= 10_000 + 1e-6).all()


def test_the_overview_has_n_plus_one_of_every_pop(scene: Scene) -> None:
    scene.run(60)
    seen = scene.overview()
    losses = [pop.if_lost for pop in seen.pops.values()]

    assert all(one is not None and one.age_s <= 4 for one in losses)
    busy = [one for pop, one in zip(seen.pops.values(), losses, strict=True) if pop.demand_share]
    assert all(one is not None and one.fullest and one.utilisation for one in busy)
    assert seen.services["www.cdn.example."].policy == "optimum"
