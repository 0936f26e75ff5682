"""What a change would do, as a value and in words; the arithmetic is `aggregator.whatif`.

It starts from what was published: the table in force, its evidence, and the POP state.
"""

from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from aggregator.egress import Egress
from aggregator.fleet import fleet_of
from aggregator.prefixes import Prefixes
from aggregator.services import sets_of
from aggregator.survival import Losses
from aggregator.terms import Atlas
from aggregator.whatif import (
    Account,
    Change,
    Exits,
    Flows,
    Placement,
    Situation,
    situation,
    whatif,
)
from console.published import Reader, View
from console.running import trusted
from console.table_text import grid
from console.units import rate_text
from popsteer.config import Config
from popsteer.errors import TableError
from popsteer.store import ObjectStore

MOVES_MAX = 12
"""So many are printed; JSON has all."""
FULL = 1.0 + 1e-9


class PopLoad(msgspec.Struct, frozen=True, kw_only=True):
    """One POP in the three placements."""

    pop: str
    capacity_bps: float | None
    """None is unlimited."""
    now_bps: float
    at_once_bps: float
    replanned_bps: float


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Users who leave one POP for another."""

    source: str
    target: str
    bps: float
    added_ms: float | None


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """One placement in numbers."""

    latency_ms: float | None
    moved_share: float
    """Of all demand, against now."""
    overload_share: float
    """Of all demand, for which there is no room; the unserved is among it."""
    unserved_share: float
    """Of all demand, whose service has no POP left."""
    overloaded: tuple[str, ...]
    """POPs, and links as POP/LINK where the POPs' routes are known."""
    moves: tuple[Move, ...]


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer."""

    table_generation: int
    demand_bps: float
    latency_ms: float | None
    overload_share: float
    at_once: Outlook
    """By the ranks of the table in force, within a second."""
    replanned: Outlook
    """When the planner has taken it up."""
    pops: tuple[PopLoad, ...]


def published_situation(config: Config, store: ObjectStore) -> Situation:
    """What is in force now.

    Raises:
        TableError: no table was published yet, or its evidence is gone.
        StoreError: the store is away.
    """
    base = situation_of(Reader(config, store, trusted(config)).refresh(), config)
    return replace(base, exits=_exits(base, config, store))


def _exits(base: Situation, config: Config, store: ObjectStore) -> Exits | None:
    """By the routes that the planner goes by; None where there are none."""
    fleet = fleet_of(config)
    egress = Egress(store, fleet)
    egress.read()
    if not egress.known.any():
        return None
    prefixes = Prefixes()
    row = prefixes.add(base.net, base.plen)
    geography = config.table.geography
    networks = Atlas(config.path(geography)).networks(prefixes) if geography else None

    def through(line: NDArray[np.int64], pop: NDArray[np.int64]) -> NDArray[np.int64]:
        return egress.through(prefixes, networks, row[line], pop)

    return Exits(fleet.link_subjects, fleet.link_pop, fleet.link_bps, through)


def situation_of(view: View, config: Config) -> Situation:
    """What was published, as the planner saw it.

    Raises:
        TableError: no table was published yet, or its evidence is gone.
    """
    if view.table is None:
        raise TableError("no table was published yet; is the planner running?")
    sets = sets_of(config)
    views = [view.of_service(one.services[0] if one.services else "") for one in sets]
    evidence = [one.evidence for one in views if one.evidence is not None]
    if len(evidence) < len(views):
        raise TableError(
            f"the evidence of table {view.table.meta.generation} is not in the store; "
            "wait for the planner's next table"
        )
    pops = evidence[0].pops
    if pops != tuple(config.pop_ids()) or len(view.table.sets) != len(sets):
        raise TableError(
            f"table {view.table.meta.generation} was made for other POPs or services than the "
            "configuration has; wait for the planner's next table"
        )
    states = view.state.pops if view.state else {}
    known = {pop.id: pop.capacity_bps for pop in config.pop}
    capacity = [
        (states[pop].capacity_bps if pop in states else known.get(pop, 0.0)) for pop in pops
    ]
    up = [pop not in states or states[pop].up for pop in pops]
    drained = [pop in states and states[pop].drained for pop in pops]
    return situation(
        sets,
        [one.table for one in views if one.table is not None],
        evidence,
        np.array(up),
        np.array(drained),
        np.array([bps if bps > 0 else np.inf for bps in capacity]),
        config.plan.target_utilisation,
        config.plan.move_gain_ms * 1e3,
    )


def forecast(base: Situation, change: Change) -> Forecast:
    """What a change would do, for people and scripts."""
    account = whatif(base, change)
    whole = float(account.replanned.load_bps.sum())
    return Forecast(
        table_generation=base.generation,
        demand_bps=whole,
        latency_ms=_ms(account.now.latency_us),
        overload_share=account.now.overload_share,
        at_once=_outlook(base, change, account, account.at_once, account.moved_at_once, whole),
        replanned=_outlook(
            base, change, account, account.replanned, account.moved_replanned, whole
        ),
        pops=tuple(
            PopLoad(
                pop=pop,
                capacity_bps=_known(float(account.capacity_bps[p])),
                now_bps=float(account.now.load_bps[p]),
                at_once_bps=float(account.at_once.load_bps[p]),
                replanned_bps=float(account.replanned.load_bps[p]),
            )
            for p, pop in enumerate(base.pops)
        ),
    )


def _outlook(
    base: Situation,
    change: Change,
    account: Account,
    placed: Placement,
    flows: Flows,
    whole: float,
) -> Outlook:
    moved = float(flows.bps.sum())
    full = np.flatnonzero(placed.load_bps > account.capacity_bps * FULL)
    names = [base.pops[p] for p in full.tolist() if base.pops[p] not in change.down]
    if base.exits is not None:
        links = np.flatnonzero(placed.link_bps > base.exits.capacity_bps * FULL)
        names += [base.exits.names[link] for link in links.tolist()]
    return Outlook(
        latency_ms=_ms(placed.latency_us),
        moved_share=moved / whole if whole else 0.0,
        overload_share=placed.overload_share,
        unserved_share=placed.unserved_share,
        overloaded=tuple(names),
        moves=tuple(
            Move(source=base.pops[s], target=base.pops[t], bps=bps, added_ms=_ms(added))
            for s, t, bps, added in zip(
                flows.source.tolist(),
                flows.target.tolist(),
                flows.bps.tolist(),
                flows.added_us.tolist(),
                strict=True,
            )
        ),
    )


def _ms(us: float) -> float | None:
    return None if np.isnan(us) else us / 1e3


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def render(told: Forecast) -> RenderableType:
    """What a person reads."""
    parts: list[RenderableType] = [
        _line("now", told.latency_ms, told.overload_share),
        _sentence("at once", told.at_once),
        _sentence("replanned", told.replanned),
        "",
        _moves(told.at_once),
    ]
    busy = [pop for pop in told.pops if _changed(pop)]
    if busy:
        parts += ["", _loads(busy)]
    return Group(*parts)


def _sentence(name: str, placed: Outlook) -> Text:
    line = _line(name, placed.latency_ms, placed.overload_share, placed.moved_share)
    if placed.unserved_share > 0:
        line.append(f", {placed.unserved_share:.1%} has no POP left", style="bold red")
    if placed.overloaded:
        line.append(f" ({' '.join(placed.overloaded)} overloaded)", style="red")
    return line


def _line(
    name: str, latency_ms: float | None, overload_share: float, moved_share: float = 0.0
) -> Text:
    latency = "RTT unknown" if latency_ms is None else f"{latency_ms:.2f} ms mean"
    line = Text.assemble((f"{name:<10}", "bold"), latency)
    if moved_share:
        line.append(f", {moved_share:.1%} of the demand moves")
    if overload_share > 0:
        line.append(f", {overload_share:.1%} of the demand is too much", style="bold red")
    return line


def _moves(placed: Outlook) -> RenderableType:
    if not placed.moves:
        return Text("nobody moves", style="dim")
    lines = grid("from", "to", "bits/s", "added ms")
    for column in lines.columns[2:]:
        column.justify = "right"
    for move in placed.moves[:MOVES_MAX]:
        added = "" if move.added_ms is None else f"{move.added_ms:+.1f}"
        lines.add_row(move.source, move.target, rate_text(move.bps), added)
    if (more := len(placed.moves) - MOVES_MAX) > 0:
        lines.add_row(f"… {more} more (--json tells all)")
    return lines


def _changed(pop: PopLoad) -> bool:
    least = 0.005 * max(pop.now_bps, pop.at_once_bps, pop.replanned_bps, 1.0)
    return (
        abs(pop.at_once_bps - pop.now_bps) > least or abs(pop.replanned_bps - pop.now_bps) > least
    )


def _loads(pops: list[PopLoad]) -> RenderableType:
    lines = grid("POP", "capacity", "now", "at once", "replanned")
    for column in lines.columns[1:]:
        column.justify = "right"
    for pop in sorted(pops, key=lambda one: -abs(one.at_once_bps - one.now_bps)):
        capacity = pop.capacity_bps
        lines.add_row(
            pop.pop,
            "unlimited" if capacity is None else rate_text(capacity),
            *(_used(bps, capacity) for bps in (pop.now_bps, pop.at_once_bps, pop.replanned_bps)),
        )
    return lines


def _used(bps: float, capacity_bps: float | None) -> Text:
    if not capacity_bps:
        return Text(rate_text(bps))
    style = "red" if bps > capacity_bps * FULL else ""
    return Text(f"{bps / capacity_bps:.0%}", style=style)


def render_losses(base: Situation, losses: Losses) -> RenderableType:
    """N+1 of every POP, the worst first."""
    lines = grid("if lost", "too much", "fullest", "at")
    for column in (lines.columns[1], lines.columns[3]):
        column.justify = "right"
    worst = np.lexsort((-np.nan_to_num(losses.utilisation), -losses.overload_share))
    for p in worst.tolist():
        target = int(losses.fullest[p])
        share = float(losses.overload_share[p])
        lines.add_row(
            base.pops[p],
            f"{share:.2%}" if share > 0 else "",
            base.pops[target] if target >= 0 else "",
            f"{losses.utilisation[p]:.0%}" if np.isfinite(losses.utilisation[p]) else "",
            style="red" if share > 0 else "",
        )
    return lines


def losses_document(base: Situation, losses: Losses) -> list[dict[str, object]]:
    """N+1 as JSON."""
    return [
        {
            "lost": pop,
            "overload_share": float(losses.overload_share[p]),
            "fullest": base.pops[int(losses.fullest[p])] if losses.fullest[p] >= 0 else None,
            "utilisation": _known(float(losses.utilisation[p])),
        }
        for p, pop in enumerate(base.pops)
    ]
