"""Targets: what the agents measure, and the demand expected there.

A CSV file with the header `prefix,address,weight`: the prefix that an answer is keyed by, an
address in it that answers probes, and the expected demand in bits/s (0 when unknown).
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popsteer.errors import ConfigError
from popsteer.names import Net, Plen, Prefix, prefix_arrays

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
    prefixes: list[Prefix] = []
    addresses: list[str] = []
    weights: list[float] = []
    try:
        with path.open(newline="") as file:
            reader = csv.reader(file)
            if tuple(next(reader, ())) != HEADER:
                raise ConfigError(f"{path}:1: expected the header {','.join(HEADER)}")
            for row in reader:
                prefix, address, weight = row
                prefixes.append(Prefix.parse(prefix))
                addresses.append(address)
                weights.append(float(weight))
                if not 0 <= weights[-1] < float("inf"):
                    raise ValueError(f"weight {weight} is not a demand in bits/s")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(
            f"{path}:{len(weights) + 2}: expected {','.join(HEADER)}: {error}"
        ) from None
    except ConfigError as error:
        if str(error).startswith(str(path)):
            raise
        raise ConfigError(f"{path}:{len(prefixes) + 2}: {error}") from None
    net, plen = prefix_arrays(prefixes)
    return Targets(net, plen, tuple(addresses), np.array(weights, np.float64))


def save(path: Path, targets: Targets) -> None:
    """Write the file."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for n, p, a, w in zip(
            targets.net, targets.plen, targets.address, targets.weight_bps, strict=True
        ):
            writer.writerow([str(Prefix(int(n), int(p))), a, f"{w:.6g}"])
