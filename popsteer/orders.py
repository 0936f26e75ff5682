"""Orders: an operator's drain, pin, cap or freeze, with owner, reason and expiry.

They live in one object, `orders/current.json`, changed by compare-and-swap; every change leaves
a copy under `orders/log/`, with who made it and why. Each order ends by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
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
    """All orders, expired ones too until the next change, and what the last change was."""

    orders: tuple[Order, ...] = ()
    changed_ms: int = 0
    """Later than that of any change before, whatever the clock of whoever made it says."""
    changed_by: str = ""
    changed_why: str = ""
    change: str = ""
    """Names the change in the log."""

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

    made = Orders(
        changed_ms=now_ms, changed_by=order.owner, changed_why=order.reason, change=order.id
    )
    return _change(store, made, now_ms, added)


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


def end(store: ObjectStore, order_id: str, now_ms: int, by: str, why: str) -> Orders:
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

    made = Orders(changed_ms=now_ms, changed_by=by, changed_why=why, change=f"{order_id}-end")
    return _change(store, made, now_ms, rest)


class EventKind(StrEnum):
    """What became of an order."""

    GIVEN = "given"
    REPLACED = "replaced"
    ENDED = "ended"
    EXPIRED = "expired"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log, as people read it."""

    at_ms: int
    what: EventKind
    order: Order
    by: str = ""
    """Nobody where it expired."""
    why: str = ""


def logged_at_ms(key: str) -> int:
    """When the change was made whose copy a key of the log names."""
    return int(key.removeprefix(LOG_PREFIX)[:13])


def history(store: ObjectStore, now_ms: int) -> list[Event]:
    """What became of every order until now, oldest first."""
    events: list[Event] = []
    before = Orders()
    for after in _versions(store):
        events += _events(before, after)
        before = after
    events += [_expired(one) for one in before.orders if not one.live(now_ms)]
    return sorted(events, key=lambda event: event.at_ms)


def _versions(store: ObjectStore) -> Iterator[Orders]:
    """Every version that the log has, and the one in force if its copy is not there."""
    keys = store.list(LOG_PREFIX)
    for key in keys:
        if (stored := store.read(key)) is not None:
            old = decode(stored.body)
            yield msgspec.structs.replace(old, changed_ms=logged_at_ms(key))
    if (stored := store.read(KEY)) is not None:
        current = decode(stored.body)
        if current.change and _log_key(current) not in keys:
            yield current


def _events(before: Orders, after: Orders) -> list[Event]:
    at_ms, by, why = after.changed_ms, after.changed_by, after.changed_why
    given = [one for one in after.orders if one not in before.orders]
    found = []
    for one in before.orders:
        if one in after.orders:
            continue
        if not one.live(at_ms):
            found.append(_expired(one))
        elif any(one.same_target(new) for new in given):
            found.append(Event(at_ms=at_ms, what=EventKind.REPLACED, order=one, by=by, why=why))
        else:
            found.append(Event(at_ms=at_ms, what=EventKind.ENDED, order=one, by=by, why=why))
    return found + [
        Event(at_ms=at_ms, what=EventKind.GIVEN, order=one, by=one.owner, why=one.reason)
        for one in given
    ]


def _expired(order: Order) -> Event:
    return Event(at_ms=order.expires_ms, what=EventKind.EXPIRED, order=order)


def _without(old: tuple[Order, ...], order: Order) -> tuple[Order, ...]:
    return tuple(o for o in old if not o.same_target(order))


def _change(
    store: ObjectStore,
    made: Orders,
    now_ms: int,
    change: Callable[[tuple[Order, ...]], tuple[Order, ...]],
) -> Orders:
    """Change the orders; `made` tells by whom, why and when."""
    for _ in range(_TRIES):
        stored = store.read(KEY)
        old = decode(stored.body) if stored else Orders()
        new = msgspec.structs.replace(
            made,
            orders=change(old.live(now_ms)),
            changed_ms=max(now_ms, old.changed_ms + 1),
        )
        body = msgspec.json.encode(new)
        if stored and old.change:
            # Whoever made the last change may have died before its copy was written.
            store.create(_log_key(old), stored.body)
        try:
            store.swap(KEY, body, stored.etag if stored else "")
        except ConflictError:
            continue
        store.create(_log_key(new), body)
        return new
    raise ConflictError(f"{KEY}: changed by others {_TRIES} times in a row; try again")


def _log_key(orders: Orders) -> str:
    return f"{LOG_PREFIX}{orders.changed_ms:013d}-{orders.change}.json"
