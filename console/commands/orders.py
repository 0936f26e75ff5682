"""`popsteer drain | undrain | pin | cap | freeze | orders`: what operators order, and for how long.

Every order has an owner, a reason and an end; the planner and the DNS nodes obey it in seconds.
"""

import getpass
import json as jsons
import secrets
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.table import Table

from console.known import known_pop
from console.reasons import order_text
from console.running import find_config
from console.units import duration_ms, duration_text, rate_bps, rate_text
from popsteer import clock
from popsteer import orders as book
from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.orders import Change, Order, OrderKind
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

NO_REASON = "no reason given"
DEFAULT_FOR = "1h"


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


def undrain(pop: PopName, /, *, file: File = None) -> None:
    """End the drain of a POP."""
    config = find_config(file)
    store, now_ms = s3_store(config.aws), clock.now_ms()
    order = book.read(store).drained(now_ms).get(known_pop(config, pop))
    if order is None:
        raise ConfigError(f"{pop} is not drained by an order; see: popsteer orders")
    book.end(store, order.id, now_ms)
    print(f"{pop} is no longer drained")


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
    _give(config, _order(OrderKind.CAP, duration, why, pop=pop, value_bps=value_bps), preview)


def freeze(*, duration: For = DEFAULT_FOR, why: Why = NO_REASON, file: File = None) -> None:
    """Publish no new table; health checks and shedding go on."""
    _give(find_config(file), _order(OrderKind.FREEZE, duration, why), preview=False)


def orders(*, end: End = None, log: Log = False, json: Json = False, file: File = None) -> None:
    """Show the orders in force or all there ever were, or end one early."""
    store, now_ms = s3_store(find_config(file).aws), clock.now_ms()
    if end is not None:
        book.end(store, end, now_ms)
    if log:
        _show_log(book.history(store), json)
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
        owner=f"{getpass.getuser()}@{socket.gethostname()}",
        reason=why,
        created_ms=now_ms,
        expires_ms=now_ms + duration_ms(duration),
    )


def _give(config: Config, order: Order, preview: bool) -> None:
    """Give the order, after telling what it displaces; with `preview` tell alone."""
    store = s3_store(config.aws)
    services = {one.name: frozenset(map(str, config.pops_of(one))) for one in config.service}
    live = book.read(store).live(order.created_ms)
    if preview and (reason := book.objection(live, order, services)):
        raise ConfigError(reason)
    said = book.remarks(live, order)
    if preview:
        Console().print(*said, _displaced(config, store, order), sep="\n", highlight=False)
        return
    book.give(store, order, order.created_ms, services)
    left = duration_text((order.expires_ms - order.created_ms) / clock.SECOND_MS)
    print(f"ordered: {order_text(order)}, for {left} ({order.id})", *said, sep="\n")


def _displaced(config: Config, store: ObjectStore, order: Order) -> RenderableType:
    """What the table in force makes of it; see `aggregator.whatif`."""
    from aggregator.whatif import Change, inside
    from console import forecast

    base = forecast.published_situation(config, store)
    if order.kind == OrderKind.PIN:
        here = inside(base.net, base.plen, Prefix.parse(order.prefix))
        bps = float(base.demand_bps[here].sum())
        return f"{int(here.sum())} prefixes with {rate_text(bps)} would go to {order.pop} alone"
    if order.kind == OrderKind.DRAIN:
        change = Change(down=frozenset({order.pop}))
    else:
        change = Change(capacity_bps={order.pop: order.value_bps})
    return forecast.render(forecast.forecast(base, change))


def _show_log(changes: list[Change], json: bool) -> None:
    if json:
        print(jsons.dumps(msgspec.to_builtins(changes), indent=2))
        return
    lines = Table("time", "", "order", "why", "owner", "id", box=None, header_style="bold")
    for change in changes:
        at = datetime.fromtimestamp(change.at_ms / clock.SECOND_MS, UTC)
        for word, these in (("given", change.given), ("ended", change.ended)):
            for order in these:
                lines.add_row(
                    f"{at:%m-%d %H:%M:%S}",
                    word,
                    order_text(order),
                    order.reason,
                    order.owner,
                    order.id,
                )
    Console().print(lines if changes else "no order was ever given")


def _table(live: tuple[Order, ...], now_ms: int) -> Table:
    table = Table("order", "ends in", "why", "owner", "id", box=None, header_style="bold")
    for order in sorted(live, key=lambda one: one.expires_ms):
        left = duration_text((order.expires_ms - now_ms) / clock.SECOND_MS)
        table.add_row(order_text(order), left, order.reason, order.owner, order.id)
    return table
