"""The loops under virtual time: health, the load loop against a lagging plant, the arbiter."""

from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as replaced

from aggregator.control import (
    DWELL_S,
    SHED_MAX,
    Arbiter,
    Health,
    LoadLoop,
)
from aggregator.fleet import Fleet, fleet_of
from aggregator.flight import InFlight
from aggregator.load import Load, measured
from aggregator.signals import Signals
from benchmarks.scene import T0_MS, signal_partial
from popsteer.config import Config, Link, Pop, Service
from popsteer.samples import Signal

CAPACITY_BPS = 100.0
TTL_S = 20.0
FLEET = Fleet(
    ("a", "b", "c"),
    np.full(3, CAPACITY_BPS),
    ({}, {"x": 40.0}, {}),
    np.ones(3, bool),
    TTL_S,
)


def brought(load_bps: np.ndarray, at_ms: int) -> InFlight:
    """A perfect report of what answers brought."""
    return InFlight(at_ms, load_bps, trust=1.0)


class Plant:
    """Three POPs whose caches ask again once a TTL; what a POP sheds goes to the others."""

    def __init__(self, wanted: list[float], foreign: list[float], lag_s: float = TTL_S) -> None:
        self.wanted = np.array(wanted, np.float64)
        self.foreign = np.array(foreign, np.float64)
        self.held = self.wanted.copy()
        self.loop = LoadLoop(FLEET, 0.82)
        self.now_ms = T0_MS
        self.sheds: list[np.ndarray] = []
        self.loads: list[np.ndarray] = []
        self._lag_s = lag_s
        self._rng = np.random.default_rng(3)

    def run(self, seconds: int, noise: float = 0.03) -> None:
        """Let time pass; the loop steps every five seconds."""
        for second in range(seconds):
            self.now_ms += 1_000
            shed = self.loop.shed
            stays = self.wanted * (1 - shed)
            open_to = np.where(shed > 0, 0.0, 1.0)
            given = (self.wanted * shed).sum() * open_to / max(open_to.sum(), 1)
            self.held += (stays + given - self.held) / self._lag_s
            if second % 5 == 0:
                self._step(noise)

    def _step(self, noise: float) -> None:
        whole = (self.held + self.foreign) * self._rng.normal(1, noise, 3)
        load = Load(whole, FLEET.capacity_bps, FLEET.capacity_bps, ("", "", ""))
        self.loop.step(load, brought(self.held.copy(), self.now_ms), self.wanted, self.now_ms)
        self.sheds.append(self.loop.shed.copy())
        self.loads.append(self.held + self.foreign)


def test_the_table_s_own_noise_never_sheds() -> None:
    plant = Plant([82, 82, 40], [0, 0, 0])

    plant.run(600)

    assert not np.array(plant.sheds).any()


def test_a_step_of_foreign_load_is_shed_and_does_not_oscillate() -> None:
    plant = Plant([60, 30, 30], [0, 0, 0])
    plant.run(60)

    plant.foreign = np.array([60.0, 0, 0])
    plant.run(40)
    assert plant.loads[-1][0] < 110
    plant.run(600)

    late = np.array(plant.loads)[-60:, 0]
    assert late.max() < 100
    assert late.std() < 3
    assert np.abs(np.diff(np.array(plant.sheds)[-60:, 0])).max() < 0.1


def test_a_table_that_takes_what_is_shed_ends_the_shed() -> None:
    plant = Plant([110, 30, 30], [0, 0, 0])
    plant.run(60)
    shed = float(plant.loop.shed[0])
    assert shed > 0.1

    plant.loop.hand_over(plant.wanted, np.array([105.0, 35.0, 30.0]))
    part = float(plant.loop.shed[0])
    plant.loop.hand_over(np.array([105.0, 35.0, 30.0]), np.array([80.0, 45.0, 45.0]))

    assert (1 - part) * 105 == pytest.approx((1 - shed) * 110)
    assert plant.loop.shed.tolist() == [0, 0, 0]


def test_what_a_table_has_under_way_is_not_shed_again() -> None:
    relieved, held = Plant([80, 30, 30], [0, 0, 0]), Plant([80, 30, 30], [0, 0, 0])
    for plant in (relieved, held):
        plant.run(300)
        plant.foreign = np.array([35.0, 0, 0])
    relieved.wanted = np.array([60.0, 55.0, 55.0])

    for plant in (relieved, held):
        plant.run(6, noise=0.0)

    assert relieved.held[0] > 70  # the table hardly shows yet
    assert relieved.loop.shed[0] < 0.6 * held.loop.shed[0]


