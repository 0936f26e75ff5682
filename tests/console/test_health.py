from dataclasses import replace

import msgspec
import pytest

from console.dashboard.health import Health, PopRow, Status, data_age_s_max, pop_rows, status
from console.dashboard.history import POINTS, STEP_S, History
from console.published import View
from popsteer.config import Config
from popsteer.heartbeat import bounds_s
from popsteer.orders import Order, OrderKind, Orders
from popsteer.overview import HeartbeatView, LinkView
from popsteer.samples import BULK_STREAM as BULK


def with_state(view: View, pop: str, **changes: object) -> View:
    assert view.state is not None
    pops = view.state.pops | {pop: msgspec.structs.replace(view.state.pops[pop], **changes)}
    return replace(view, state=msgspec.structs.replace(view.state, pops=pops))


def with_view(view: View, pop: str, **changes: object) -> View:
    assert view.overview is not None
    pops = view.overview.pops | {pop: msgspec.structs.replace(view.overview.pops[pop], **changes)}
    return replace(view, overview=msgspec.structs.replace(view.overview, pops=pops))


def row(view: View, config: Config, now_ms: int, pop: str = "lon1") -> PopRow:
    return next(one for one in pop_rows(view, config, now_ms) if one.id == pop)


def line(view: View, config: Config, now_ms: int, trouble: str = "") -> Status:
    return status(view, pop_rows(view, config, now_ms), config, trouble, now_ms)


def test_a_pop_that_is_well(view: View, config: Config, now_ms: int) -> None:
    seen = row(view, config, now_ms)
    assert (seen.health, seen.why) == (Health.UP, "")
    assert (seen.rtt_p50_ms, seen.rtt_p95_ms, seen.age_s) == (15, 30, 1.5)
    assert (seen.load_bps, seen.capacity_bps) == (30e9, 100e9)


@pytest.mark.parametrize(
    ("changes", "health", "why"),
    [
        ({"up": False, "reason": "no TCP answer"}, Health.DOWN, "no TCP answer"),
        ({"up": False}, Health.DOWN, "reported down"),
        ({"drained": True}, Health.DRAINED, "drained by an order"),
        ({"fresh_ms": 0}, Health.NO_DATA, "no signal"),
        ({"shed": 0.25}, Health.SHEDDING, "sheds 25% of its answers"),
        ({"reason": "price 3 ms"}, Health.DEGRADED, "price 3 ms"),
        ({"load_bps": 97e9}, Health.DEGRADED, "load at 97% of capacity"),
    ],
)
def test_what_the_state_says(
    changes: dict[str, object],
    health: Health,
    why: str,
    view: View,
    config: Config,
    now_ms: int,
) -> None:
    without_age = with_view(view, "lon1", age_s=None)
    seen = row(with_state(without_age, "lon1", **changes), config, now_ms)
    assert seen.health == health
    assert seen.why.startswith(why)


def test_loss_and_full_links_degrade(view: View, config: Config, now_ms: int) -> None:
    lossy = with_view(view, "lon1", loss=0.047)
    assert row(lossy, config, now_ms).why == "loses 4.7% of its probes"
    full = with_view(view, "lon1", links={"transit": LinkView(tx_bps=59e9, capacity_bps=60e9)})
    assert row(full, config, now_ms).why == "link transit at 98%"


def test_a_silent_pop_has_no_data_whatever_it_said_before(
    view: View, config: Config, now_ms: int
) -> None:
    seen = row(view, config, now_ms + 60_000)
    assert (seen.health, seen.why) == (Health.NO_DATA, "no signal for 62 s")


def test_worst_first(view: View, config: Config, now_ms: int) -> None:
    worse = with_state(with_state(view, "par1", shed=0.1), "lon1", up=False)
    assert [one.id for one in pop_rows(worse, config, now_ms)] == ["lon1", "par1", "fra1"]


def test_a_breath_of_load_does_not_change_the_order(
    view: View, config: Config, now_ms: int
) -> None:
    orders = [
        [one.id for one in pop_rows(with_state(view, "fra1", load_bps=bps), config, now_ms)]
        for bps in (38e9, 40e9, 42e9)
    ]
    assert orders[0] == orders[1] == orders[2]


def test_with_nothing_published_every_pop_has_no_data(config: Config, now_ms: int) -> None:
    rows = pop_rows(View(), config, now_ms)
    assert {one.health for one in rows} == {Health.NO_DATA}
    assert rows[0].addresses
    seen = line(View(), config, now_ms)
    assert (seen.stale, seen.waiting) == (True, True)
    assert seen.counts == {"No data": 3}


def test_a_fresh_system_is_fresh(view: View, config: Config, now_ms: int) -> None:
    seen = line(view, config, now_ms)
    assert (seen.stale, seen.waiting, seen.problems) == (False, False, ())
    assert (seen.data_age_s, seen.table_generation, seen.table_age_s) == (12, 7, 20)
    assert seen.counts == {"Up": 3}


