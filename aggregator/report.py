"""What people see: the overview of all POPs, and the POP state with its reasons."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers, load_bps
from aggregator.control import Health, LoadLoop
from aggregator.estimate import Estimates
from aggregator.fleet import Fleet
from aggregator.load import Load
from aggregator.services import ServiceSet
from aggregator.signals import Signals
from aggregator.solve import NOWHERE
from aggregator.survival import Losses
from popsteer.clock import SECOND_MS, age_s
from popsteer.names import link_subject
from popsteer.overview import HeartbeatView, LinkView, LossView, Overview, PopView, ServiceView
from popsteer.samples import Signal
from popsteer.state import PopState, State
from popsteer.table import Table

EXPIRY_S = 10.0
"""A POP state older than this is not believed by the resolvers."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scene:
    """What the planner knows at one time."""

    now_ms: int
    fleet: Fleet
    health: Health
    load: Load
    loop: LoadLoop
    drained: dict[str, str]
    """Why, by POP."""
    heard: dict[str, HeartbeatView] = field(default_factory=dict)
    """By stream."""


@dataclass(frozen=True, slots=True)
class PathView:
    """RTT of the prefixes that a table sends to each POP, [p]; NaN is unknown."""

    p50_us: F64
    p95_us: F64
    loss: F64
    samples_per_min: F64
    demand_bps: F64
    latency_us: float
    """Demand-weighted over all."""
    prefixes: int
    """With an estimate for some POP."""


def state_of(scene: Scene, signals: Signals, table_generation: int) -> State:
    """The POP state; its generation is for the publisher to give."""
    pops = {}
    for p, pop in enumerate(scene.fleet.pops):
        pops[pop] = PopState(
            up=bool(scene.health.up[p]),
            shed=round(float(scene.loop.shed[p]), 4),
            drained=pop in scene.drained,
            fresh_ms=signals.pop_ms(pop),
            load_bps=_number(scene.load.load_bps[p]),
            capacity_bps=_number(scene.load.capacity_bps[p]),
            rated_bps=_number(scene.load.rated_bps[p]),
            reason=reason_of(scene, p),
        )
    return State(
        generation=0,
        created_ms=scene.now_ms,
        expires_ms=scene.now_ms + int(EXPIRY_S * SECOND_MS),
        table_generation=table_generation,
        pops=pops,
        heartbeat_ms={stream: heard.newest_ms for stream, heard in scene.heard.items()},
    )


def reason_of(scene: Scene, p: int) -> str:
    """The rules that fired at a POP, in words."""
    pop, words = scene.fleet.pops[p], []
    if scene.health.reason[p]:
        words.append(scene.health.reason[p])
    if pop in scene.drained:
        words.append(f"drained: {scene.drained[pop]}")
    if scene.loop.shed[p] > 0:
        used = scene.load.load_bps[p] / scene.load.capacity_bps[p]
        words.append(f"sheds {scene.loop.shed[p]:.0%} at a load of {used:.0%}")
    if scene.load.reason[p]:
        words.append(scene.load.reason[p])
    if not scene.fleet.serves[p]:
        words.append("no service names it")
    return "; ".join(words)


