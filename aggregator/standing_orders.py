"""The operators' orders as the planner obeys them: read when they change, asked by kind.

Orders that cannot be read leave the last ones in force: an operator's word outlives a broken file.
"""

from popsteer import orders as orders_format
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.orders import Order, OrderKind, Orders
from popsteer.store import ObjectStore
from popsteer.telemetry import OncePerKey, logger


class StandingOrders:
    """Owns what was last read of `orders/current.json`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._orders, self._etag = Orders(), ""
        self._once = OncePerKey()

    def read(self, now_ms: int, before_ms: int) -> bool:
        """Read again; whether other orders are in force than `before_ms`.

        Raises:
            StoreError: the store cannot be reached.
        """
        before = self.live(before_ms)
        stored = self._store.read(orders_format.KEY, self._etag)
        if stored is not None:
            self._etag = stored.etag
            try:
                self._orders = orders_format.decode(stored.body)
            except ConfigError as error:
                logger().error("orders are unreadable, the last ones stay", reason=str(error))
        return self.live(now_ms) != before

    def live(self, now_ms: int) -> tuple[Order, ...]:
        """All in force."""
        return self._orders.live(now_ms)

    def drained(self, now_ms: int) -> dict[str, str]:
        """Drained POPs and why."""
        found = self._orders.drained(now_ms)
        return {pop: f"{order.reason} ({order.owner})" for pop, order in found.items()}

    def caps_bps(self, now_ms: int) -> dict[str, float]:
        """Capacities by POP."""
        return {o.pop: o.value_bps for o in self.live(now_ms) if o.kind == OrderKind.CAP}

    def pins(self, now_ms: int) -> dict[Prefix, str]:
        """Pinned prefixes and their POPs."""
        pins = {}
        for order in self.live(now_ms):
            if order.kind == OrderKind.PIN:
                try:
                    pins[Prefix.parse(order.prefix)] = order.pop
                except ConfigError as error:
                    if self._once.first(order.id):
                        logger().error("order left out", order=order.id, reason=str(error))
        return pins

    def freeze(self, now_ms: int) -> Order | None:
        """The order that freezes the table."""
        return next((o for o in self.live(now_ms) if o.kind == OrderKind.FREEZE), None)