def test_old_data_are_stale_although_every_pop_is_up(
    view: View, config: Config, now_ms: int
) -> None:
    assert view.overview is not None
    old_ms = now_ms - int(data_age_s_max(config) * 1_000) - 1
    overview = msgspec.structs.replace(view.overview, window_last_ms=old_ms)
    seen = line(replace(view, overview=overview), config, now_ms)
    assert seen.stale
    assert seen.counts == {"Up": 3}
    assert "measurements" in seen.problems[0]


def test_a_silent_planner_is_stale(view: View, config: Config, now_ms: int) -> None:
    seen = line(view, config, now_ms + 20_000)
    (told,) = seen.problems  # whatever else is old is old because of this
    assert told.startswith("the planner has been silent for 21 s; DNS answers from the last table")
    assert told.endswith("see the log of `popsteer plan`")


def test_a_store_that_is_away_is_stale_and_never_waiting(
    view: View, config: Config, now_ms: int
) -> None:
    assert line(view, config, now_ms, "s3: no route").problems == ("s3: no route",)
    assert not line(View(), config, now_ms, "s3: no route").waiting


def heard(view: View, newest_ms: int, silent: tuple[str, ...] = ()) -> View:
    assert view.overview is not None
    bulk = HeartbeatView(newest_ms=newest_ms, lanes=9, silent=len(silent), silent_lanes=silent[:2])
    return replace(view, overview=msgspec.structs.replace(view.overview, heartbeats={BULK: bulk}))


def test_a_stream_without_heartbeats_is_stale_beyond_its_bound(
    view: View, config: Config, now_ms: int
) -> None:
    bound_ms = int(bounds_s(config)[BULK] * 1_000)
    seen = line(heard(view, now_ms - bound_ms), config, now_ms)
    assert (seen.stale, seen.heartbeat_age_s) == (False, {BULK: bound_ms / 1_000})
    seen = line(heard(view, now_ms - bound_ms - 1), config, now_ms)
    assert seen.stale
    assert seen.problems == (
        "popsteer-bulk: no heartbeat for 25 s; see the log of `popsteer aggregate`",
    )


def test_silent_lanes_are_named_and_the_rest_is_fresh(
    view: View, config: Config, now_ms: int
) -> None:
    seen = line(heard(view, now_ms, ("ams1.rtt", "fra1.rtt", "lon1.rtt")), config, now_ms)
    assert not seen.stale
    assert seen.problems == (
        "popsteer-bulk: 3 of 9 agents' lanes are silent: ams1.rtt, fra1.rtt …",
    )


def test_a_refused_table_is_a_problem_but_not_stale(
    view: View, config: Config, now_ms: int
) -> None:
    assert view.overview is not None
    overview = msgspec.structs.replace(view.overview, refused="41% of demand would move")
    seen = line(replace(view, overview=overview), config, now_ms)
    assert not seen.stale
    assert seen.problems == (
        "the guard refused the newest table: 41% of demand would move; the one in force stays",
    )


def test_orders_in_force_are_told_with_end_owner_and_reason(
    view: View, config: Config, now_ms: int
) -> None:
    def drain(pop: str, minutes: int) -> Order:
        return Order(
            id=pop,
            kind=OrderKind.DRAIN,
            pop=pop,
            owner="ann@noc",
            reason="line card",
            created_ms=now_ms,
            expires_ms=now_ms + minutes * 60_000,
        )

    given = tuple(drain(f"pop{n}", 50 - n) for n in range(5))
    seen = line(replace(view, orders=Orders(orders=(*given, drain("over", 0)))), config, now_ms)
    assert (seen.orders, len(seen.orders_told)) == (5, 3)
    assert seen.orders_told[0] == "drain pop4 for 46 min more, by ann@noc: line card"


def a_row(p50: float | None) -> PopRow:
    return PopRow(id="a", health=Health.UP, why="", rtt_p50_ms=p50, loss=0.0)


def test_the_past_is_bounded_and_in_order() -> None:
    history, step_ms = History(["a", "b"]), int(STEP_S * 1_000)
    for i in range(POINTS + 7):
        assert history.add([a_row(float(i))], 1 + i // 100, i * step_ms)
    past = history.past("a")
    assert past["rtt_p50_ms"] == [float(i) for i in range(7, POINTS + 7)]
    assert past["time_ms"] == [i * step_ms for i in range(7, POINTS + 7)]
    assert past["tables"] == [(0, 1), (100 * step_ms, 2), (200 * step_ms, 3), (300 * step_ms, 4)]
    assert history.past("b")["loss"] == [None] * POINTS


def test_a_step_is_kept_once() -> None:
    history = History(["a"])
    assert history.add([a_row(1)], 1, 0)
    assert not history.add([a_row(2)], 1, 4_000)
    assert history.add([a_row(None)], 1, 5_000)
    assert history.past("a")["rtt_p50_ms"] == [1, None]


def test_a_pop_without_state_is_judged_by_the_overview(
    view: View, config: Config, now_ms: int
) -> None:
    alone = replace(view, state=None)
    seen = row(alone, config, now_ms)
    assert (seen.health, seen.age_s) == (Health.UP, 1.5)
    assert row(with_view(alone, "lon1", up=False), config, now_ms).health == Health.DOWN
