"""Orders: an operator's drain, pin, cap or freeze, with owner, reason and expiry.

They live in one object, `orders/current.json`, changed by compare-and-swap; every change leaves
a copy under `orders/log/`. Each order ends by itself.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from popsteer.errors import ConfigError, ConflictError
from popsteer.store import ObjectStore

KEY = "orders/current.json"
LOG_PREFIX = "orders/log/"
_TRIES = 5


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


def give(store: ObjectStore, order: Order, now_ms: int) -> Orders:
    """Add an order; it replaces one of the same kind and target. Gives all in force.

    Raises:
        ConflictError: others kept writing meanwhile.
    """
    return _change(store, now_ms, order.id, lambda old: (*_without(old, order), order))


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
