"""Each named disaster is refused, and an ordinary change is not."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from aggregator.compare import Answers, answers, load_bps, moved, rows_of
from aggregator.guard import RISK_MAX, RULES, Case, Risk, judge
from aggregator.planner import Planner
from benchmarks.scene import T0_MS, Scene, make_scene, signal_partial
from popsteer import orders
from popsteer.names import Prefix, prefix_arrays
from popsteer.orders import Order, OrderKind
from popsteer.samples import Signal
from popsteer.table import CURRENT_KEY, NO_POP, Table, TableMeta, build

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
        capacity_rise=1.0,
        capacity_fall=1.0,
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
    "capacity": replace(GOOD, capacity_rise=1_000.0),
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
    assert judge(replace(GOOD, capacity_fall=1_000.0)).rule == "capacity"


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


def stale(scene: Scene) -> None:
    scene.rtt_us[:] = np.nan


def restarted(scene: Scene) -> None:
    """Another planner over the same store, or the same after a crash."""
    signer = scene.planner.publisher._signer
    scene.planner = Planner(scene.config, scene.store, signer, scene.trusted, None)


def shrunken(scene: Scene) -> None:
    """After a restart the measurements of half of all prefixes are gone."""
    half = len(scene.net) // 2
    for key in scene.store.list("partials/"):
        scene.store.delete(key)
    scene.net, scene.plen = scene.net[:half], scene.plen[:half]
    scene.rtt_us, scene.demand_bps = scene.rtt_us[:half], scene.demand_bps[:half]
    scene.held = scene.held[:half]
    restarted(scene)


def typo(scene: Scene) -> None:
    """A POP is configured with a thousand times its capacity."""
    first, *others = scene.config.pop
    slip = msgspec.structs.replace(first, capacity_bps=first.capacity_bps * 1_000)
    scene.config = msgspec.structs.replace(scene.config, pop=(slip, *others))
    restarted(scene)


DISASTERS_OF_THE_PLANNER = {
    "sources silent": silent_sources,
    "poisoned": poisoned,
    "stale inputs": stale,
    "shrunken coverage": shrunken,
    "capacity": typo,
}


@pytest.mark.parametrize("rule", DISASTERS_OF_THE_PLANNER)
def test_the_planner_keeps_the_last_good_table(rule: str) -> None:
    scene = make_scene(headroom=8)
    scene.run(60)

    DISASTERS_OF_THE_PLANNER[rule](scene)
    said = []
    scene.run(240, lambda now: said.append(refusal(now)))

    first = next((i for i, (text, _) in enumerate(said) if text.startswith(f"{rule}:")), None)
    assert first is not None
    assert said[first][1] == said[max(first - 1, 0)][1], "the last good table serves"
    assert scene.planner.latency.refusals > 0
    kept = [key for key in scene.store.objects if key.startswith("tables/refused/")]
    reasons = [msgspec.json.decode(scene.store.objects[k])["rule"] for k in kept if "json" in k]
    assert rule in reasons


def refusal(scene: Scene) -> tuple[str, int]:
    """What the guard says, and which table is in force."""
    return scene.overview().refused, scene.table().meta.generation


@pytest.mark.parametrize("disaster", [silent_sources, poisoned])
def test_a_planner_that_takes_over_judges_by_what_the_table_in_force_rests_on(
    disaster: Callable[[Scene], None],
) -> None:
    scene = make_scene(headroom=8)
    scene.run(60)
    for key in scene.store.list("partials/"):
        scene.store.delete(key)
    restarted(scene)

    disaster(scene)
    generation, refused = scene.table().meta.generation, []
    scene.run(60, lambda now: refused.append(now.overview().refused))

    assert any(refused)
    assert scene.table().meta.generation == generation


def test_a_standby_judges_by_the_tables_of_the_other(scene: Scene) -> None:
    signer = scene.planner.publisher._signer
    standby = Planner(scene.config, scene.store, signer, scene.trusted, None)
    first = scene.planner
    scene.run(95, lambda now: standby.step(now.now_ms + 400))
    assert standby.published == 0
    assert first.published > 0

    assert not standby.latency.reference.empty
    assert standby.latency.reference.pops == first.latency.reference.pops == P


def test_nobody_is_sent_to_one_pop_alone_at_first() -> None:
    scene = make_scene(headroom=100)
    scene.rtt_us[:, 0] = 2_000.0
    scene.rtt_us[:, 1:] += 50_000.0

    scene.run(40)

    assert scene.store.read(CURRENT_KEY) is None
    assert scene.planner.refused.startswith("all to one POP:")
    # Where users really live around one POP the refusals end by themselves.
    scene.run(240)
    assert scene.table().meta.generation >= 1
    assert not scene.planner.refused


def test_a_pin_of_everything_is_obeyed(scene: Scene) -> None:
    scene.run(60)
    order = Order(
        id="pin-1",
        kind=OrderKind.PIN,
        prefix="0.0.0.0/0",
        pop="p3",
        owner="ops",
        reason="a test",
        created_ms=scene.now_ms,
        expires_ms=scene.now_ms + 600_000,
    )

    orders.give(scene.store, order, scene.now_ms)
    scene.run(5)

    assert {scene.answer(p) for p in scene.prefixes()} == {"p3"}


def test_a_cap_and_a_restart_are_no_slip_of_a_unit(scene: Scene) -> None:
    scene.run(60)
    pop = scene.config.pop[0]
    order = Order(
        id="cap-1",
        kind=OrderKind.CAP,
        pop=pop.id,
        value_bps=float(pop.capacity_bps) / 100,
        owner="ops",
        reason="a test",
        created_ms=scene.now_ms,
        expires_ms=scene.now_ms + 600_000,
    )
    orders.give(scene.store, order, scene.now_ms)
    scene.run(20)
    generation = scene.table().meta.generation
    restarted(scene)

    scene.run(60)

    assert not scene.planner.refused
    assert scene.table().meta.generation > generation


def test_a_pop_that_lost_most_of_its_capacity_holds_up_no_tables_for_ever(scene: Scene) -> None:
    scene.run(60)
    pop = scene.config.pop[0]
    lost = {(pop.id, Signal.CAPACITY_BPS): pop.capacity_bps / 100}

    said = []

    def reports(now: Scene) -> None:
        now.write_link(signal_partial(now.now_ms, lost))
        said.append(now.planner.refused)

    scene.run(400, reports)

    assert any(text.startswith("capacity:") for text in said)
    assert not scene.planner.refused


def test_a_planner_that_slept_does_not_speak_of_yesterday() -> None:
    late = msgspec.structs.replace(GOOD.new.meta, window_last_ms=T0_MS - 60_000)

    assert judge(replace(GOOD, new=GOOD.new.with_meta(late))).rule == "stale inputs"

    future = msgspec.structs.replace(OLD.meta, window_last_ms=T0_MS + 3_600_000)
    assert judge(replace(GOOD, old=OLD.with_meta(future))).good


def test_rows_of_which_nothing_is_known_any_more_count_as_uncovered() -> None:
    half = case(OLD, table(SPREAD, rows=N // 2))
    known = slice(0, N // 2)
    blind = replace(
        half,
        demand_bps=half.demand_bps[known],
        before=answers(OLD, NET[known], PLEN[known], POPS),
        after=answers(half.new, NET[known], PLEN[known], POPS),
        excused=half.excused[known],
        rtt_ratio=half.rtt_ratio[known],
    )

    assert judge(blind).rule == "shrunken coverage"
    assert judge(replace(blind, coverage_min=0.4)).good


def test_who_was_at_one_pop_before_may_stay() -> None:
    at_one = table(np.zeros(N, np.int64), generation=1)

    assert judge(case(at_one, table(np.zeros(N, np.int64)))).good


def test_a_refusal_gives_way_when_the_world_really_changed() -> None:
    scene = make_scene(headroom=8)
    scene.run(60)

    scene.rtt_us *= 0.2
    scene.run(400)

    assert not scene.overview().refused
    assert scene.overview().latency_ms is not None


def test_the_end_of_a_slow_minute_is_no_lie() -> None:
    """Lost probes, or a full link at a vantage point: all RTTs rise, and are again what they were.

    Tables must not be refused for as long as the rise would take to be forgotten.
    """
    scene = make_scene(headroom=8)
    scene.run(60)
    well_us = scene.rtt_us.copy()

    scene.rtt_us = well_us * 30
    scene.run(60)
    scene.rtt_us = well_us
    said: list[tuple[str, int]] = []
    scene.run(120, lambda now: said.append(refusal(now)))

    assert [text for text, _ in said if text.startswith("poisoned")] == []
    assert said[-1][1] > said[0][1]
