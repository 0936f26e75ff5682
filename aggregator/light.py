"""RTTs that light could not have made: which rows of a cut are impossible. Pure.

A signal is nowhere faster than light in vacuum (299,792.458 km/s, the SI's definition of the
metre), so within an RTT it reaches no farther than half of that. In fibre it takes half as long
again, but a path may lead over satellites or microwave links: the bound is what physics allows,
not what is usual. An RTT that breaks it was not measured at its target: a proxy answered, a tool
or a clock is broken, or somebody lies.

Judged are pairs whose both ends are known: the POP's location from the configuration, the
prefix's from the operator's list (`popsteer.locations`), which is believed to within
`PLACE_ERROR_KM`. An RTT counts as the highest of its bucket, so that a sample's fate depends on
nothing but itself, however shards and cuts put it together with others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.histogram import FIRST_US, LOST
from popsteer.geo import EARTH_RADIUS_KM, LIGHT_KM_PER_RTT_MS
from popsteer.kernel import kernel
from popsteer.locations import PLACE_ERROR_KM, Locations
from popsteer.names import Net, Plen

REASON = "light"

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sites:
    """Where prefixes and POPs are, as unit vectors from the centre of the Earth."""

    net: Net
    """Sorted, with `plen`."""
    plen: Plen
    at: F64
    """[n, 3]"""
    pops: Mapping[str, F64]
    """[3] of each POP whose location is known."""


def sites(locations: Locations, pops: Mapping[str, tuple[float, float]]) -> Sites:
    """From degrees."""
    order = np.lexsort((locations.plen, locations.net))
    known = np.array(list(pops.values()), np.float64).reshape(-1, 2)
    return Sites(
        locations.net[order],
        locations.plen[order],
        _vectors(locations.at[order]),
        dict(zip(pops, _vectors(known), strict=True)),
    )


def _vectors(degrees: F64) -> F64:
    lat, lon = np.radians(degrees).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


_EVERYWHERE = -2.0
"""No cosine is below."""


def _reach() -> F64:
    """[levels], the cosine of the angle that light gets to within the RTTs of each level at most.

    Lost probes have no RTT: the whole Earth is in their reach.
    """
    highest_ms = (FIRST_US[1:].astype(np.float64) - 1) / 1e3
    angle = (highest_ms * LIGHT_KM_PER_RTT_MS + PLACE_ERROR_KM) / EARTH_RADIUS_KM
    reach: F64 = np.where(angle < np.pi, np.cos(angle), _EVERYWHERE)
    reach[0] = _EVERYWHERE
    return reach


_REACH = _reach()


def impossible(
    known: Sites, pops: tuple[str, ...], rows: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """Which rows no light could have made.

    Args:
        known: Both ends of a pair must be in it for a row to be judged.
        pops: What the rows' `pop` indexes.
        rows: Columns of a partial of RTT, sorted as it has them.
    """
    nowhere = np.full(3, np.nan)
    at = np.array([known.pops.get(pop, nowhere) for pop in pops]).reshape(-1, 3)
    found = np.zeros(len(rows["net"]), np.bool_)
    _judge(
        rows["pop"],
        rows["net"],
        rows["plen"],
        rows["bucket"],
        known.net,
        known.plen,
        known.at,
        at,
        _REACH,
        found,
    )
    return found


@kernel
def _judge(
    pop: NDArray[np.uint16],
    net: Net,
    plen: Plen,
    bucket: NDArray[np.int16],
    known_net: Net,
    known_plen: Plen,
    known_at: F64,
    pop_at: F64,
    reach: F64,
    found: NDArray[np.bool_],
) -> None:
    """Rows of one POP and the known prefixes go along together: both are sorted."""
    at, size = 0, len(known_net)
    for i in range(len(net)):
        back = net[i] < net[i - 1] or (net[i] == net[i - 1] and plen[i] < plen[i - 1])
        if i == 0 or pop[i] != pop[i - 1] or back:
            at = 0
        while at < size and (
            known_net[at] < net[i] or (known_net[at] == net[i] and known_plen[at] < plen[i])
        ):
            at += 1
        if at == size or known_net[at] != net[i] or known_plen[at] != plen[i]:
            continue
        here, there = known_at[at], pop_at[pop[i]]
        # The cosine of the angle between them; of a POP that is nowhere it is NaN, below nothing.
        cosine = here[0] * there[0] + here[1] * there[1] + here[2] * there[2]
        found[i] = cosine < reach[bucket[i] - LOST]
