import json
from pathlib import Path

import msgspec
import pytest

from console.cli import run
from popsteer import clock
from popsteer import orders as book
from popsteer import overview as overviews
from popsteer.config import Aws
from popsteer.orders import Order, OrderKind
from popsteer.overview import LossView, Overview, PopView
from popsteer.store import MemoryStore


@pytest.fixture
def orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store behind the commands, and a configuration that they find."""
    file = tmp_path / "popsteer.toml"
    bounded = '[[pop]]\nid = "fra1"\ncapacity_bps = 100e9\n'
    file.write_text(f'{bounded}[[pop]]\nid = "lon1"\n[[pop]]\nid = "par1"\n')
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
        ["cap", "fra1", "40000G"],
        ["cap", "fra1", "100G"],
        ["cap", "fra1", "40"],
        ["cap", "lon1", "0"],
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
    run(["undrain", "fra1", "--why", "spliced"])
    capsys.readouterr()

    assert run(["orders", "--log", "--json"]) == 0

    given, ended = json.loads(capsys.readouterr().out)
    assert (given["what"], given["why"]) == ("given", "fibre works")
    assert (ended["what"], ended["why"], ended["by"]) == ("ended", "spliced", given["by"])
    assert ended["order"] == given["order"]
    assert run(["orders", "--log"]) == 0
    assert "spliced" in capsys.readouterr().out


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
    told = capsys.readouterr().out
    assert "1 prefixes with 2.00 Gbit/s would go to lon1" in told
    assert "100.0% of the demand moves" in told
    assert run(["cap", "fra1", "1G", "--preview"]) == 0
    assert "fra1 overloaded" in capsys.readouterr().out

    assert live(orders) == []


def seen(store: MemoryStore, created_ms: int) -> None:
    """The planner speaks."""
    loss = LossView(overload_share=0.02, fullest="lon1", utilisation=1.34, added_ms=11.0)
    pops = {"fra1": PopView(demand_share=0.25, if_lost=loss)}
    body = msgspec.json.encode(Overview(created_ms=created_ms, pops=pops))
    store.swap(overviews.KEY, body, "")


def test_a_drain_tells_what_it_displaces(
    orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    seen(orders, clock.now_ms())

    assert run(["drain", "fra1"]) == 0

    told = capsys.readouterr().out
    assert "25.0% of the demand moves, +11.0 ms for each; lon1 is the fullest then, at 134%" in told
    assert "warning: no room for 2.0% of the demand" in told
    assert live(orders)


@pytest.mark.parametrize(
    ("off_s", "words"),
    [
        (-120, "the planner has said nothing for 2 min"),
        (120, "the clock here is 2 min behind the planner's"),
        (0, ""),
    ],
)
def test_who_gives_an_order_hears_whether_the_planner_is_there(
    off_s: int, words: str, orders: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    seen(orders, clock.now_ms() + off_s * clock.SECOND_MS)

    assert run(["freeze"]) == 0

    told = capsys.readouterr().out
    assert words in told
    assert ("warning" in told) == bool(words)
