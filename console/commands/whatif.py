"""`popsteer whatif`: what the loss of a POP, another capacity or more demand would do."""

import json as jsons
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.console import Console

from aggregator.survival import n_plus_one
from aggregator.whatif import Change
from console import forecast as words
from console.known import known_pop
from console.running import find_config
from console.units import rate_bps
from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.store import s3_store


def whatif(
    *,
    down: Annotated[list[str] | None, Parameter(help="POPs that are gone.")] = None,
    cap: Annotated[list[str] | None, Parameter(help="POP=BPS: another capacity.")] = None,
    demand: Annotated[list[str] | None, Parameter(help="PREFIX=xF: F times the demand.")] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
    file: Annotated[Path | None, Parameter(name="--config", help="Of the running system.")] = None,
) -> None:
    """Tell who would move where, what it costs, and what overloads.

    Without an option: what the loss of each POP would do (N+1).
    """
    config = find_config(file)
    change = Change(
        frozenset(known_pop(config, pop) for pop in down or []),
        dict(_cap(config, text) for text in cap or []),
        dict(_growth(text) for text in demand or []),
    )
    base = words.published_situation(config, s3_store(config.aws))
    if change == Change(frozenset(), {}, {}):
        losses = n_plus_one(base.parts(base.said), base.capacity_bps, base.up, base.drained)
        if json:
            print(jsons.dumps(words.losses_document(base, losses), indent=2))
        else:
            Console().print(words.render_losses(base, losses), highlight=False)
        return
    told = words.forecast(base, change)
    if json:
        print(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        Console().print(words.render(told), highlight=False)


def _cap(config: Config, text: str) -> tuple[str, float]:
    pop, equals, rate = text.partition("=")
    if not equals:
        raise ConfigError(f"--cap {text}: write POP=BPS, as in fra1=40G")
    return known_pop(config, pop), rate_bps(rate)


def _growth(text: str) -> tuple[Prefix, float]:
    prefix, _, factor = text.partition("=")
    try:
        value = float(factor.removeprefix("x"))
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"--demand {text}: write PREFIX=xFACTOR, as in 192.0.2.0/24=x3")
    return Prefix.parse(prefix), value
