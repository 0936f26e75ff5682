"""What people read of a change, from what was published."""

import io
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from aggregator.survival import n_plus_one
from aggregator.whatif import Change
from console import cli, forecast
from console.published import View
from popsteer.config import Config
from popsteer.errors import TableError
from popsteer.state import PopState


def printed(renderable: object) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(renderable)
    return out.getvalue()


def test_a_lost_pop_is_told_with_moves_and_added_ms(view: View, config: Config) -> None:
    base = forecast.situation_of(view, config)
    change = Change(down=frozenset({"fra1"}))

    told = forecast.forecast(base, change)

    assert told.table_generation == 7
    assert told.latency_ms == pytest.approx(8.1)
    (move,) = told.at_once.moves
    assert (move.source, move.target) == ("fra1", "lon1")
    assert move.bps == pytest.approx(2e9)
    assert move.added_ms == pytest.approx(7.1, abs=0.01)
    text = printed(forecast.render(told))
    assert "100.0% of the demand moves" in text
    assert "+7.1" in text


def test_a_drained_pop_takes_nobody(view: View, config: Config) -> None:
    assert view.state is not None
    pops = view.state.pops | {"lon1": PopState(drained=True)}
    drained = replace(view, state=msgspec.structs.replace(view.state, pops=pops))
    base = forecast.situation_of(drained, config)
    change = Change(down=frozenset({"fra1"}))

    told = forecast.forecast(base, change)

    assert [move.target for move in told.at_once.moves] == ["par1"]


def test_what_overloads_is_named(view: View, config: Config) -> None:
    base = forecast.situation_of(view, config)
    change = Change(capacity_bps={"fra1": 1e9})

    told = forecast.forecast(base, change)

    assert told.at_once.overloaded == ("fra1",)
    assert told.at_once.overload_share == pytest.approx(0.5)
    assert "50.0% of the demand is too much (fra1 overloaded)" in printed(forecast.render(told))


def test_every_loss_has_a_line(view: View, config: Config) -> None:
    base = forecast.situation_of(view, config)
    losses = n_plus_one(base.parts(base.said), base.capacity_bps, base.up, base.drained)

    text = printed(forecast.render_losses(base, losses))

    assert all(pop in text for pop in base.pops)
    assert forecast.losses_document(base, losses)[0]["lost"] == base.pops[0]


def test_without_evidence_it_says_so(view: View, config: Config) -> None:
    with pytest.raises(TableError, match="evidence of table 7 is not in the store"):
        forecast.situation_of(replace(view, evidence=None), config)
    with pytest.raises(TableError, match="no table was published"):
        forecast.situation_of(View(), config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--down", "fra2"], "did you mean fra1"),
        (["--cap", "fra1"], "write POP=BPS"),
        (["--demand", "10.0.0.0/8=much"], "write PREFIX=xFACTOR"),
        (["--demand", "10.0.0.1/8=x2"], "10.0.0.1/8"),
    ],
)
def test_words_that_cannot_be_understood_are_named(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "popsteer.toml"
    path.write_text('[[pop]]\nid = "fra1"\nipv4 = ["192.0.2.1"]\n')

    assert cli.run(["whatif", *words, "--config", str(path)]) == 2

    assert said in capsys.readouterr().err


def test_json_is_one_document(view: View, config: Config) -> None:
    base = forecast.situation_of(view, config)
    told = forecast.forecast(base, Change())

    document = json.loads(msgspec.json.encode(told))

    assert set(document["at_once"]) == {
        "latency_ms",
        "moved_share",
        "overload_share",
        "unserved_share",
        "overloaded",
        "moves",
    }
