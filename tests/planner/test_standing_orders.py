"""Orders as the planner obeys them: when they change, and what of them it can read."""

import msgspec

from aggregator.standing_orders import StandingOrders
from popsteer import orders
from popsteer.names import Prefix
from popsteer.orders import Order, OrderKind, Orders
from popsteer.store import MemoryStore

NOW_MS = 1_000_000
SECOND_MS = 1_000


def order(
    kind: OrderKind, seconds: int = 60, pop: str = "", prefix: str = "", value_bps: float = 0.0
) -> Order:
    return Order(
        id=f"{kind}-{pop}{prefix}",
        kind=kind,
        pop=pop,
        prefix=prefix,
        value_bps=value_bps,
        owner="noc",
        reason="works",
        created_ms=NOW_MS,
        expires_ms=NOW_MS + seconds * SECOND_MS,
    )


def standing(store: MemoryStore, *given: Order) -> StandingOrders:
    for one in given:
        orders.give(store, one, NOW_MS)
    read = StandingOrders(store)
    read.read(NOW_MS, NOW_MS - SECOND_MS)
    return read


def test_each_kind_is_found() -> None:
    read = standing(
        MemoryStore(),
        order(OrderKind.DRAIN, pop="fra1"),
        order(OrderKind.CAP, pop="ams1", value_bps=4e9),
        order(OrderKind.PIN, pop="lon1", prefix="192.0.2.0/24"),
        order(OrderKind.FREEZE),
    )

    assert read.drained(NOW_MS) == {"fra1": "works (noc)"}
    assert read.caps_bps(NOW_MS) == {"ams1": 4e9}
    assert read.pins(NOW_MS) == {Prefix.parse("192.0.2.0/24"): "lon1"}
    frozen = read.freeze(NOW_MS)
    assert frozen is not None
    assert frozen.reason == "works"


def test_nothing_is_found_of_what_expired() -> None:
    read = standing(
        MemoryStore(), order(OrderKind.DRAIN, 10, pop="fra1"), order(OrderKind.FREEZE, 10)
    )
    then_ms = NOW_MS + 10 * SECOND_MS

    assert read.drained(then_ms) == {}
    assert read.freeze(then_ms) is None


def test_an_order_and_its_end_are_changes_and_nothing_else_is() -> None:
    store = MemoryStore()
    read = StandingOrders(store)
    orders.give(store, order(OrderKind.DRAIN, 3, pop="fra1"), NOW_MS)

    changed = [read.read(NOW_MS + s * SECOND_MS, NOW_MS + (s - 1) * SECOND_MS) for s in range(5)]

    assert changed == [True, False, False, True, False]


def test_orders_that_cannot_be_read_leave_the_last_ones_in_force() -> None:
    store = MemoryStore()
    read = standing(store, order(OrderKind.DRAIN, pop="fra1"))

    store.objects[orders.KEY] = b'{"orders": [{"kind": "drain"'

    assert not read.read(NOW_MS + SECOND_MS, NOW_MS)
    assert list(read.drained(NOW_MS + SECOND_MS)) == ["fra1"]


def test_a_pin_whose_prefix_is_none_is_left_out_and_the_others_hold() -> None:
    store = MemoryStore()
    broken = order(OrderKind.PIN, pop="lon1", prefix="192.0.2.1/24")
    good = order(OrderKind.PIN, pop="lon1", prefix="192.0.2.0/24")
    store.objects[orders.KEY] = msgspec.json.encode(Orders(orders=(broken, good)))

    assert standing(store).pins(NOW_MS) == {Prefix.parse("192.0.2.0/24"): "lon1"}
