"""What the signals say of POPs now: their load, and what they can carry. Pure.

A POP carries what it is configured for or says that it can, less where its requests or one of its
links are the narrower, or an order caps it. Decides nothing; that is for `aggregator.control`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.fleet import Fleet
from aggregator.signals import Readings, Signals
from popsteer.clock import SECOND_MS
from popsteer.samples import Signal

STALE_S = 20.0
"""Load older than this is unknown."""
SIZE_TRUST = 0.1
"""How soon the size of a POP's own requests counts: so many of its capacity are added to those it
has, of the size that they have everywhere. The few odd ones of an idle POP say nothing."""
LINK_BUSY = 0.5
"""A link below this utilisation does not bound its POP."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Load:
    """What the signals say of load and capacity, [p]."""

    load_bps: F64
    """NaN where unknown or stale."""
    capacity_bps: F64
    """Of the POP as its requests and its narrowest busy link allow; infinite is unlimited."""
    rated_bps: F64
    """Capacity as configured or reported, before requests, links and orders."""
    reason: tuple[str, ...]
    """What bounds the capacity, where it is not the configuration."""
    at_ms: int = 0
    """When it was measured; 0 is now."""
    own_bps: F64 | None = None
    """Capacity before links: what to plan with where it is known who uses which link."""


def measured(fleet: Fleet, signals: Signals, caps_bps: Mapping[str, float], now_ms: int) -> Load:
    """Load and capacity of all POPs now; `caps_bps` are the operators' orders."""
    load = _fresh(signals.of(fleet.pops, Signal.LOAD_BPS), now_ms)
    said = signals.of(fleet.pops, Signal.CAPACITY_BPS).value
    less = (said > 0) & (said < 0.999 * fleet.capacity_bps)
    rated = np.where(less, said, fleet.capacity_bps)
    reason = [""] * len(fleet.pops)
    for p in np.flatnonzero(less).tolist():
        reason[p] = "it reports less capacity than configured"
    bound_bps = _requests_bound_bps(fleet, signals, load, now_ms)
    for p in np.flatnonzero(bound_bps < rated).tolist():
        reason[p] = "its requests bound it"
    own = np.minimum(rated, bound_bps)
    capacity = own.copy()
    for p, link, full_bps in _full_links(fleet, signals, load, now_ms):
        if full_bps < capacity[p]:
            capacity[p], reason[p] = full_bps, f"link {link} bounds it"
    for p, pop in enumerate(fleet.pops):
        if pop in caps_bps:
            own[p] = min(own[p], caps_bps[pop])
            if caps_bps[pop] < capacity[p]:
                capacity[p], reason[p] = caps_bps[pop], "capped by order"
    return Load(load, capacity, rated, tuple(reason), signals.newest_ms, own)


def _requests_bound_bps(fleet: Fleet, signals: Signals, load_bps: F64, now_ms: int) -> F64:
    """[p], the load at which a POP serves as many requests as it can, if their size stays.

    Infinite where requests are unlimited, or while nobody says how many there are.
    """
    limit_rps = fleet.capacity_rps
    bound_bps = np.full(len(fleet.pops), np.inf)
    if limit_rps is None:
        return bound_bps
    rps = _fresh(signals.of(fleet.pops, Signal.LOAD_RPS), now_ms)
    told = np.isfinite(load_bps) & np.isfinite(rps)
    load, rps = np.where(told, load_bps, 0.0), np.where(told, rps, 0.0)
    if load.sum() <= 0 or rps.sum() <= 0:
        return bound_bps
    limited = np.isfinite(limit_rps)
    limit_rps, assumed_rps = limit_rps[limited], SIZE_TRUST * limit_rps[limited]
    assumed_bps = assumed_rps * load.sum() / rps.sum()
    bits = (load[limited] + assumed_bps) / (rps[limited] + assumed_rps)
    bound_bps[limited] = limit_rps * bits
    return bound_bps


def _full_links(
    fleet: Fleet, signals: Signals, load_bps: F64, now_ms: int
) -> list[tuple[int, str, float]]:
    """POP, link and the load of the POP at which this link is full, its share of it unchanged.

    Links that are far from it are left out.
    """
    tx_bps = _fresh(signals.of(fleet.link_subjects, Signal.TX_BPS), now_ms)
    load = load_bps[fleet.link_pop]
    busy = np.flatnonzero((tx_bps > LINK_BUSY * fleet.link_bps) & (load > 0))
    bound = load[busy] * fleet.link_bps[busy] / tx_bps[busy]
    names = [fleet.link_subjects[at].partition("/")[2] for at in busy.tolist()]
    return list(zip(fleet.link_pop[busy].tolist(), names, bound.tolist(), strict=True))


def _fresh(said: Readings, now_ms: int) -> F64:
    """[n], NaN where a reading is missing or stale."""
    return np.where(now_ms - said.last_ms > STALE_S * SECOND_MS, np.nan, said.value)
