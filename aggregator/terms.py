"""What policies go by besides RTT and capacity: weights, prices, biases and places.

POPs' terms come from the configuration, prefixes' places from its geography database
(`[table] geography`). Neither is measured; an unknown place is NaN.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import maxminddb
import numpy as np
from numpy.typing import NDArray

from aggregator.prefixes import UNKNOWN, Prefixes
from popsteer.config import Config, Service
from popsteer.errors import ConfigError
from popsteer.geo import arc_km
from popsteer.names import IPV6_BIT

BAND_MS = 5.0

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Terms:
    """Of p POPs, and once `over` candidates, the distances to them."""

    weight: F64
    """[p], shares of traffic where a policy goes by weights."""
    cost: F64
    """[p], what a unit of traffic costs there, in any currency."""
    bias: F64
    """[p], percent, above -100 and below 100; positive attracts."""
    lat: F64
    lon: F64
    """[p], degrees; NaN where no location is configured."""
    band_ms: float = BAND_MS
    """RTTs no farther than this from the best are as good."""
    km: F64 | None = None
    """[n, k], from each prefix to its candidates; None while no place is known."""

    def over(self, places: F64 | None, row: Ints, pop: Ints) -> "Terms":
        """With the distances of candidates `pop` [n, k]; `places` are [prefixes, 2] degrees."""
        if places is None:
            return self
        at = places[row]
        km = np.full(pop.shape, np.nan)
        for column in range(pop.shape[1]):
            there = np.maximum(pop[:, column], 0)
            km[:, column] = arc_km(at[:, 0], at[:, 1], self.lat[there], self.lon[there])
        return replace(self, km=km)


def even(pops: int) -> Terms:
    """All POPs alike, nowhere."""
    one, zero, nowhere = np.ones(pops), np.zeros(pops), np.full(pops, np.nan)
    return Terms(one, zero, zero, nowhere, nowhere)


def terms_of(config: Config, service: Service | None) -> Terms:
    """The terms that a configuration states."""
    location = [pop.location or (np.nan, np.nan) for pop in config.pop]
    at = np.array(location, np.float64).reshape(-1, 2)
    weight, bias = (service.weight, service.bias) if service else ({}, {})
    return Terms(
        np.array([weight.get(pop.id, pop.weight) for pop in config.pop], np.float64),
        np.array([pop.cost for pop in config.pop], np.float64),
        np.array([bias.get(pop.id, pop.bias) for pop in config.pop], np.float64),
        at[:, 0],
        at[:, 1],
        service.band_ms if service else BAND_MS,
    )


class Atlas:
    """Owns the places of prefixes; each is looked up once."""

    def __init__(self, path: Path) -> None:
        """Open a MaxMind DB file with coordinates.

        Raises:
            ConfigError: no such file, or not of that format.
        """
        try:
            self._reader = maxminddb.open_database(path)
        except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
            raise ConfigError(f"table.geography = {path}: {error}") from None
        self._places = np.zeros((0, 2))
        self._networks = np.zeros(0, np.int64)

    def places(self, prefixes: Prefixes) -> F64:
        """[n, 2], latitude and longitude of prefixes, which only ever grow in number."""
        self._look_up(prefixes)
        return self._places

    def networks(self, prefixes: Prefixes) -> Ints:
        """[n], the number of each prefix's autonomous system; UNKNOWN where the file has none."""
        self._look_up(prefixes)
        return self._networks

    def _look_up(self, prefixes: Prefixes) -> None:
        done, net, plen = len(self._places), prefixes.net, prefixes.plen
        if len(net) > done:
            records = [self._record(n, p) for n, p in zip(net[done:], plen[done:], strict=True)]
            places = np.array([_place(record) for record in records]).reshape(-1, 2)
            self._places = np.concatenate([self._places, places])
            networks = np.array([_network(record) for record in records], np.int64)
            self._networks = np.concatenate([self._networks, networks])

    def _record(self, net: np.uint64, plen: np.uint8) -> dict[str, object]:
        number = int(net)
        address = (
            ipaddress.IPv6Address(number << 64)
            if plen & IPV6_BIT
            else ipaddress.IPv4Address(number >> 32)
        )
        record = self._reader.get(address)
        return dict(record) if isinstance(record, dict) else {}


def _place(record: dict[str, object]) -> Sequence[float]:
    at = record.get("location")
    if not isinstance(at, dict) or "latitude" not in at or "longitude" not in at:
        return (np.nan, np.nan)
    return (float(str(at["latitude"])), float(str(at["longitude"])))


def _network(record: dict[str, object]) -> int:
    number = record.get("autonomous_system_number")
    return number if isinstance(number, int) else UNKNOWN
