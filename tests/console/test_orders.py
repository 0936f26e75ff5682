import json
from pathlib import Path

import pytest

from console.cli import run
from popsteer import clock
from popsteer import orders as book
from popsteer.config import Aws
from popsteer.orders import Order, OrderKind
from popsteer.store import MemoryStore


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store behind the commands, and a configuration that they find."""
    file = tmp_path / "popsteer.toml"
    file.write_text('[[pop]]\nid = "fra1"\n[[pop]]\nid = "lon1"\n[[pop]]\nid = "par1"\n')
    monkeypatch.setenv("POPSTEER_CONFIG", str(file))
    store = MemoryStore()

    def instead(_aws: Aws) -> MemoryStore:
        return store

    monkeypatch.setattr("console.commands.orders.s3_store", instead)
    return store


def live(store: MemoryStore) -> list[Order]:
    return list(book.read(store).live(clock.now_ms()))


def test_a_drain_has_owner_reason_and_end(
    orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drain", "fra1", "--for", "30m", "--why", "fibre works"]) == 0
    (order,) = live(orders)
    assert (order.kind, order.pop, order.reason) == (OrderKind.DRAIN, "fra1", "fibre works")
    assert order.expires_ms - order.created_ms == 30 * clock.MINUTE_MS
    assert "@" in order.owner
    assert "drain fra1, for 30 min" in capsys.readouterr().out


def test_undrain_ends_it_and_says_when_there_is_none(
    orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["drain", "fra1"])
    assert run(["undrain", "fra1"]) == 0
    assert live(orders) == []
    assert run(["undrain", "fra1"]) == 2
    assert "not drained by an order" in capsys.readouterr().err


def test_pins_caps_and_freezes(orders: MemoryStore) -> None:
    assert run(["pin", "10.0.0.0/24", "lon1"]) == 0
    assert run(["cap", "fra1", "40G", "--for", "2h"]) == 0
    assert run(["freeze", "--why", "holiday"]) == 0
    pin, cap, freeze = live(orders)
    assert (pin.prefix, pin.pop) == ("10.0.0.0/24", "lon1")
    assert (cap.pop, cap.value_bps) == ("fra1", 40e9)
    assert (freeze.kind, freeze.reason) == (OrderKind.FREEZE, "holiday")


@pytest.mark.parametrize(
    "arguments",
    [
        ["pin", "10.0.0.1/24", "lon1"],
        ["pin", "10.0.0.0/24", "nrt9"],
        ["cap", "fra1", "much"],
        ["drain", "fra1", "--for", "soon"],
    ],
)
def test_what_cannot_be_ordered_changes_nothing(
    arguments: list[str], orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert live(orders) == []
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_orders_are_listed_and_ended_by_id(
    orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["orders"])
    assert capsys.readouterr().out == "no orders are in force\n"
    run(["drain", "fra1", "--why", "fibre works"])
    capsys.readouterr()
    run(["orders"])
    assert "fibre works" in capsys.readouterr().out
    run(["orders", "--json"])
    (told,) = json.loads(capsys.readouterr().out)
    assert run(["orders", "--end", told["id"]]) == 0
    assert live(orders) == []
    assert run(["orders", "--end", told["id"]]) == 2


@pytest.mark.usefixtures("orders")
def test_the_log_shows_what_was_given_and_ended(capsys: pytest.CaptureFixture[str]) -> None:
    run(["drain", "fra1", "--why", "fibre works"])
    run(["undrain", "fra1"])
    capsys.readouterr()

    assert run(["orders", "--log"]) == 0

    given, ended = capsys.readouterr().out.splitlines()[1:]
    assert "given  drain fra1  fibre works" in given
    assert "ended  drain fra1  fibre works" in ended
    assert run(["orders", "--log", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2


def test_a_conflict_is_told_and_changes_nothing(
    orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run(["drain", "fra1", "--why", "fibre works"])

    assert run(["pin", "10.0.0.0/24", "fra1"]) == 2

    assert "fra1 is drained by" in capsys.readouterr().err
    assert len(live(orders)) == 1


def test_a_preview_tells_what_is_displaced_and_orders_nothing(
    orders: MemoryStore, store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    orders.objects.update(store.objects)

    assert run(["drain", "fra1", "--preview"]) == 0
    assert "100.0% of the demand moves" in capsys.readouterr().out
    assert run(["pin", "10.0.0.0/8", "lon1", "--preview"]) == 0
    assert "1 prefixes with 2.00 Gbit/s would go to lon1" in capsys.readouterr().out
    assert run(["cap", "fra1", "1G", "--preview"]) == 0
    assert "fra1 overloaded" in capsys.readouterr().out

    assert live(orders) == []
