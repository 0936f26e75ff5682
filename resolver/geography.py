"""Geography: who serves a network for which nothing measured is left.

Owns the ranking of POPs by distance. A node that has no table yet makes one from a MaxMind DB file
(`[table] geography`), served by the same path as a measured table and given up for good once there
is one; a network without coordinates gets no row there, so the static order answers. In a measured
table the POPs next to a row's best one stand in behind its candidates: where a prefix was last
known to belong is where it is.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import maxminddb
import numpy as np
from numpy.typing import NDArray

from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.geo import distance_km
from popsteer.names import IPV6_BIT, dns_name
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE, Table, TableMeta, build

POLICY = "geography"
STAND_INS = 3
"""POPs that geography adds to a row: enough to survive the loss of a region's measured ones."""
NETWORK_BITS_MAX = 64
"""Of IPv6: a table knows no longer prefixes."""
_PLACES_AT_ONCE = 4_096
"""Bounds the matrix of distances."""

Network = IPv4Network | IPv6Network
Place = tuple[float, float]
"""Latitude and longitude, degrees."""


def geography_of(config: Config, stopped: threading.Event) -> Table | None:
    """The table of the configured file; takes about 5 s for a million networks.

    Args:
        config: `table.geography` is not empty.
        stopped: Set when nobody waits for the table any more.

    Returns:
        None where no POP has a location, or when stopped.

    Raises:
        ConfigError: the file is missing or is no MaxMind DB.
    """
    path = config.path(config.table.geography)
    places = {pop.id: pop.location for pop in config.pop if pop.location is not None}
    try:
        with maxminddb.open_database(path) as reader:
            found = _located(reader, stopped)
            made_ms = reader.metadata().build_epoch * 1_000
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise ConfigError(f"table.geography = {path}: {error}") from None
    if stopped.is_set() or not places:
        return None
    return table_by_distance(found, places, made_ms)


def check_geography(config: Config) -> None:
    """Refuse a file that cannot be used, before anything is started.

    Raises:
        ConfigError: the file is missing or is no MaxMind DB.
    """
    path = config.path(config.table.geography)
    try:
        maxminddb.open_database(path).close()
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise ConfigError(f"table.geography = {path}: {error}") from None


def _located(
    records: Iterable[tuple[Network, Any]], stopped: threading.Event
) -> list[tuple[Network, Place]]:
    found = []
    for network, record in records:
        if stopped.is_set():
            break
        at = record.get("location") if isinstance(record, dict) else None
        if isinstance(at, dict) and "latitude" in at and "longitude" in at:
            found.append((network, (float(at["latitude"]), float(at["longitude"]))))
    return found


def table_by_distance(
    located: Iterable[tuple[Network, Place]], pops: dict[str, Place], made_ms: int
) -> Table:
    """The nearest POPs of every network, in order; the first has the whole share."""
    kept = [(n, p) for n, p in located if n.version == 4 or n.prefixlen <= NETWORK_BITS_MAX]
    numbers: dict[Place, int] = {}
    place = np.array([numbers.setdefault(p, len(numbers)) for _, p in kept], np.int64)
    pop = _nearest(list(numbers), list(pops.values()))[place]
    share = np.zeros_like(pop, np.uint8)
    share[:, 0] = SHARE_WHOLE
    return build(
        TableMeta(generation=0, created_ms=made_ms, policy=POLICY),
        tuple(pops),
        np.array([_net(n) for n, _ in kept], np.uint64),
        np.array([n.prefixlen | (IPV6_BIT if n.version == 6 else 0) for n, _ in kept], np.uint8),
        pop,
        share,
        np.full_like(pop, NO_RTT),
    )


def with_stand_ins(table: Table, config: Config) -> Table:
    """The table with up to `STAND_INS` more candidates in each row, without a share.

    They are the POPs next to the row's first one, which has to have a location, among those that
    may serve. About 0.3 s for a million rows; nothing is done where no row has room.
    """
    places = {pop.id: pop.location for pop in config.pop if pop.location is not None}
    if len(places.keys() & set(table.pops)) < 2 or not len(table):
        return table
    first, *others = (
        _near(table.pops, places, _able(table, number, config)) for number in range(len(table.sets))
    )
    further = tuple(
        replace(one, pop=_filled(one.pop, near))
        for one, near in zip(table.further, others, strict=True)
    )
    return replace(table, pop=_filled(table.pop, first), further=further)


def _able(table: Table, number: int, config: Config) -> frozenset[str]:
    """The POPs that may serve whom a set of answers is for."""
    if not config.service:
        return frozenset(table.pops)
    whom = [one for one in config.service if table.meta.set_of(dns_name(one.name)) == number]
    return frozenset(pop for one in whom for pop in config.pops_of(one))


def _near(
    pops: Sequence[str], places: Mapping[str, Place], able: frozenset[str]
) -> NDArray[np.uint16]:
    """[pops, width], the numbers of those that are able by their distance from each."""
    here = [i for i, name in enumerate(pops) if name in places]
    there = np.array([i for i in here if pops[i] in able], np.uint16)
    near = np.full((len(pops), STAND_INS + CANDIDATES_MAX), NO_POP, np.uint16)
    if not len(there):
        return near
    at, to = (np.array([places[pops[i]] for i in some], np.float64) for some in (here, there))
    order = np.argsort(distance_km(at[:, 0], at[:, 1], to[:, 0], to[:, 1]), axis=1, kind="stable")
    closest = there[order][:, : near.shape[1]]
    near[here, : closest.shape[1]] = closest
    return near


def _filled(pop: NDArray[np.uint16], near: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Rows of `pop` with what `near` says of their first POP in the empty places."""
    filled = pop.copy()
    used = (pop != NO_POP).sum(axis=1)
    end = np.minimum(used + STAND_INS, CANDIDATES_MAX)
    rows = np.flatnonzero(used < end)
    for rank in range(near.shape[1]):
        wanted = near[pop[rows, 0], rank]
        rows, wanted = rows[wanted != NO_POP], wanted[wanted != NO_POP]
        new = ~(filled[rows] == wanted[:, None]).any(axis=1)
        filled[rows[new], used[rows[new]]] = wanted[new]
        used[rows[new]] += 1
        rows = rows[used[rows] < end[rows]]
        if not len(rows):
            break
    return filled


def _net(network: Network) -> int:
    first = int(network.network_address)
    return first << 32 if network.version == 4 else first >> 64


def _nearest(places: list[Place], pops: list[Place]) -> NDArray[np.uint16]:
    """[places, 8] POPs by distance."""
    pop = np.full((len(places), CANDIDATES_MAX), NO_POP, np.uint16)
    to = np.array(pops, np.float64).reshape(-1, 2)
    width = min(CANDIDATES_MAX, len(pops))
    for start in range(0, len(places), _PLACES_AT_ONCE):
        here = np.array(places[start : start + _PLACES_AT_ONCE], np.float64)
        km = distance_km(here[:, 0], here[:, 1], to[:, 0], to[:, 1])
        order = np.argsort(km, axis=1, kind="stable")[:, :width]
        pop[start : start + len(here), :width] = order
    return pop
