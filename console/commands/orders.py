"""`popsteer drain | undrain | pin | cap | freeze | orders`: what operators order, and for how long.

Every order has an owner, a reason and an end; the planner and the DNS nodes obey it in seconds.
"""

import json as jsons
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console, Group, RenderableType
from rich.table import Table

from console.known import known_pop
from console.owner import NO_REASON, owner
from console.reasons import order_text
from console.running import find_config
from console.units import duration_ms, duration_text, rate_bps, rate_text
from popsteer import clock
from popsteer import orders as book
from popsteer import overview as overviews
from popsteer.config import Config
from popsteer.errors import ConfigError, PopsteerError
from popsteer.names import Prefix
from popsteer.orders import Event, Order, OrderKind
from popsteer.overview import Overview
from popsteer.store import ObjectStore, s3_store

For = Annotated[str, Parameter(name="--for", help="How long: 90s, 30m, 2h or 1d.")]
Why = Annotated[str, Parameter(name="--why", help="The reason, for those who find it later.")]
Preview = Annotated[bool, Parameter(help="Only tell what it would do.")]
File = Annotated[Path | None, Parameter(name="--config", help="Of the running system.")]
PopName = Annotated[str, Parameter(help="The POP.")]
PrefixText = Annotated[str, Parameter(help="The prefix, as 192.0.2.0/24.")]
Rate = Annotated[str, Parameter(help="The capacity in bits/s: 40e9, 40G or 400M.")]
Json = Annotated[bool, Parameter(help="Print JSON.")]
Log = Annotated[bool, Parameter(help="Every order ever given, and how it ended.")]
End = Annotated[str | None, Parameter(help="Id of the order to end.")]

DEFAULT_FOR = "1h"
CAP_MIN = 0.001
"""Of a POP's capacity; less is a slip of the unit."""
AGREE_S = 5.0
"""Clocks that differ by less agree."""
PLANNER_S_MAX = 15.0
"""A planner that is there speaks every few seconds."""


def drain(
    pop: PopName,
    /,
    *,
    duration: For = DEFAULT_FOR,
    why: Why = NO_REASON,
    preview: Preview = False,
    file: File = None,
) -> None:
    """Send nobody to a POP while another candidate lives."""
    config = find_config(file)
    _give(config, _order(OrderKind.DRAIN, duration, why, pop=known_pop(config, pop)), preview)


def undrain(pop: PopName, /, *, why: Why = NO_REASON, file: File = None) -> None:
    """End the drain of a POP."""
    config = find_config(file)
    store, now_ms = s3_store(config.aws), clock.now_ms()
    order = book.read(store).drained(now_ms).get(known_pop(config, pop))
    if order is None:
        raise ConfigError(f"{pop} is not drained by an order; see: popsteer orders")
    book.end(store, order.id, now_ms, owner(), why)
    print(f"{pop} is no longer drained", *_clock_remarks(store), sep="\n")


def pin(
    prefix: PrefixText,
    pop: PopName,
    /,
    *,
    duration: For = DEFAULT_FOR,
    why: Why = NO_REASON,
    preview: Preview = False,
    file: File = None,
) -> None:
    """Send a prefix to one POP."""
    config = find_config(file)
    text = str(Prefix.parse(prefix))
    order = _order(OrderKind.PIN, duration, why, pop=known_pop(config, pop), prefix=text)
    _give(config, order, preview)


def cap(
    pop: PopName,
    bps: Rate,
    /,
    *,
    duration: For = DEFAULT_FOR,
    why: Why = NO_REASON,
    preview: Preview = False,
    file: File = None,
) -> None:
    """Plan with another capacity of a POP."""
    config = find_config(file)
    pop, value_bps = known_pop(config, pop), rate_bps(bps)
    _check_cap(config, pop, value_bps)
    _give(config, _order(OrderKind.CAP, duration, why, pop=pop, value_bps=value_bps), preview)


def freeze(*, duration: For = DEFAULT_FOR, why: Why = NO_REASON, file: File = None) -> None:
    """Publish no new table; health checks and shedding go on."""
    _give(find_config(file), _order(OrderKind.FREEZE, duration, why), preview=False)


def orders(
    *,
    end: End = None,
    why: Why = NO_REASON,
    log: Log = False,
    json: Json = False,
    file: File = None,
) -> None:
    """Show the orders in force or all there ever were, or end one early."""
    store, now_ms = s3_store(find_config(file).aws), clock.now_ms()
    if end is not None:
        book.end(store, end, now_ms, owner(), why)
    if log:
        _show_log(book.history(store, now_ms), json)
        return
    live = book.read(store).live(now_ms)
    if json:
        print(jsons.dumps(msgspec.to_builtins(live), indent=2))
    elif live:
        Console().print(_table(live, now_ms))
    else:
        print("no orders are in force")


def _order(
    kind: OrderKind,
    duration: str,
    why: str,
    *,
    pop: str = "",
    prefix: str = "",
    value_bps: float = 0.0,
) -> Order:
    now_ms = clock.now_ms()
    return Order(
        id=f"{kind}-{secrets.token_hex(3)}",
        kind=kind,
        pop=pop,
        prefix=prefix,
        value_bps=value_bps,
        owner=owner(),
        reason=why,
        created_ms=now_ms,
        expires_ms=now_ms + duration_ms(duration, "--for"),
    )