def paths_of(
    said: Answers, estimates: Estimates, demand_bps: F64, fleet: Fleet, half_life_s: float
) -> PathView:
    """RTT, loss and demand by POP, of the prefixes that answers send there.

    `said` and `demand_bps` are of all prefixes.
    """
    p = len(fleet.pops)
    planned = load_bps(said, demand_bps, p)
    line, column = np.nonzero(said.share > 0)
    key = line * p + said.pop[line, column]
    at = np.searchsorted(estimates.key, key)
    known = at < len(estimates)
    known[known] = estimates.key[at[known]] == key[known]
    at, line, column = at[known], line[known], column[known]
    pop = said.pop[line, column]
    samples, rtt = estimates.samples[at], estimates.rtt_us[at]
    total = np.bincount(pop, samples, p)
    lost = np.bincount(pop, samples * estimates.loss[at], p)
    weight = demand_bps[line] * said.share[line, column]
    mean_life_s = half_life_s / np.log(2)
    return PathView(
        _weighted_quantile(pop, rtt, samples, p, 0.5),
        _weighted_quantile(pop, rtt, samples, p, 0.95),
        np.divide(lost, total, out=np.full(p, np.nan), where=total > 0),
        total * 60 / mean_life_s,
        planned,
        float((weight * rtt).sum() / weight.sum()) if weight.sum() else float("nan"),
        # Keys are sorted, so a prefix ends where the next one begins.
        int((np.diff(estimates.key // p) > 0).sum()) + (len(estimates) > 0),
    )


def _weighted_quantile(
    group: NDArray[np.int64], value: F64, weight: F64, groups: int, q: float
) -> F64:
    """The lower weighted quantile of each group; NaN where it is empty."""
    # Narrow numbers are sorted by radix, and within a group the values alone.
    order = np.argsort(group.astype(np.uint16), kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=groups)).tolist()
    for first, end in zip([0, *ends[:-1]], ends, strict=True):
        here = order[first:end]
        order[first:end] = here[np.argsort(value[here], kind="stable")]
    group, value, weight = group[order], value[order], weight[order]
    total = np.bincount(group, weight, groups)
    before = np.concatenate(([0.0], np.cumsum(total)[:-1]))
    reached = np.cumsum(weight) - before[group] >= q * total[group] * (1 - 1e-9)
    result = np.full(groups, np.nan)
    rows = np.flatnonzero(reached)[::-1]
    result[group[rows]] = value[rows]
    return result


def overview_of(
    scene: Scene,
    signals: Signals,
    paths: PathView,
    table: Table | None,
    window_last_ms: int,
    share_before: F64,
    refused: str,
    orders: int,
) -> Overview:
    """The overview; what is unknown is left out, never zero."""
    whole = float(paths.demand_bps.sum())
    share = paths.demand_bps / whole if whole else paths.demand_bps
    over = np.maximum(paths.demand_bps - scene.load.capacity_bps, 0.0)
    return Overview(
        created_ms=scene.now_ms,
        table_generation=table.meta.generation if table else 0,
        table_created_ms=table.meta.created_ms if table else 0,
        rows=len(table) if table else 0,
        prefixes=paths.prefixes,
        window_last_ms=window_last_ms,
        demand_bps=whole,
        latency_ms=None if np.isnan(paths.latency_us) else paths.latency_us / 1e3,
        overload_share=float(over.sum()) / whole if whole else 0.0,
        policy=table.meta.policy if table else "",
        refused=refused,
        orders=orders,
        heartbeats=scene.heard,
        pops={
            pop: _pop_view(scene, signals, paths, p, float(share[p]), float(share_before[p]))
            for p, pop in enumerate(scene.fleet.pops)
        },
    )


def with_losses(overview: Overview, pops: Sequence[str], losses: Losses, now_ms: int) -> Overview:
    """The overview with N+1 of every POP that was looked at."""
    views = {
        pop: msgspec.structs.replace(
            overview.pops[pop],
            if_lost=LossView(
                overload_bps=float(losses.overload_bps[p]),
                overload_share=float(losses.overload_share[p]),
                fullest=pops[losses.fullest[p]] if losses.fullest[p] != NOWHERE else "",
                utilisation=_known(losses.utilisation[p]),
                added_ms=_known(losses.added_us[p] / 1e3),
                age_s=age_s(int(losses.seen_ms[p]), now_ms),
            ),
        )
        for p, pop in enumerate(pops)
        if losses.seen_ms[p]
    }
    return msgspec.structs.replace(overview, pops=overview.pops | views)


def with_services(
    overview: Overview, sets: Sequence[ServiceSet], demand_bps: Sequence[F64]
) -> Overview:
    """The overview with what each service asks for."""
    services = {
        service: ServiceView(
            policy=one.policy,
            pops=int(one.serves.sum()),
            shares_answers_with=tuple(other for other in one.services if other != service),
            demand_bps=float(demand.sum()),
        )
        for one, demand in zip(sets, demand_bps, strict=True)
        for service in one.services
    }
    return msgspec.structs.replace(overview, services=services)


def _pop_view(
    scene: Scene, signals: Signals, paths: PathView, p: int, share: float, before: float
) -> PopView:
    pop = scene.fleet.pops[p]
    newest_ms = signals.pop_ms(pop)
    return PopView(
        up=bool(scene.health.up[p]),
        drained=pop in scene.drained,
        shed=round(float(scene.loop.shed[p]), 4),
        rtt_p50_us=_known(paths.p50_us[p]),
        rtt_p95_us=_known(paths.p95_us[p]),
        loss=_known(paths.loss[p]),
        samples_per_min=round(float(paths.samples_per_min[p]), 1),
        age_s=age_s(newest_ms, scene.now_ms) if newest_ms else None,
        load_bps=_number(scene.load.load_bps[p]),
        capacity_bps=_number(scene.load.capacity_bps[p]),
        planned_bps=float(paths.demand_bps[p]),
        links={
            link: LinkView(
                tx_bps=_number(signals.value(link_subject(pop, link), Signal.TX_BPS)),
                capacity_bps=capacity,
            )
            for link, capacity in scene.fleet.links[p].items()
        },
        demand_share=share,
        demand_share_before=before,
        reason=reason_of(scene, p),
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _number(value: float) -> float:
    """0 for unknown or unlimited, as the formats have it."""
    return float(value) if np.isfinite(value) else 0.0
