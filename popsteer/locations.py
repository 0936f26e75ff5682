"""Locations: where prefixes are known to be, by whoever placed or visited them.

A CSV file with the header `prefix,latitude,longitude`, in degrees. It is for addresses whose place
is beyond doubt (anchors, own vantage points): what is measured there faster than light could go is
refused (`aggregator.light`). A geolocation database is no such source, because where it errs it
would refuse true measurements; neither are anycast addresses, which are in many places.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popsteer import csv_file
from popsteer.errors import ConfigError
from popsteer.names import Net, Plen, Prefix, prefix_arrays, prefixes_of

PLACE_ERROR_KM = 200.0
"""How far a prefix may be from its location: listed is a city, mostly, and an address may be in
the next town."""
HEADER = ("prefix", "latitude", "longitude")


@dataclass(frozen=True, slots=True)
class Locations:
    """Rows of the file, in its order."""

    net: Net
    plen: Plen
    at: NDArray[np.float64]
    """[n, 2], latitude and longitude in degrees."""


def load(path: Path) -> Locations:
    """The locations in a file.

    Raises:
        ConfigError: names the file, the line and what was expected.
    """
    seen: dict[Prefix, tuple[float, float]] = {}

    def take(row: list[str]) -> None:
        prefix, at = _row(row)
        if prefix in seen:
            raise ConfigError(f"{prefix} a second time: a prefix is in one place")
        seen[prefix] = at

    csv_file.rows(path, HEADER, take)
    return Locations(*prefix_arrays(seen), np.array(list(seen.values()), np.float64).reshape(-1, 2))


def _row(row: list[str]) -> tuple[Prefix, tuple[float, float]]:
    prefix, *degrees = row
    try:
        latitude, longitude = map(float, degrees)
    except ValueError:
        latitude, longitude = np.nan, np.nan
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ConfigError(f"latitude, longitude {','.join(degrees)!r}: write degrees")
    return Prefix.parse(prefix), (latitude, longitude)


def save(path: Path, locations: Locations) -> None:
    """Write the file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for prefix, at in zip(
            prefixes_of(locations.net, locations.plen), locations.at.tolist(), strict=True
        ):
            writer.writerow([str(prefix), *(f"{degrees:.4f}" for degrees in at)])
