"""The geography rung: a table made of where networks are, for a node that has none yet.

Owns the ranking of POPs by distance from a MaxMind DB file (`[table] geography`). It is served by
the same path as a measured table, and given up for good once there is one. It never asks anybody:
the file is all it knows. A network without coordinates gets no row, so the static order answers.
"""

import threading
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import maxminddb
import numpy as np
from numpy.typing import NDArray

from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.geo import distance_km
from popsteer.names import IPV6_BIT
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE, Table, TableMeta, build

POLICY = "geography"
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
