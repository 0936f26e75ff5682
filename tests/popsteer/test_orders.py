"""Orders on the store's contract: races, expiry, the log."""

from dataclasses import dataclass, field

import pytest

from popsteer import orders
from popsteer.errors import ConfigError, ConflictError
from popsteer.orders import Order, OrderKind, Orders
from popsteer.store import MemoryStore

NOW_MS = 1_000_000


def _drain(order_id: str, pop: str, expires_ms: int = NOW_MS + 60_000) -> Order:
    return Order(
        id=order_id,
        kind=OrderKind.DRAIN,
        pop=pop,
        owner="noc",
        reason="maintenance",
        created_ms=NOW_MS,
        expires_ms=expires_ms,
    )


def _pin(order_id: str, prefix: str, pop: str) -> Order:
    return Order(
        id=order_id,
        kind=OrderKind.PIN,
        prefix=prefix,
        pop=pop,
        owner="noc",
        reason="ticket",
        created_ms=NOW_MS,
        expires_ms=NOW_MS + 60_000,
    )


@dataclass(slots=True)
class RacingStore(MemoryStore):
    """Before each of the first swaps somebody else gives an order of their own."""

    rivals: list[Order] = field(default_factory=list)

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """Lose the race as long as there are rivals."""
        if self.rivals:
            rival = self.rivals.pop(0)
            present = orders.read(self)
            theirs = Orders(orders=(*present.orders, rival))
            MemoryStore.swap(self, key, _bytes(theirs), _etag(self, key))
        return MemoryStore.swap(self, key, body, etag)


def _bytes(given: Orders) -> bytes:
    store = MemoryStore()
    for order in given.orders:
        orders.give(store, order, NOW_MS)
    return store.objects[orders.KEY]


def _etag(store: MemoryStore, key: str) -> str:
    stored = store.read(key)
    return stored.etag if stored else ""


def test_there_are_none_at_first() -> None:
    assert orders.read(MemoryStore()) == Orders()


def test_an_order_is_in_force_until_it_expires() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1", expires_ms=NOW_MS + 10), NOW_MS)
    found = orders.read(store)
    assert list(found.drained(NOW_MS)) == ["fra1"]
    assert list(found.drained(NOW_MS + 9)) == ["fra1"]
    assert found.live(NOW_MS + 10) == ()


def test_expired_orders_go_with_the_next_change() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1", expires_ms=NOW_MS + 10), NOW_MS)
    left = orders.give(store, _drain("b", "ams1"), NOW_MS + 10)
    assert [order.id for order in left.orders] == ["b"]


def test_a_newer_order_replaces_one_of_the_same_target() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS)
    orders.give(store, _drain("b", "fra1"), NOW_MS)
    orders.give(store, _pin("c", "192.0.2.0/24", "lon1"), NOW_MS)
    left = orders.give(store, _pin("d", "192.0.2.0/24", "ams1"), NOW_MS)
    assert [order.id for order in left.orders] == ["b", "d"]


def test_an_order_ends_early() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS)
    orders.give(store, _drain("b", "ams1"), NOW_MS)
    assert [o.id for o in orders.end(store, "a", NOW_MS + 1, "noc", "done").orders] == ["b"]


@pytest.mark.parametrize("now_ms", [NOW_MS, NOW_MS + 60_000])
def test_what_is_not_in_force_cannot_end(now_ms: int) -> None:
    store = MemoryStore()
    order_id = "a" if now_ms > NOW_MS else "z"
    orders.give(store, _drain("a", "fra1"), NOW_MS)
    with pytest.raises(ConfigError, match=f"no order '{order_id}' is in force"):
        orders.end(store, order_id, now_ms, "noc", "done")


def test_every_change_leaves_a_copy_in_the_log() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS)
    orders.end(store, "a", NOW_MS + 5, "noc", "done")
    log = store.list(orders.LOG_PREFIX)
    assert log == [
        "orders/log/0000001000000-a.json",
        "orders/log/0000001000005-a-end.json",
    ]
    assert orders.decode(store.objects[log[0]]).orders[0].reason == "maintenance"


def test_two_who_write_at_once_both_stand() -> None:
    store = RacingStore(rivals=[_drain("r1", "ams1"), _drain("r2", "nyc1")])
    left = orders.give(store, _drain("a", "fra1"), NOW_MS)
    assert sorted(order.id for order in left.orders) == ["a", "r1", "r2"]
    assert orders.read(store) == left


def test_a_lost_race_is_told() -> None:
    store = RacingStore(rivals=[_drain(f"r{i}", f"pop{i}") for i in range(20)])
    with pytest.raises(ConflictError, match="try again"):
        orders.give(store, _drain("a", "fra1"), NOW_MS)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"orders": [{}]}', b'{"orders": 3}'])
def test_what_is_no_order_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match=r"orders/current\.json"):
        orders.decode(data)


