"""`popsteer drain | undrain | pin | cap | freeze | orders`: what operators order, and for how long.

Every order has an owner, a reason and an end; the planner and the DNS nodes obey it in seconds.
"""

import getpass
import json as jsons
import secrets
import socket
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from console.known import known_pop
from console.reasons import order_text
from console.running import find_config
from console.units import duration_ms, duration_text, rate_bps
from popsteer import clock
from popsteer import orders as book
from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.orders import Order, OrderKind
from popsteer.store import s3_store

For = Annotated[str, Parameter(name="--for", help="How long: 90s, 30m, 2h or 1d.")]
Why = Annotated[str, Parameter(name="--why", help="The reason, for those who find it later.")]
File = Annotated[Path | None, Parameter(name="--config", help="Of the running system.")]
PopName = Annotated[str, Parameter(help="The POP.")]
PrefixText = Annotated[str, Parameter(help="The prefix, as 192.0.2.0/24.")]
Rate = Annotated[str, Parameter(help="The capacity in bits/s: 40e9, 40G or 400M.")]
Json = Annotated[bool, Parameter(help="Print JSON.")]
End = Annotated[str | None, Parameter(help="Id of the order to end.")]

NO_REASON = "no reason given"
DEFAULT_FOR = "1h"


def drain(
    pop: PopName, /, *, duration: For = DEFAULT_FOR, why: Why = NO_REASON, file: File = None
) -> None:
    """Send nobody to a POP while another candidate lives."""
    config = find_config(file)
    _give(config, _order(OrderKind.DRAIN, duration, why, pop=known_pop(config, pop)))


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
    file: File = None,
) -> None:
    """Send a prefix to one POP."""
    config = find_config(file)
    text = str(Prefix.parse(prefix))
    _give(config, _order(OrderKind.PIN, duration, why, pop=known_pop(config, pop), prefix=text))


def cap(
    pop: PopName,
    bps: Rate,
    /,
    *,
    duration: For = DEFAULT_FOR,
    why: Why = NO_REASON,
    file: File = None,
) -> None:
    """Plan with another capacity of a POP."""
    config = find_config(file)
    value_bps = rate_bps(bps)
    _give(
        config,
        _order(OrderKind.CAP, duration, why, pop=known_pop(config, pop), value_bps=value_bps),
    )


def freeze(*, duration: For = DEFAULT_FOR, why: Why = NO_REASON, file: File = None) -> None:
    """Publish no new table; health checks and shedding go on."""
    _give(find_config(file), _order(OrderKind.FREEZE, duration, why))


def orders(*, end: End = None, json: Json = False, file: File = None) -> None:
    """Show the orders in force, or end one early."""
    store, now_ms = s3_store(find_config(file).aws), clock.now_ms()
    if end is not None:
        book.end(store, end, now_ms)
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


def _give(config: Config, order: Order) -> None:
    book.give(s3_store(config.aws), order, order.created_ms)
    left = duration_text((order.expires_ms - order.created_ms) / clock.SECOND_MS)
    print(f"ordered: {order_text(order)}, for {left} ({order.id})")


def _table(live: tuple[Order, ...], now_ms: int) -> Table:
    table = Table("order", "ends in", "why", "owner", "id", box=None, header_style="bold")
    for order in sorted(live, key=lambda one: one.expires_ms):
        left = duration_text((order.expires_ms - now_ms) / clock.SECOND_MS)
        table.add_row(order_text(order), left, order.reason, order.owner, order.id)
    return table
