"""How each POP and the whole system are, worst first. Pure; `now_ms` comes in.

The POP state is what DNS nodes act on, so it rules where the overview differs.
"""

from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from console.published import View
from console.reasons import order_sentence
from console.units import duration_text
from popsteer import clock, heartbeat
from popsteer.config import Config, Pop
from popsteer.overview import LossView, Overview, PopView, ServiceView
from popsteer.state import PopState

SIGNAL_AGE_S_MAX = 30.0
"""A POP that was silent for longer has no data; agents speak every second."""
LOSS_MAX = 0.02
"""More loss than this is not well."""
FULL = 0.95
"""Of the capacity of a POP or a link."""
STATE_AGE_S_MAX = 15.0
"""The planner writes every second or two."""
ORDERS_TOLD_MAX = 3
"""On the page; more are counted there and listed by `popsteer orders`."""


class Health(StrEnum):
    """A POP's state as one word, worst first."""

    DOWN = "Down"
    NO_DATA = "No data"
    SHEDDING = "Shedding"
    DEGRADED = "Degraded"
    DRAINED = "Drained"
    UP = "Up"


ORDER = {health: rank for rank, health in enumerate(Health)}


class LinkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One link."""

    id: str
    tx_bps: float
    capacity_bps: float


class PopRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the page; None is unknown."""

    id: str
    health: Health
    why: str
    rtt_p50_ms: float | None = None
    rtt_p95_ms: float | None = None
    loss: float | None = None
    samples_per_min: float = 0.0
    load_bps: float = 0.0
    capacity_bps: float = 0.0
    planned_bps: float = 0.0
    links: tuple[LinkRow, ...] = ()
    demand_share: float = 0.0
    demand_share_before: float = 0.0
    shed: float = 0.0
    if_lost: LossView | None = None
    """N+1: what its loss would do at once."""
    age_s: float | None = None
    addresses: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The line above everything."""

    stale: bool
    waiting: bool
    """Nothing was published yet, and nothing is known to be wrong."""
    problems: tuple[str, ...]
    """Why it is stale, in words, and where to look; and what else a person must know first."""
    now_ms: int
    data_age_s: float | None
    table_generation: int | None
    table_age_s: float | None
    state_age_s: float | None
    heartbeat_age_s: dict[str, float] = {}
    """By stream, of the newest heartbeat at the planner."""
    policy: str = ""
    prefixes: int = 0
    rows: int = 0
    demand_bps: float = 0.0
    latency_ms: float | None = None
    overload_share: float = 0.0
    orders: int = 0
    orders_told: tuple[str, ...] = ()
    """Those that end first, in words."""
    services: dict[str, ServiceView] = {}
    target_utilisation: float = 1.0
    counts: dict[str, int] = {}


def pop_rows(view: View, config: Config, now_ms: int) -> tuple[PopRow, ...]:
    """Every POP of the configuration, worst first."""
    rows = [_row(pop, view, now_ms) for pop in config.pop]
    return tuple(sorted(rows, key=_badness))


def _badness(row: PopRow) -> tuple[int, float, float, str]:
    # Coarse, so that rows do not change places with every breath of their load.
    return (ORDER[row.health], -round(row.shed, 1), -round(_fullest(row), 1), row.id)


def _fullest(row: PopRow) -> float:
    parts = [(row.load_bps, row.capacity_bps)]
    parts += [(link.tx_bps, link.capacity_bps) for link in row.links]
    return max(used / capacity if capacity else 0.0 for used, capacity in parts)


def _row(pop: Pop, view: View, now_ms: int) -> PopRow:
    seen = view.overview.pops.get(pop.id) if view.overview else None
    state = view.state.pops.get(pop.id) if view.state else None
    known = seen or PopView()
    row = PopRow(
        id=pop.id,
        health=Health.UP,
        why=(state.reason if state else "") or known.reason,
        rtt_p50_ms=None if known.rtt_p50_us is None else known.rtt_p50_us / 1_000,
        rtt_p95_ms=None if known.rtt_p95_us is None else known.rtt_p95_us / 1_000,
        loss=known.loss,
        samples_per_min=known.samples_per_min,
        load_bps=state.load_bps if state else known.load_bps,
        capacity_bps=(state.capacity_bps if state else known.capacity_bps) or pop.capacity_bps,
        planned_bps=known.planned_bps,
        links=tuple(
            LinkRow(id=name, tx_bps=link.tx_bps, capacity_bps=link.capacity_bps)
            for name, link in sorted(known.links.items())
        ),
        demand_share=known.demand_share,
        demand_share_before=known.demand_share_before,
        shed=state.shed if state else known.shed,
        if_lost=known.if_lost,
        age_s=_age_s(view, seen, state, now_ms),
        addresses=(*pop.ipv4, *pop.ipv6),
    )
    health, why = _judge(row, seen, state)
    return msgspec.structs.replace(row, health=health, why=row.why or why)


def _age_s(view: View, seen: PopView | None, state: PopState | None, now_ms: int) -> float | None:
    if state is not None and state.fresh_ms:
        return clock.age_s(state.fresh_ms, now_ms)
    if seen is not None and seen.age_s is not None and view.overview is not None:
        return seen.age_s + clock.age_s(view.overview.created_ms, now_ms)
    return None


def _judge(row: PopRow, seen: PopView | None, state: PopState | None) -> tuple[Health, str]:
    """The word, and the rule that fired."""
    if not (state.up if state else seen.up if seen else True):
        return Health.DOWN, "reported down"
    if state.drained if state else seen.drained if seen else False:
        return Health.DRAINED, "drained by an order"
    if row.age_s is None:
        return Health.NO_DATA, "no signal yet"
    if row.age_s > SIGNAL_AGE_S_MAX:
        return Health.NO_DATA, f"no signal for {duration_text(row.age_s)}"
    if row.shed > 0:
        return Health.SHEDDING, f"sheds {row.shed:.0%} of its answers"
    reason = row.why or next(_complaints(row), "")
    return (Health.DEGRADED if reason else Health.UP), reason


def _complaints(row: PopRow) -> Iterator[str]:
    if row.capacity_bps and row.load_bps > FULL * row.capacity_bps:
        yield f"load at {row.load_bps / row.capacity_bps:.0%} of capacity"
    for link in row.links:
        if link.capacity_bps and link.tx_bps > FULL * link.capacity_bps:
            yield f"link {link.id} at {link.tx_bps / link.capacity_bps:.0%}"
    if row.loss is not None and row.loss > LOSS_MAX:
        yield f"loses {row.loss:.1%} of its probes"


def status(
    view: View, rows: tuple[PopRow, ...], config: Config, trouble: str, now_ms: int
) -> Status:
    """The status line; `trouble` says why the store is not read, if so."""
    stale = tuple(_stale(view, config, trouble, now_ms))
    seen, meta = view.overview, view.table.meta if view.table else None
    counts = Counter(row.health for row in rows)
    orders = sorted(view.orders.live(now_ms), key=lambda order: order.expires_ms)
    return Status(
        stale=bool(stale),
        waiting=not trouble and view.table is None and seen is None,
        problems=stale + tuple(_warnings(view)),
        now_ms=now_ms,
        data_age_s=_since_s(seen.window_last_ms if seen else 0, now_ms),
        table_generation=meta.generation if meta else None,
        table_age_s=_since_s(meta.created_ms if meta else 0, now_ms),
        state_age_s=_since_s(view.state.created_ms if view.state else 0, now_ms),
        heartbeat_age_s=_heartbeat_ages_s(view, now_ms),
        policy=meta.policy if meta else "",
        prefixes=seen.prefixes if seen else 0,
        rows=len(view.table) if view.table else 0,
        demand_bps=seen.demand_bps if seen else 0.0,
        latency_ms=seen.latency_ms if seen else None,
        overload_share=seen.overload_share if seen else 0.0,
        orders=len(orders),
        orders_told=tuple(order_sentence(one, now_ms) for one in orders[:ORDERS_TOLD_MAX]),
        services=seen.services if seen else {},
        target_utilisation=config.plan.target_utilisation,
        counts={health.value: counts[health] for health in Health if counts[health]},
    )


def data_age_s_max(config: Config) -> float:
    """Data older than this are stale: two rounds of window and latency loop."""
    return 2.0 * (config.aggregate.bulk_window_s + config.plan.latency_period_s)


def _stale(view: View, config: Config, trouble: str, now_ms: int) -> Iterator[str]:
    if trouble:
        yield trouble
    if view.table is None:
        yield "no table was published yet; `popsteer plan` does when measurements arrive"
    if view.state is not None:
        age_s = clock.age_s(view.state.created_ms, now_ms)
        if age_s > STATE_AGE_S_MAX:
            # All that is old below is old because of this.
            yield (
                f"the planner has been silent for {duration_text(age_s)}; DNS answers from the "
                "last table and its own checks; see the log of `popsteer plan`"
            )
            return
    if view.overview is None:
        yield "the planner has not reported yet; see the log of `popsteer plan`"
    elif not view.overview.window_last_ms:
        yield "nothing was measured yet; see the logs of `popsteer probe` and `popsteer aggregate`"
    else:
        yield from _old(view.overview, config, now_ms)


def _old(seen: Overview, config: Config, now_ms: int) -> Iterator[str]:
    """What a planner that is well gets too late."""
    age_s = clock.age_s(seen.window_last_ms, now_ms)
    if age_s > data_age_s_max(config):
        yield (
            f"the newest measurements are {duration_text(age_s)} old; see the logs of "
            "`popsteer aggregate` and `popsteer probe`"
        )
    for stream, one in seen.heartbeats.items():
        age_s = clock.age_s(one.newest_ms, now_ms)
        if age_s > heartbeat.bounds_s(config).get(stream, float("inf")):
            yield (
                f"{stream}: no heartbeat for {duration_text(age_s)}; see the log of "
                "`popsteer aggregate`"
            )


def _heartbeat_ages_s(view: View, now_ms: int) -> dict[str, float]:
    heartbeats = view.overview.heartbeats if view.overview else {}
    return {stream: clock.age_s(one.newest_ms, now_ms) for stream, one in heartbeats.items()}


def _warnings(view: View) -> Iterator[str]:
    for stream, one in (view.overview.heartbeats if view.overview else {}).items():
        if one.silent:
            named = ", ".join(one.silent_lanes) + (
                " …" if one.silent > len(one.silent_lanes) else ""
            )
            yield f"{stream}: {one.silent} of {one.lanes} agents' lanes are silent: {named}"
    if view.overview is not None and view.overview.refused:
        yield (
            f"the guard refused the newest table: {view.overview.refused}; the one in force stays"
        )


def _since_s(then_ms: int, now_ms: int) -> float | None:
    return clock.age_s(then_ms, now_ms) if then_ms else None
