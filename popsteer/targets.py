"""Targets: what the agents measure, and the demand expected there.

A CSV file with the header `prefix,address,weight`: the prefix that an answer is keyed by, an
address in it that answers probes, and the expected demand in bits/s (0 when unknown).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popsteer import csv_file
from popsteer.errors import ConfigError
from popsteer.names import Net, Plen, Prefix, prefix_arrays, prefixes_of

HEADER = ("prefix", "address", "weight")


@dataclass(frozen=True, slots=True)
class Targets:
    """Rows of the file, in its order."""

    net: Net
    plen: Plen
    address: tuple[str, ...]
    weight_bps: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.address)


def load(path: Path) -> Targets:
    """The targets in a file.

    Raises:
        ConfigError: names the file, the line and what was expected.
    """
    rows = csv_file.rows(path, HEADER, _row)
    net, plen = prefix_arrays(prefix for prefix, _, _ in rows)
    weights = np.array([weight for _, _, weight in rows], np.float64)
    return Targets(net, plen, tuple(address for _, address, _ in rows), weights)


def _row(row: list[str]) -> tuple[Prefix, str, float]:
    prefix, address, weight = row
    Prefix.of_address(address)
    try:
        weight_bps = float(weight)
    except ValueError:
        weight_bps = -1.0
    if not 0 <= weight_bps < float("inf"):
        raise ConfigError(f"weight {weight!r}: write a demand in bits/s, 0 when unknown")
    return Prefix.parse(prefix), address, weight_bps


def save(path: Path, targets: Targets) -> None:
    """Write the file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for prefix, address, weight_bps in zip(
            prefixes_of(targets.net, targets.plen),
            targets.address,
            targets.weight_bps.tolist(),
            strict=True,
        ):
            writer.writerow([str(prefix), address, f"{weight_bps:.6g}"])
