"""The planner end to end over a store in memory, under a virtual clock."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.plan import keys_of
from aggregator.planner import Planner
from benchmarks.scene import Scene, make_scene, signal_partial
from popsteer import orders
from popsteer.config import Config, Trust
from popsteer.errors import ConfigError, StoreError
from popsteer.evidence import Reason
from popsteer.orders import Order, OrderKind
from popsteer.samples import Signal
from popsteer.signing import create_signer
from popsteer.store import MemoryStore, Stored
from popsteer.table import CURRENT_KEY

REQUEST_BITS = 1e6


def give(scene: Scene, kind: OrderKind, seconds: int, **what: object) -> None:
    order = Order(
        id=f"{kind}-1",
        kind=kind,
        owner="ops",
        reason="a test",
        created_ms=scene.now_ms,
        expires_ms=scene.now_ms + seconds * 1_000,
        **what,  # type: ignore[arg-type]
    )
    orders.give(scene.store, order, scene.now_ms)


def nearest_with_room(scene: Scene, i: int) -> str:
    return scene.pops[int(scene.rtt_us[i].argmin())]


def utilisation(scene: Scene) -> np.ndarray:
    return np.asarray(scene.load_bps() / scene.planner.fleet.capacity_bps)


def test_the_first_window_gives_a_table(scene: Scene) -> None:
    scene.run(12)

    assert scene.table().meta.generation == 1
    assert all(scene.answer(p) in scene.pops for p in scene.prefixes())


def test_prefixes_go_to_their_nearest_pop_while_there_is_room() -> None:
    scene = make_scene(headroom=20)

    scene.run(40)

    for i, prefix in enumerate(scene.prefixes()):
        rtt_us = scene.rtt_us[i, scene.pops.index(scene.answer(prefix))]
        assert rtt_us < 1.1 * scene.rtt_us[i].min() + 2_000


def test_load_before_the_first_table_is_not_foreign() -> None:
    scene = make_scene(headroom=1.6)
    scene.extra_bps = {pop: float(scene.demand_bps.sum()) / 5 for pop in scene.pops}

    scene.run(12)
    scene.extra_bps.clear()
    scene.run(100)

    assert not scene.planner.loop.shed.any()
    assert scene.overview().overload_share == 0


def test_half_the_targets_wait_for_a_second_window() -> None:
    scene = make_scene()
    whole = scene.rtt_us.copy()
    scene.rtt_us[::2] = np.nan

    scene.run(12)
    assert CURRENT_KEY not in scene.store.objects
    scene.rtt_us = whole
    scene.run(10)

    assert scene.table().meta.generation >= 1


def test_an_rtt_change_is_followed_within_two_windows_and_a_period() -> None:
    scene = make_scene(headroom=20)
    scene.run(95)
    prefix, old = scene.prefixes()[3], nearest_with_room(scene, 3)
    assert scene.answer(prefix) == old

    scene.rtt_us[3, scene.pops.index(old)] += 300_000
    scene.run(55)

    assert scene.answer(prefix) == nearest_with_room(scene, 3) != old


def test_a_pop_that_says_it_is_down_leaves_state_and_table_within_seconds(scene: Scene) -> None:
    scene.run(60)
    victim = scene.answer(scene.prefixes()[0])

    scene.down.add(victim)
    scene.run(4)

    assert not scene.state().pops[victim].up
    assert all(scene.answer(p) != victim for p in scene.prefixes())
    assert "down" in scene.overview().pops[victim].reason
    scene.down.clear()
    scene.run(90)
    assert scene.state().pops[victim].up
    assert any(scene.answer(p) == victim for p in scene.prefixes())


def test_a_silent_pop_is_down_but_a_silent_fleet_is_not(scene: Scene) -> None:
    scene.run(60)
    scene.mute.add("p2")
    scene.run(15)
    assert not scene.state().pops["p2"].up

    scene.mute = set(scene.pops)
    scene.run(30)

    assert sum(not pop.up for pop in scene.state().pops.values()) == 1


def test_all_pops_down_is_not_believed(scene: Scene) -> None:
    scene.run(60)

    scene.down = set(scene.pops)
    scene.run(20)

    assert all(pop.up for pop in scene.state().pops.values())
    assert all("not believed" in pop.reason for pop in scene.state().pops.values())


def test_a_drain_empties_a_pop_at_once_and_ends_by_itself(scene: Scene) -> None:
    scene.run(60)
    victim = scene.answer(scene.prefixes()[0])

    give(scene, OrderKind.DRAIN, 60, pop=victim)
    scene.run(3)
    assert scene.state().pops[victim].drained
    assert all(scene.answer(p) != victim for p in scene.prefixes())
    reasons = scene.evidence().reason[scene.evidence().pop == scene.pops.index(victim)]
    assert set(reasons.tolist()) == {Reason.DRAINED}
    scene.run(120)

    assert not scene.state().pops[victim].drained
    assert any(scene.answer(p) == victim for p in scene.prefixes())


def test_a_pin_holds_a_prefix_and_everything_in_it(scene: Scene) -> None:
    scene.run(60)

    give(scene, OrderKind.PIN, 60, prefix="10.0.4.0/22", pop="p3")
    scene.run(3)

    for text in ("10.0.4.0/24", "10.0.7.0/24", "10.0.5.77/32"):
        prefix = type(scene.prefixes()[0]).parse(text)
        assert scene.answer(prefix) == "p3"
    scene.run(120)
    assert {scene.answer(p) for p in scene.prefixes()[4:8]} != {"p3"}


def test_a_pin_yields_to_a_pop_that_is_down(scene: Scene) -> None:
    scene.run(60)
    give(scene, OrderKind.PIN, 600, prefix="10.0.4.0/24", pop="p3")
    scene.down.add("p3")

    scene.run(5)

    assert scene.answer(scene.prefixes()[4]) != "p3"


def test_a_cap_is_planned_with() -> None:
    scene = make_scene(headroom=3)
    scene.run(60)
    busiest = scene.pops[int(scene.load_bps().argmax())]
    cap_bps = float(scene.load_bps().max()) / 3

    give(scene, OrderKind.CAP, 600, pop=busiest, value_bps=cap_bps)
    scene.run(120)

    assert scene.load_bps()[scene.pops.index(busiest)] < cap_bps
    assert "capped by order" in scene.state().pops[busiest].reason


def test_freeze_keeps_the_table_and_says_so(scene: Scene) -> None:
    scene.run(60)
    give(scene, OrderKind.FREEZE, 60)
    before = scene.table().meta.generation

    scene.run(50)
    assert scene.table().meta.generation == before
    assert "frozen by order of ops" in scene.overview().refused
    scene.run(60)

    assert scene.table().meta.generation > before
    assert not scene.overview().refused


def test_foreign_load_sheds_a_pop_and_then_moves_its_prefixes(scene: Scene) -> None:
    scene.run(120)
    pop = scene.pops[int(scene.load_bps().argmax())]
    p = scene.pops.index(pop)
    had = scene.held[:, p].sum()

    scene.extra_bps[pop] = 2 * float(scene.planner.fleet.capacity_bps[p])
    scene.run(5)
    assert scene.state().pops[pop].shed > 0.2
    assert "sheds" in scene.state().pops[pop].reason
    scene.run(10)
    assert scene.state().pops[pop].shed == 0  # a table has taken its place
    scene.run(105)
    assert scene.held[:, p].sum() < 0.2 * had
    scene.extra_bps.clear()
    scene.run(240)

    assert scene.state().pops[pop].shed == 0
    assert scene.held[:, p].sum() > 0.5 * had


def test_tight_capacity_is_filled_without_overload_and_without_oscillation() -> None:
    scene = make_scene(pops=5, prefixes=60, headroom=1.3)

    scene.run(420)

    late = np.array(scene.loads[-180:]) / scene.planner.fleet.capacity_bps
    assert late.max() < 1.0
    assert late.std(axis=0).max() < 0.02


def test_a_flash_crowd_is_spread_within_a_minute_and_does_not_oscillate() -> None:
    scene = make_scene(pops=5, prefixes=60, headroom=1.9)
    scene.run(180)
    hot = scene.held.argmax(axis=1) == int(scene.load_bps().argmax())
    scene.demand_bps[hot] *= 1.8

    scene.run(70)
    assert utilisation(scene).max() < 1.02
    scene.run(350)

    late = np.array(scene.loads[-180:]) / scene.planner.fleet.capacity_bps
    assert late.max() < 1.0
    assert late.std(axis=0).max() < 0.02


def test_an_overloaded_world_is_overloaded_evenly() -> None:
    scene = make_scene(pops=5, prefixes=200, headroom=0.8)

    scene.run(300)

    assert utilisation(scene).max() < 1.45
    assert utilisation(scene).min() > 1.0
    assert scene.overview().overload_share == pytest.approx(0.2, abs=0.07)


def test_a_new_planner_goes_on_without_a_jump(scene: Scene) -> None:
    scene.run(130)
    before, generation = scene.table(), scene.table().meta.generation

    scene.planner = Planner(
        scene.config, scene.store, scene.planner.publisher._signer, scene.trusted, None
    )
    scene.run(35)

    after = scene.table()
    assert after.meta.generation > generation
    changed = [
        p for p in scene.prefixes() if before.ranked(before.find(p)[0])[0] != scene.answer(p)
    ]
    assert len(changed) <= 2
    assert scene.state().generation > 60


class Outage(MemoryStore):
    """A store that can be away."""

    away = False

    def _check(self) -> None:
        if self.away:
            raise StoreError("away")

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """See `ObjectStore`."""
        self._check()
        return super().read(key, unless_etag)

    def list(self, prefix: str, after: str = "") -> list[str]:
        """See `ObjectStore`."""
        self._check()
        return super().list(prefix, after)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """See `ObjectStore`."""
        self._check()
        return super().swap(key, body, etag)


def test_an_outage_of_the_store_costs_nothing_but_time() -> None:
    store = Outage()
    scene = make_scene(store=store)
    scene.run(60)
    generation = scene.table().meta.generation
    known = len(scene.planner.known.estimator)

    store.away = True
    for _ in range(100):
        scene.now_ms += 1_000
        scene.planner.step(scene.now_ms)
    store.away = False
    scene.now_ms = -(-scene.now_ms // 10_000) * 10_000
    scene.run(40)

    assert len(scene.planner.known.estimator) == known
    assert scene.table().meta.generation > generation


def test_of_two_planners_one_speaks_and_the_other_takes_over(scene: Scene) -> None:
    second = Planner(
        scene.config, scene.store, scene.planner.publisher._signer, scene.trusted, None
    )
    first = scene.planner
    generations = []

    def both(now: Scene) -> None:
        second.step(now.now_ms + 400)
        if CURRENT_KEY in now.store.objects:
            generations.append(now.table().meta.generation)

    scene.run(120, both)
    assert generations == sorted(generations)
    assert first.published + second.published == generations[-1]
    state_before = scene.state().generation
    scene.planner = second
    scene.run(60)

    assert scene.state().generation > state_before
    assert scene.table().meta.generation > generations[-1]


def test_the_overview_tells_what_the_table_does(scene: Scene) -> None:
    scene.run(130)

    seen = scene.overview()

    assert seen.prefixes == len(scene.net)
    assert seen.table_generation == scene.table().meta.generation
    assert scene.now_ms - seen.window_last_ms <= 10_000
    assert seen.latency_ms is not None
    sent = np.array([scene.pops.index(scene.answer(p)) for p in scene.prefixes()])
    rtt = scene.rtt_us[np.arange(len(sent)), sent]
    assert seen.latency_ms == pytest.approx(
        float((rtt * scene.demand_bps).sum() / scene.demand_bps.sum()) / 1e3, rel=0.05
    )
    assert sum(pop.demand_share for pop in seen.pops.values()) == pytest.approx(1)
    assert seen.demand_bps == pytest.approx(scene.demand_bps.sum(), rel=0.1)
    assert all(pop.samples_per_min > 0 for pop in seen.pops.values() if pop.demand_share)


def test_the_evidence_has_a_reason_for_every_candidate(scene: Scene) -> None:
    scene.run(60)
    evidence = scene.evidence()

    for i, prefix in enumerate(scene.prefixes()):
        rows = evidence.rows_of(prefix)
        assert len(rows) == len(scene.pops)
        assert scene.pops[evidence.pop[rows[0]]] == scene.answer(prefix)
        assert evidence.reason[rows[0]] == Reason.CHOSEN
        truth = scene.rtt_us[i, evidence.pop[rows]]
        assert np.abs(evidence.rtt_us[rows] / truth - 1).max() < 0.1


def test_links_bound_their_pop() -> None:
    scene = make_scene(headroom=4)
    scene.run(60)
    pop = scene.pops[int(scene.load_bps().argmax())]
    link = scene.config.pop[scene.pops.index(pop)].link[0]

    def busy(now: Scene) -> None:
        share = now.load_bps()[now.pops.index(pop)] / (0.5 * before_bps)
        partial = signal_partial(
            now.now_ms, {(f"{pop}/{link.id}", Signal.TX_BPS): share * link.capacity_bps}
        )
        now.write_link(partial)

    before_bps = float(scene.load_bps().max())
    scene.run(150, busy)

    assert scene.load_bps()[scene.pops.index(pop)] < 0.55 * before_bps
    assert f"link {link.id} bounds it" in scene.state().pops[pop].reason


def test_requests_bound_their_pop() -> None:
    scene = make_scene(headroom=4)
    scene.run(60)
    pop, before_bps = int(scene.load_bps().argmax()), float(scene.load_bps().max())
    limit_rps = np.full(len(scene.pops), np.inf)
    limit_rps[pop] = 0.5 * before_bps / REQUEST_BITS
    scene.planner.fleet = replace(scene.planner.fleet, capacity_rps=limit_rps)

    def served(now: Scene) -> None:
        rps = zip(now.pops, (now.load_bps() / REQUEST_BITS).tolist(), strict=True)
        said = {(name, Signal.LOAD_RPS): value for name, value in rps}
        now.write_link(signal_partial(now.now_ms, said))

    scene.run(150, served)

    assert scene.load_bps()[pop] < 0.55 * before_bps
    assert scene.state().pops[scene.pops[pop]].reason == "its requests bound it"


def test_refused_tables_are_kept_with_the_reason(scene: Scene) -> None:
    scene.run(60)
    generation = scene.table().meta.generation

    scene.rtt_us *= 0.05
    scene.run(130)

    # The estimates fall by fifths, so a table or two pass before the sum of it is seen.
    assert scene.overview().refused.startswith("poisoned:")
    assert generation <= scene.table().meta.generation <= generation + 3
    refused = [key for key in scene.store.objects if key.startswith("tables/refused/")]
    assert any(key.endswith(".json") for key in refused)
    assert any(key.endswith(".arrow") for key in refused)
    reason = msgspec.json.decode(scene.store.objects[min(k for k in refused if "json" in k)])
    assert reason["rule"] == "poisoned"
    assert scene.planner.latency.refusals == sum(key.endswith(".json") for key in refused)


def test_a_planner_whom_nobody_would_believe_does_not_start(tmp_path: Path) -> None:
    mine = create_signer(tmp_path / "table.key")
    other = create_signer(tmp_path / "other.key")

    def config(*public: str) -> Config:
        trust = Trust(signing_key="table.key", public_keys=public)
        return Config(trust=trust, folder=str(tmp_path))

    with pytest.raises(ConfigError, match=f"table.key: its public key {mine.public_hex}"):
        keys_of(config(other.public_hex))
    assert keys_of(config(other.public_hex, mine.public_hex.upper()))[0] is not None
