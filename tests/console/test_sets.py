"""A service with answers of its own is told by them."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from aggregator.services import sets_of
from aggregator.whatif import Change
from console import forecast
from console.explain import explain
from console.published import View
from popsteer.config import Config
from popsteer.errors import TableError
from popsteer.evidence import Reason
from popsteer.table import Further, Ranked, build


def with_own_answers(view: View, config: Config) -> tuple[View, Config]:
    """img.cdn.example. goes to par1 alone, by another policy."""
    assert view.table is not None
    assert view.evidence is not None
    old = view.table
    pop, share = np.full_like(old.pop, 0xFFFF), np.zeros_like(old.share)
    pop[:, 0], share[:, 0] = 2, 255
    own = Further(services=("img.cdn.example.",), policy="nearest RTT", default=("par1",))
    table = build(
        msgspec.structs.replace(old.meta, further=(own,)),
        old.pops,
        old.net,
        old.plen,
        old.pop,
        old.share,
        old.rtt,
        [Ranked(pop, share, old.rtt)],
    )
    reason = np.array([Reason.SLOWER, Reason.SLOWER, Reason.CHOSEN], np.uint8)
    evidence = replace(view.evidence, reason=reason)
    services = (
        config.service[0],
        msgspec.structs.replace(config.service[1], policy="nearest"),
    )
    found = replace(view, table=table, further_evidence=(evidence,))
    return found, msgspec.structs.replace(config, service=services)


def test_explain_speaks_of_the_services_own_answers(
    view: View, config: Config, now_ms: int
) -> None:
    both, config = with_own_answers(view, config)

    www = explain("10.0.0.9", "www.cdn.example", both, config, now_ms)
    img = explain("10.0.0.9", "img.cdn.example", both, config, now_ms)

    assert (www.pop, img.pop) == ("fra1", "par1")
    assert img.policy == "nearest RTT"
    assert www.policy != img.policy


def test_a_forecast_is_of_all_services_together(view: View, config: Config) -> None:
    both, config = with_own_answers(view, config)

    base = forecast.situation_of(both, config)
    told = forecast.forecast(base, Change(down=frozenset({"par1"})))

    assert [one.policy for one in base.sets] == [one.policy for one in sets_of(config)]
    assert {move.source for move in told.replanned.moves} == {"par1"}


def test_a_view_without_sets_is_the_same_for_everybody(view: View) -> None:
    assert view.of_service("img.cdn.example.") is view


def test_a_table_for_other_services_forecasts_nothing(view: View, config: Config) -> None:
    _, other = with_own_answers(view, config)

    with pytest.raises(TableError, match="other POPs or services"):
        forecast.situation_of(view, other)
