"""Each named disaster is refused, and an ordinary change is not."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from aggregator.compare import Answers, answers, load_bps, moved, rows_of
from aggregator.guard import RISK_MAX, RULES, Case, Risk, judge
from benchmarks.scene import T0_MS, Scene, make_scene
from popsteer.names import Prefix, prefix_arrays
from popsteer.table import NO_POP, Table, TableMeta, build

N, P = 40, 5
POPS = tuple(f"p{i}" for i in range(P))
PREFIXES = [Prefix.parse(f"10.0.{i}.0/24") for i in range(N)]
NET, PLEN = prefix_arrays(PREFIXES)


def table(first: np.ndarray, generation: int = 2, rows: int = N) -> Table:
    """Each prefix has one POP."""
    pop = np.full((rows, 8), NO_POP, np.uint16)
    share = np.zeros((rows, 8), np.uint8)
    pop[:, 0], share[:, 0] = first[:rows], 255
    meta = TableMeta(generation=generation, window_last_ms=T0_MS - 5_000)
    rtt = np.full((rows, 8), 100, np.uint16)
    return build(meta, POPS, NET[:rows], PLEN[:rows], pop, share, rtt)


def case(old: Table | None, new: Table) -> Case:
    before = answers(old, NET, PLEN, POPS)
    return Case(
        now_ms=T0_MS,
        old=old,
        new=new,
        demand_bps=np.ones(N),
        before=before,
        after=answers(new, NET, PLEN, POPS),
        excused=np.zeros(N),
        rtt_ratio=np.ones(N),
        pops_usable=P,
        pops_all=P,
        capacity_ratio_max=1.0,
        measured_pops=P,
        measured_pops_before=P,
    )


SPREAD = np.arange(N) % P
OLD = table(SPREAD, generation=1)
GOOD = case(OLD, table(np.where(np.arange(N) < 10, 0, SPREAD)))


def test_an_ordinary_change_passes() -> None:
    assert judge(GOOD).good


def test_the_first_table_passes() -> None:
    assert judge(case(None, table(SPREAD))).good


ratio = np.ones(N)
ratio[: N // 2] = 0.01

DISASTERS = {
    "empty": case(OLD, table(SPREAD, rows=0)),
    "replayed": case(OLD, table(SPREAD, generation=1)),
    "all POPs down": replace(GOOD, pops_usable=0),
    "stale inputs": replace(GOOD, now_ms=T0_MS + 600_000),
    "sources silent": replace(GOOD, measured_pops=2),
    "shrunken coverage": case(OLD, table(SPREAD, rows=N // 2)),
    "all to one POP": case(None, table(np.zeros(N, np.int64))),
    "capacity": replace(GOOD, capacity_ratio_max=1_000.0),
    "poisoned": replace(GOOD, rtt_ratio=ratio),
    "moved": case(OLD, table((SPREAD + 1) % P)),
    "N+1 overload": replace(GOOD, risk=Risk("p0", 0.05, 0.4)),
}


@pytest.mark.parametrize("name", DISASTERS)
def test_each_disaster_is_refused_by_its_rule(name: str) -> None:
    verdict = judge(DISASTERS[name])

    assert verdict.rule == name
    assert verdict.reason


def test_every_rule_has_its_disaster() -> None:
    assert set(RULES) == set(DISASTERS)


def test_a_policy_that_means_one_pop_may_name_one() -> None:
    assert judge(replace(DISASTERS["all to one POP"], one_pop_meant=True)).good


def test_a_risk_that_was_there_before_refuses_nothing() -> None:
    assert judge(replace(GOOD, risk=Risk("p0", 0.4, 0.4 + RISK_MAX))).good
    assert judge(replace(GOOD, risk=Risk("p0", np.inf, 0.9))).good


def test_what_a_failure_forces_may_move() -> None:
    forced = replace(DISASTERS["moved"], excused=np.ones(N))

    assert judge(forced).good


def test_a_capacity_typo_the_other_way_is_refused_too() -> None:
    assert judge(replace(GOOD, capacity_ratio_max=0.001)).rule == "capacity"


def test_lookup_agrees_with_the_tables_own() -> None:
    rng = np.random.default_rng(1)
    texts = [f"10.0.{4 * i}.0/{n}" for i, n in enumerate(rng.integers(22, 25, 50))]
    prefixes = [Prefix.parse(t) for t in texts] + [Prefix.parse("2001:db8::/48")]
    net, plen = prefix_arrays(prefixes)
    pop = np.full((len(net), 8), NO_POP, np.uint16)
    share = np.zeros((len(net), 8), np.uint8)
    pop[:, 0], share[:, 0] = rng.integers(0, P, len(net)), 255
    built = build(TableMeta(generation=1), POPS, net, plen, pop, share, share.astype(np.uint16))
    asked = [Prefix.parse(f"10.0.{i}.0/24") for i in range(230)]
    asked += [Prefix.parse("2001:db8::/64"), Prefix.parse("2001:db9::/48")]

    found = rows_of(built, *prefix_arrays(asked))

    assert found.tolist() == [built.find(prefix)[0] for prefix in asked]


def test_moved_is_the_demand_that_changes_its_pop() -> None:
    old = Answers(np.array([[0, 1], [2, -1], [-1, -1]]), np.array([[0.6, 0.4], [1, 0], [0, 0]]))
    new = Answers(np.array([[1, 0], [3, -1], [1, -1]]), np.array([[0.5, 0.5], [1, 0], [1, 0]]))

    assert moved(old, new) == pytest.approx([0.1, 1.0, 0.0])
    assert load_bps(new, np.array([10.0, 1, 1]), 4) == pytest.approx([5, 6, 0, 1])


def silent_sources(scene: Scene) -> None:
    scene.rtt_us[:, 2:] = np.nan


def poisoned(scene: Scene) -> None:
    scene.rtt_us[:, 4] = 500.0


@pytest.mark.parametrize(
    ("disaster", "rule"), [(silent_sources, "sources silent"), (poisoned, "poisoned")]
)
def test_the_planner_keeps_the_last_good_table(disaster: object, rule: str) -> None:
    scene = make_scene(headroom=8)
    scene.run(60)
    assert callable(disaster)

    disaster(scene)
    refused = []
    scene.run(160, lambda now: refused.append(now.overview().refused))

    assert any(text.startswith(f"{rule}:") for text in refused)
    kept = [key for key in scene.store.objects if key.startswith("tables/refused/")]
    reasons = [msgspec.json.decode(scene.store.objects[k])["rule"] for k in kept if "json" in k]
    assert rule in reasons


def test_a_refusal_gives_way_when_the_world_really_changed() -> None:
    scene = make_scene(headroom=8)
    scene.run(60)

    scene.rtt_us *= 0.2
    scene.run(400)

    assert not scene.overview().refused
    assert scene.overview().latency_ms is not None