@pytest.mark.parametrize("lag_s", [8.0, 20.0, 60.0])
def test_a_wrong_model_of_the_lag_does_not_oscillate_either(lag_s: float) -> None:
    plant = Plant([110, 30, 30], [0, 0, 0], lag_s)

    plant.run(1_200)

    late = np.array(plant.sheds)[-80:, 0]
    assert 0.05 < late.mean() < 0.5
    assert late.std() < 0.05


def test_a_shed_rests_before_it_is_released_and_then_goes_in_steps() -> None:
    plant = Plant([60, 30, 30], [60, 0, 0])
    plant.run(120)
    assert plant.sheds[-1][0] > 0.2
    raised_ms = plant.loop._raised_ms[0]

    plant.foreign[:] = 0
    start = len(plant.sheds)
    plant.run(300)

    history = np.array(plant.sheds)[start:, 0]
    drops = -np.diff(history)
    assert drops.max() <= 0.1 + 1e-9
    first = int(np.flatnonzero(drops > 0)[0])
    assert plant.now_ms - 300_000 + first * 5_000 - raised_ms >= DWELL_S * 1_000 - 10_000
    assert history[-1] == 0


def test_shedding_is_bounded_by_the_room_elsewhere() -> None:
    full = Plant([120, 120, 120], [0, 0, 0])
    full.run(200)
    hopeless = Plant([20, 20, 20], [500, 0, 0])
    hopeless.run(200)

    assert not np.array(full.sheds).any()
    assert hopeless.sheds[-1][0] == pytest.approx(SHED_MAX, abs=0.05)


def test_the_offset_is_what_answers_do_not_explain() -> None:
    plant = Plant([40, 30, 30], [30, 0, 0])

    plant.run(300)

    assert plant.loop.offset_bps[0] == pytest.approx(30, abs=3)
    room = plant.loop.plan_capacity_bps(FLEET.capacity_bps, np.zeros(3))
    assert room[0] == pytest.approx(82 - 30, abs=3)
    assert room[1] == pytest.approx(82, abs=3)


def test_unknown_load_sheds_nothing() -> None:
    loop = LoadLoop(FLEET, 0.82)
    load = Load(np.full(3, np.nan), FLEET.capacity_bps, FLEET.capacity_bps, ("",) * 3)

    for second in range(0, 200, 5):
        now_ms = T0_MS + second * 1_000
        loop.step(load, brought(np.full(3, 500.0), now_ms), np.full(3, 500.0), now_ms)

    assert not loop.shed.any()


def test_unlimited_pops_are_planned_without_limit() -> None:
    loop = LoadLoop(FLEET, 0.82)

    assert loop.plan_capacity_bps(np.array([np.inf, 10.0, 0.0]), np.zeros(3)).tolist() == [
        np.inf,
        pytest.approx(8.2),
        0.0,
    ]


def test_a_pop_a_little_too_full_keeps_what_it_has() -> None:
    loop = LoadLoop(FLEET, 0.82)

    room = loop.plan_capacity_bps(FLEET.capacity_bps, np.array([81.0, 86.0, 90.0]))
    crowded = loop.plan_capacity_bps(FLEET.capacity_bps, np.array([81.0, 86.0, 95.0]))

    # The third gets rid of no more than brings it into the middle of the band, or of all.
    assert room == pytest.approx([82.0, 86.0, 85.0])
    assert crowded == pytest.approx([82.0, 86.0, 82.0])


def tell(signals: Signals, second: int, **up: float) -> None:
    values = {(pop, Signal.UP): value for pop, value in up.items()}
    signals.observe([signal_partial(T0_MS + second * 1_000, values)])


def test_health_goes_down_at_once_and_up_after_a_moment() -> None:
    health, signals = Health(("a", "b", "c")), Signals()
    ups = []
    for second in range(20):
        tell(signals, second, a=float(not 5 <= second < 10), b=1, c=1)
        health.step(signals, T0_MS + second * 1_000)
        ups.append(bool(health.up[0]))

    assert ups == [not 5 <= second < 12 for second in range(20)]


def test_a_pop_without_any_signal_is_up() -> None:
    health, signals = Health(("a", "b", "c")), Signals()
    tell(signals, 0, a=1, b=1)

    assert not health.step(signals, T0_MS)
    assert health.up.all()


