"""Orders: an operator's drain, pin, cap or freeze, with owner, reason and expiry.

They live in one object, `orders/current.json`, changed by compare-and-swap; every change leaves
a copy under `orders/log/`. Each order ends by itself.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import TypeAlias

import msgspec

from popsteer.errors import ConfigError, ConflictError
from popsteer.store import ObjectStore

KEY = "orders/current.json"
LOG_PREFIX = "orders/log/"
_TRIES = 5

Services: TypeAlias = Mapping[str, frozenset[str]]
"""The POPs that may serve each service, by its name."""


class OrderKind(StrEnum):
    """What is ordered."""

    DRAIN = "drain"
    """No answer names the POP while another candidate lives."""
    PIN = "pin"
    """A prefix is answered with one POP."""
    CAP = "cap"
    """A POP's capacity is taken to be `value_bps`."""
    FREEZE = "freeze"
    """No new table is published; health and shed go on."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One order."""

    id: str
    kind: OrderKind
    pop: str = ""
    prefix: str = ""
    value_bps: float = 0.0
    owner: str
    reason: str
    created_ms: int
    expires_ms: int

    def live(self, now_ms: int) -> bool:
        """Whether it is in force."""
        return now_ms < self.expires_ms

    def same_target(self, other: "Order") -> bool:
        """Whether the newer of two replaces the older."""
        return (self.kind, self.pop if self.kind != OrderKind.PIN else "", self.prefix) == (
            other.kind,
            other.pop if other.kind != OrderKind.PIN else "",
            other.prefix,
        )


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """All orders, expired ones too until the next change."""

    orders: tuple[Order, ...] = ()

    def live(self, now_ms: int) -> tuple[Order, ...]:
        """The orders in force."""
        return tuple(order for order in self.orders if order.live(now_ms))

    def drained(self, now_ms: int) -> dict[str, Order]:
        """Drained POPs."""
        return {o.pop: o for o in self.live(now_ms) if o.kind == OrderKind.DRAIN}


def decode(data: bytes) -> Orders:
    """The orders in the bytes.

    Raises:
        ConfigError: not orders.
    """
    try:
        return msgspec.json.decode(data, type=Orders)
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from None


def read(store: ObjectStore) -> Orders:
    """The orders now; none where there never was one."""
    stored = store.read(KEY)
    return decode(stored.body) if stored else Orders()


def give(store: ObjectStore, order: Order, now_ms: int, services: Services | None = None) -> Orders:
    """Add an order; it replaces one of the same kind and target. Gives all in force.

    `services` are the POPs of each service, for the rules of `objection`; they are judged against
    exactly the orders that this one joins.

    Raises:
        ConfigError: it conflicts with an order in force.
        ConflictError: others kept writing meanwhile.
    """

    def added(old: tuple[Order, ...]) -> tuple[Order, ...]:
        if reason := objection(old, order, services or {}):
            raise ConfigError(reason)
        return (*_without(old, order), order)

    return _change(store, now_ms, order.id, added)


def objection(live: Iterable[Order], order: Order, services: Services) -> str:
    """Why an order cannot join those in force; empty when it can.

    A drain may not take the last POP of a service, and a pin may not name a drained POP.
    """
    drained = {one.pop: one for one in live if one.kind == OrderKind.DRAIN}
    if order.kind == OrderKind.DRAIN:
        out = {*drained, order.pop}
        for name, pops in services.items():
            if order.pop in pops and pops <= out:
                return (
                    f"drain {order.pop}: nobody would be left for {name}, as all its other POPs "
                    f"({', '.join(sorted(pops - {order.pop})) or 'there are none'}) are drained; "
                    "undrain one first"
                )
    if order.kind == OrderKind.PIN and order.pop in drained:
        held = drained[order.pop]
        return (
            f"pin {order.prefix}: {order.pop} is drained by {held.owner} ({held.reason}, "
            f"{held.id}); undrain it first, or pin to another POP"
        )
    return ""


def remarks(live: Iterable[Order], order: Order) -> list[str]:
    """What whoever gives an order should know of those in force."""
    found = []
    for one in live:
        if one.same_target(order):
            found.append(f"it replaces {one.id} by {one.owner}: {one.reason}")
        elif one.kind == OrderKind.FREEZE and order.kind in {OrderKind.PIN, OrderKind.CAP}:
            found.append(
                f"the table is frozen by {one.owner} ({one.reason}, {one.id}): "
                "it takes effect when that ends"
            )
        elif one.kind == OrderKind.PIN and order.kind == OrderKind.DRAIN and one.pop == order.pop:
            found.append(f"the pin of {one.prefix} ({one.id}) yields as long as it holds")
    return found


def end(store: ObjectStore, order_id: str, now_ms: int) -> Orders:
    """End an order early. Gives all that stay in force.

    Raises:
        ConfigError: no such order is in force.
        ConflictError: others kept writing meanwhile.
    """

    def rest(old: tuple[Order, ...]) -> tuple[Order, ...]:
        left = tuple(o for o in old if o.id != order_id)
        if len(left) == len(old):
            raise ConfigError(f"no order {order_id!r} is in force; see: popsteer orders")
        return left

    return _change(store, now_ms, f"{order_id}-end", rest)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the log: what was given and what ended with it."""

    at_ms: int
    given: tuple[Order, ...]
    ended: tuple[Order, ...]
    """Ended early, replaced, or found expired."""


def logged_at_ms(key: str) -> int:
    """When the change was made whose copy a key of the log names."""
    return int(key.removeprefix(LOG_PREFIX)[:13])


def history(store: ObjectStore) -> list[Change]:
    """Every change of the orders, oldest first."""
    changes, before = [], Orders()
    for key in store.list(LOG_PREFIX):
        stored = store.read(key)
        if stored is None:
            continue
        after = decode(stored.body)
        changes.append(
            Change(
                at_ms=logged_at_ms(key),
                given=tuple(one for one in after.orders if one not in before.orders),
                ended=tuple(one for one in before.orders if one not in after.orders),
            )
        )
        before = after
    return changes


def _without(old: tuple[Order, ...], order: Order) -> tuple[Order, ...]:
    return tuple(o for o in old if not o.same_target(order))


def _change(
    store: ObjectStore,
    now_ms: int,
    log_id: str,
    change: Callable[[tuple[Order, ...]], tuple[Order, ...]],
) -> Orders:
    for _ in range(_TRIES):
        stored = store.read(KEY)
        old = decode(stored.body) if stored else Orders()
        new = Orders(orders=change(old.live(now_ms)))
        body = msgspec.json.encode(new)
        try:
            store.swap(KEY, body, stored.etag if stored else "")
        except ConflictError:
            continue
        store.create(f"{LOG_PREFIX}{now_ms:013d}-{log_id}.json", body)
        return new
    raise ConflictError(f"{KEY}: changed by others {_TRIES} times in a row; try again")