SERVICES = {"www.": frozenset({"fra1", "ams1"}), "img.": frozenset({"fra1", "lon1"})}


def test_a_drain_that_leaves_a_service_without_a_pop_is_refused() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS, SERVICES)

    with pytest.raises(ConfigError, match=r"nobody would be left for www\..*\(fra1\)"):
        orders.give(store, _drain("b", "ams1"), NOW_MS, SERVICES)

    assert [o.id for o in orders.read(store).orders] == ["a"]


def test_the_rule_is_judged_against_the_orders_that_it_joins() -> None:
    store = RacingStore(rivals=[_drain("theirs", "fra1")])

    with pytest.raises(ConfigError, match="nobody would be left"):
        orders.give(store, _drain("mine", "ams1"), NOW_MS, SERVICES)

    assert [o.id for o in orders.read(store).orders] == ["theirs"]


def test_a_pin_to_a_drained_pop_is_refused_and_the_drain_named() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS)

    with pytest.raises(ConfigError, match=r"fra1 is drained by noc \(maintenance, a\)"):
        orders.give(store, _pin("b", "192.0.2.0/24", "fra1"), NOW_MS)

    assert orders.give(store, _pin("c", "192.0.2.0/24", "ams1"), NOW_MS)


def test_an_expired_drain_is_in_nobodys_way() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS, SERVICES)

    later = orders.give(store, _drain("b", "ams1"), NOW_MS + 60_000, SERVICES)

    assert [o.id for o in later.orders] == ["b"]


def test_remarks_tell_what_else_is_in_force() -> None:
    freeze = Order(
        id="f",
        kind=OrderKind.FREEZE,
        owner="noc",
        reason="holiday",
        created_ms=NOW_MS,
        expires_ms=NOW_MS + 60_000,
    )
    pin = _pin("p", "192.0.2.0/24", "fra1")

    assert "frozen by noc (holiday, f)" in orders.remarks([freeze], pin)[0]
    assert "the pin of 192.0.2.0/24 (p) yields" in orders.remarks([pin], _drain("d", "fra1"))[0]
    assert "replaces p by noc" in orders.remarks([pin], _pin("q", "192.0.2.0/24", "ams1"))[0]
    assert orders.remarks([freeze, pin], _drain("d", "ams1")) == []


def told(store: MemoryStore, now_ms: int) -> list[tuple[int, str, str, str, str]]:
    return [
        (event.at_ms - NOW_MS, event.what, event.order.id, event.by, event.why)
        for event in orders.history(store, now_ms)
    ]


def test_the_log_tells_what_became_of_every_order_by_whom_and_why() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS)
    orders.give(store, _drain("b", "fra1"), NOW_MS + 1)
    orders.end(store, "b", NOW_MS + 2, "ann", "works are over")
    orders.give(store, _drain("c", "fra1", expires_ms=NOW_MS + 50), NOW_MS + 3)
    orders.give(store, _drain("d", "ams1", expires_ms=NOW_MS + 70), NOW_MS + 60)

    assert told(store, NOW_MS + 100) == [
        (0, "given", "a", "noc", "maintenance"),
        (1, "replaced", "a", "noc", "maintenance"),
        (1, "given", "b", "noc", "maintenance"),
        (2, "ended", "b", "ann", "works are over"),
        (3, "given", "c", "noc", "maintenance"),
        (50, "expired", "c", "", ""),
        (60, "given", "d", "noc", "maintenance"),
        (70, "expired", "d", "", ""),
    ]


def test_a_clock_that_is_behind_does_not_confuse_the_log() -> None:
    store = MemoryStore()
    orders.give(store, _drain("a", "fra1"), NOW_MS)
    orders.give(store, _drain("b", "ams1"), NOW_MS - 30_000)
    orders.end(store, "a", NOW_MS - 20_000, "ann", "over")

    assert [one[1:3] for one in told(store, NOW_MS)] == [
        ("given", "a"),
        ("given", "b"),
        ("ended", "a"),
    ]


class Dying(MemoryStore):
    """Whoever writes a copy for the log dies first."""

    dies = True

    def create(self, key: str, body: bytes) -> bool:
        """See `ObjectStore`."""
        if self.dies:
            raise KeyboardInterrupt
        return super().create(key, body)


def test_a_change_whose_copy_was_never_written_is_told_and_written_by_the_next() -> None:
    store = Dying()
    with pytest.raises(KeyboardInterrupt):
        orders.give(store, _drain("a", "fra1"), NOW_MS)
    store.dies = False
    assert [one[1:3] for one in told(store, NOW_MS)] == [("given", "a")]

    orders.end(store, "a", NOW_MS + 5, "ann", "over")

    assert [one[1:4] for one in told(store, NOW_MS + 5)] == [
        ("given", "a", "noc"),
        ("ended", "a", "ann"),
    ]