def test_a_reported_clock_far_ahead_silences_nobody() -> None:
    health, signals = Health(("a", "b", "c")), Signals()
    tell(signals, 0, a=1, b=1, c=1)
    partial = signal_partial(T0_MS + 1_000, {("a", Signal.UP): 1.0})
    partial.last_ms[:] += 3_600_000

    signals.observe([partial])

    health.step(signals, T0_MS + 2_000)
    assert health.up.all()


def test_measured_takes_the_narrowest_of_config_report_link_and_order() -> None:
    signals = Signals()
    values = {
        ("a", Signal.LOAD_BPS): 50.0,
        ("a", Signal.CAPACITY_BPS): 90.0,
        ("b", Signal.LOAD_BPS): 60.0,
        ("b/x", Signal.TX_BPS): 36.0,
        ("c", Signal.LOAD_BPS): 10.0,
    }
    signals.observe([signal_partial(T0_MS, values)])

    seen = measured(FLEET, signals, {"c": 30.0}, T0_MS + 2_000)

    assert seen.capacity_bps == pytest.approx([90, 60 * 40 / 36, 30])
    assert seen.rated_bps.tolist() == [90, 100, 100]
    assert [bool(reason) for reason in seen.reason] == [True, True, True]
    assert np.isnan(measured(FLEET, signals, {}, T0_MS + 60_000).load_bps).all()


def test_a_pop_with_limited_requests_carries_as_many_bits_as_these_are_long() -> None:
    fleet = replace(FLEET, capacity_rps=np.array([10.0, 10.0, np.inf]))
    signals = Signals()
    values = {
        ("a", Signal.LOAD_BPS): 40.0,
        ("a", Signal.LOAD_RPS): 8.0,
        ("b", Signal.LOAD_BPS): 0.01,
        ("b", Signal.LOAD_RPS): 0.1,
        ("c", Signal.LOAD_BPS): 24.99,
        ("c", Signal.LOAD_RPS): 4.9,
    }
    assert measured(fleet, signals, {}, T0_MS).capacity_bps.tolist() == [100, 100, 100]
    signals.observe([signal_partial(T0_MS, values)])

    seen = measured(fleet, signals, {}, T0_MS + 2_000)

    # Requests are 5 bits everywhere, but for the few on the idle one.
    assert seen.capacity_bps == pytest.approx([50, 46, 100], rel=0.01)
    assert seen.own_bps is not None
    assert seen.own_bps.tolist() == seen.capacity_bps.tolist()
    assert seen.rated_bps.tolist() == [100, 100, 100]
    assert seen.reason == ("its requests bound it", "its requests bound it", "")
    stale = measured(fleet, signals, {}, T0_MS + 60_000)
    assert stale.capacity_bps.tolist() == [100, 100, 100]


def test_the_arbiter_plans_each_period_and_at_once_when_it_must() -> None:
    arbiter = Arbiter(30, 5)
    calm = np.zeros(3, np.int64)
    assert arbiter.due(b"x", calm, T0_MS) == "first"
    arbiter.planned(b"x", "first", T0_MS)

    assert arbiter.due(b"x", calm, T0_MS + 29_000) == ""
    assert arbiter.due(b"y", calm, T0_MS + 1_000)
    assert arbiter.due(b"x", calm, T0_MS + 30_000) == "period"
    shedding = np.array([T0_MS, 0, 0])
    assert arbiter.due(b"x", shedding, T0_MS + 9_000) == ""
    assert "sheds" in arbiter.due(b"x", shedding, T0_MS + 16_000)


def test_the_fleet_is_what_the_configuration_says() -> None:
    config = Config(
        pop=(Pop(id="a", capacity_bps=5, link=(Link(id="x", capacity_bps=3),)), Pop(id="b")),
        service=(Service(name="w.", ttl_s=30, pops=("a",)),),
    )

    fleet = fleet_of(config)

    assert fleet.capacity_bps.tolist() == [5, np.inf]
    assert fleet.links == ({"x": 3.0}, {})
    assert fleet.serves.tolist() == [True, False]
    assert fleet.ttl_s == 30
    assert fleet.capacity_rps is None
    limited = fleet_of(replaced(config, pop=(Pop(id="a", capacity_rps=7), Pop(id="b"))))
    assert limited.capacity_rps is not None
    assert limited.capacity_rps.tolist() == [7, np.inf]