def _check_cap(config: Config, pop: str, value_bps: float) -> None:
    """A cap that is none, or whose unit is wrong, is told before it is an order.

    Raises:
        ConfigError: it is not below the capacity, or next to nothing.
    """
    whole_bps = next(one.capacity_bps for one in config.pop if one.id == pop)
    asked = f"cap {pop} {rate_text(value_bps)}"
    if whole_bps and value_bps >= whole_bps:
        raise ConfigError(
            f"{asked}: a cap can only lower a capacity, and {pop} has {rate_text(whole_bps)}; "
            "to raise it, change capacity_bps in the configuration"
        )
    if value_bps < max(CAP_MIN * whole_bps, 1.0):
        raise ConfigError(
            f"{asked}: is the unit right? {pop} has "
            f"{rate_text(whole_bps) if whole_bps else 'no bound'}; to send nobody there, drain it"
        )


def _give(config: Config, order: Order, preview: bool) -> None:
    """Give the order, after telling what it displaces; with `preview` tell alone."""
    store = s3_store(config.aws)
    services = {one.name: frozenset(map(str, config.pops_of(one))) for one in config.service}
    live = book.read(store).live(order.created_ms)
    if reason := book.objection(live, order, services):
        raise ConfigError(reason)
    said = [*book.remarks(live, order), *_clock_remarks(store)]
    if preview:
        Console().print(*said, _displaced(config, store, order), sep="\n", highlight=False)
        return
    if order.kind == OrderKind.DRAIN:
        said += _if_lost(store, order.pop)
    book.give(store, order, order.created_ms, services)
    left = duration_text((order.expires_ms - order.created_ms) / clock.SECOND_MS)
    print(f"ordered: {order_text(order)}, for {left} ({order.id})", *said, sep="\n")


def _overview(store: ObjectStore) -> Overview | None:
    """What the planner said last; None where it cannot be read, for an order waits for no page."""
    try:
        stored = store.read(overviews.KEY)
        return overviews.decode(stored.body) if stored else None
    except PopsteerError:
        return None


def _clock_remarks(store: ObjectStore) -> Iterator[str]:
    """Whether the planner, by whose clock orders begin and end, is there to obey."""
    seen = _overview(store)
    # The clock of now: since the order was made, a slow machine may have taken seconds.
    ahead_s = (seen.created_ms - clock.now_ms()) / clock.SECOND_MS if seen else 0.0
    if ahead_s > AGREE_S:
        yield (
            f"warning: the clock here is {duration_text(ahead_s)} behind the planner's: "
            "orders end that much sooner than they say"
        )
    if ahead_s < -PLANNER_S_MAX:
        yield (
            f"warning: the planner has said nothing for {duration_text(-ahead_s)}, or the clock "
            "here is ahead: nobody obeys until it speaks again"
        )


def _if_lost(store: ObjectStore, pop: str) -> list[str]:
    """What a drain does at once, by the N+1 that the planner keeps current."""
    seen = _overview(store)
    view = seen.pops.get(pop) if seen else None
    if view is None or view.if_lost is None or not view.demand_share:
        return []
    loss = view.if_lost
    words = f"{view.demand_share:.1%} of the demand moves"
    if loss.added_ms is not None:
        words += f", {loss.added_ms:+.1f} ms for each"
    if loss.utilisation is not None:
        words += f"; {loss.fullest} is the fullest then, at {loss.utilisation:.0%}"
    if loss.overload_share > 0:
        words += f"; warning: no room for {loss.overload_share:.1%} of the demand until replanned"
    return [words]


def _displaced(config: Config, store: ObjectStore, order: Order) -> RenderableType:
    """What the table in force makes of it; see `aggregator.whatif`."""
    from aggregator.whatif import Change, inside
    from console import forecast

    base = forecast.published_situation(config, store)
    if order.kind == OrderKind.DRAIN:
        return forecast.render(forecast.forecast(base, Change(down=frozenset({order.pop}))))
    if order.kind == OrderKind.CAP:
        change = Change(capacity_bps={order.pop: order.value_bps})
        return forecast.render(forecast.forecast(base, change))
    prefix = Prefix.parse(order.prefix)
    here = inside(base.net, base.plen, prefix)
    bps = float(base.demand_bps[here].sum())
    words = f"{int(here.sum())} prefixes with {rate_text(bps)} would go to {order.pop} alone"
    told = forecast.forecast(base, Change(pins={prefix: order.pop}))
    return Group(words, forecast.render(told))


def _show_log(events: list[Event], json: bool) -> None:
    if json:
        print(jsons.dumps(msgspec.to_builtins(events), indent=2))
        return
    lines = Table("time", "", "order", "by", "why", "id", box=None, header_style="bold")
    for column in lines.columns[:3]:
        column.no_wrap = True
    for event in events:
        at = datetime.fromtimestamp(event.at_ms / clock.SECOND_MS, UTC)
        order = event.order
        lines.add_row(
            f"{at:%Y-%m-%d %H:%M:%S}", event.what, order_text(order), event.by, event.why, order.id
        )
    Console().print(lines if events else "no order was ever given")


def _table(live: tuple[Order, ...], now_ms: int) -> Table:
    table = Table("order", "ends in", "why", "owner", "id", box=None, header_style="bold")
    for order in sorted(live, key=lambda one: one.expires_ms):
        left = duration_text((order.expires_ms - now_ms) / clock.SECOND_MS)
        table.add_row(order_text(order), left, order.reason, order.owner, order.id)
    return table
