"""The planner knows how fresh the streams are, and who is silent; node and page are told."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from aggregator.heard import Heard
from aggregator.partials import Origin, SignalPartial
from aggregator.pulse import Pulse
from aggregator.seen import Mark
from benchmarks.scene import Scene, signal_partial
from popsteer.heartbeat import METRIC
from popsteer.samples import Signal

T0_MS = 1_700_000_000_000
BOUNDS_S = {"bulk": 25.0, "popsteer-urgent": 16.0}


def partial(ages_s: dict[str, float], at_ms: int = T0_MS) -> SignalPartial:
    """A partial whose sources last spoke so long before a time."""
    bare = signal_partial(at_ms - 1_000, {("fra1", Signal.UP): 1.0})
    marks = {s: Mark(1, (), at_ms, at_ms - int(age * 1_000)) for s, age in ages_s.items()}
    origin: Origin = replace(bare.origin, stream="popsteer-urgent", marks=marks)
    return replace(bare, origin=origin)


def listening(*pops: str) -> Heard:
    heard = Heard(pops)
    heard.begin(BOUNDS_S, T0_MS - 60_000)
    return heard


def test_a_stream_is_as_fresh_as_its_newest_lane() -> None:
    heard = listening("fra1", "ams1")
    heard.observe([partial({"fra1.signal": 2.0, "ams1.signal~1": 1.5, "node.dns0": 0.1})])
    assert heard.newest_ms() == {"bulk": T0_MS - 60_000, "popsteer-urgent": T0_MS - 1_500}
    assert heard.views(BOUNDS_S, T0_MS)["popsteer-urgent"].lanes == 2


def test_a_lane_that_falls_silent_is_named_until_it_speaks() -> None:
    heard = listening("fra1", "ams1")
    heard.observe([partial({"fra1.signal": 1.0, "ams1.signal": 1.0})])
    later_ms = T0_MS + 30_000
    heard.observe([partial({"fra1.signal": 1.0, "ams1.signal": 31.0}, later_ms)])

    seen = heard.views(BOUNDS_S, later_ms)["popsteer-urgent"]
    assert (seen.lanes, seen.silent, seen.silent_lanes) == (2, 1, ("ams1.signal",))

    heard.observe([partial({"ams1.signal~2": 0.5}, later_ms)])
    assert heard.silent("popsteer-urgent", 16.0, later_ms) == []


def test_agents_of_no_configured_pop_may_go() -> None:
    heard = listening("fra1")
    heard.observe([partial({"fra1.signal": 40.0, "gone1.signal": 40.0})])
    assert heard.silent("popsteer-urgent", 16.0, T0_MS) == ["fra1.signal"]


def test_nobody_can_be_silent_before_anybody_listened() -> None:
    heard = Heard(["fra1"])
    heard.begin(BOUNDS_S, T0_MS)
    heard.observe([partial({"fra1.signal": 7_200.0})])
    assert heard.newest_ms()["popsteer-urgent"] == T0_MS
    assert heard.silent("popsteer-urgent", 16.0, T0_MS + 16_000) == []
    assert heard.silent("popsteer-urgent", 16.0, T0_MS + 16_001) == ["fra1.signal"]


def test_state_and_overview_carry_it(scene: Scene) -> None:
    scene.run(60)
    streams = {"popsteer-bulk", "popsteer-urgent"}
    assert set(scene.overview().heartbeats) == set(scene.state().heartbeat_ms) == streams


def test_the_planners_metrics(scene: Scene) -> None:
    scene.run(60)
    registry = CollectorRegistry()
    bounds_s = {"popsteer-bulk": 25.0, "popsteer-urgent": 16.0}
    registry.register(Pulse(scene.planner, "popsteer-bulk", bounds_s, lambda: scene.now_ms))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    table = scene.table().meta
    age_s = value(METRIC, stage="table", stream="popsteer-bulk")
    assert age_s == pytest.approx((scene.now_ms - table.window_last_ms) / 1_000)
    assert value(METRIC, stage="planner", stream="popsteer-urgent") is not None
    assert value("popsteer_planner_tables_total", outcome="published") == scene.planner.published
    assert value("popsteer_planner_tables_total", outcome="refused") == 0
    assert value("popsteer_planner_table_generation") == table.generation
    assert value("popsteer_planner_lanes_silent", stream="popsteer-bulk") == 0
