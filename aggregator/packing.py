"""Several small columns as one column of sortable 64-bit keys.

Sorting packed keys is six times as fast as sorting an index (numpy's vectorised quicksort), and
the sorted keys carry all columns with them. What goes through all rows is compiled: one pass over
each column, and no array between. Each column takes only the bits that its range needs;
rows whose columns need more than 64 bits together are split into several packings.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popsteer.kernel import kernel

KEY_BITS = 64

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each column stands in a key."""

    low: dict[str, int]
    """The least value of each column, which a key leaves out."""
    zeros: dict[str, int]
    """How many low bits are zero in all values of each column (prefixes are); left out too."""
    bits: dict[str, int]

    @classmethod
    def of(cls, columns: dict[str, NDArray[Any]]) -> "Packing":
        """The narrowest packing of unsigned columns, the most significant first."""
        extents = {name: _extent(column) for name, column in columns.items()}
        low = {name: int(extent[0]) for name, extent in extents.items()}
        high = {name: int(extent[1]) for name, extent in extents.items()}
        union = {name: int(extent[2]) for name, extent in extents.items()}
        zeros = {n: (u & -u).bit_length() - 1 if u else 0 for n, u in union.items()}
        bits = {n: ((high[n] >> zeros[n]) - (low[n] >> zeros[n])).bit_length() for n in columns}
        return cls({n: low[n] >> zeros[n] for n in columns}, zeros, bits)

    @property
    def fits(self) -> bool:
        """Whether a key holds all columns."""
        return sum(self.bits.values()) <= KEY_BITS

    def keys(self, columns: dict[str, NDArray[Any]]) -> Keys:
        """The keys of all rows, ascending; the order of the rows by their columns."""
        assert self.fits
        keys = np.zeros(len(next(iter(columns.values()))), np.uint64)
        for name, column in columns.items():
            if self.bits[name]:
                at = np.uint64(self._below(name))
                _put(keys, column, at, np.uint64(self.zeros[name]), np.uint64(self.low[name]))
        keys.sort()
        return keys

    def read(self, keys: Keys, rows: NDArray[np.uint32], name: str, dtype: Any) -> NDArray[Any]:
        """A column of the keys that stand at `rows`."""
        values = np.empty(len(rows), dtype)
        if not self.bits[name]:
            values.fill(self.low[name] << self.zeros[name])
            return values
        most = np.uint64((1 << self.bits[name]) - 1)
        at, zeros = np.uint64(self._below(name)), np.uint64(self.zeros[name])
        _get(keys, rows, at, most, np.uint64(self.low[name]), zeros, values)
        return values

    def runs(self, keys: Keys, name: str) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Runs of keys that differ in nothing above `name`: the last key of each, and how many."""
        last, count = np.empty(len(keys), np.uint32), np.empty(len(keys), np.uint32)
        runs = _runs(keys, self._below(name) + self.bits[name], last, count)
        return last[:runs], count[:runs]

    def _below(self, name: str) -> int:
        names = list(self.bits)
        return sum(self.bits[n] for n in names[names.index(name) + 1 :])


def pack(
    columns: dict[str, NDArray[Any]], packing: Packing | None = None
) -> list[tuple[Packing, Keys]]:
    """Packings and sorted keys which together hold all rows in order: nearly always just one.

    `packing` is that of the columns, where it is known already. Columns that need too many bits
    are cut in two at the middle of the most significant column that varies, so the parts stay in
    order.
    """
    packing = packing or Packing.of(columns)
    if packing.fits:
        return [(packing, packing.keys(columns))]
    name = next(n for n, bits in packing.bits.items() if bits)
    middle = packing.low[name] + (1 << (packing.bits[name] - 1)) << packing.zeros[name]
    lower = columns[name] < columns[name].dtype.type(middle)
    parts = [{n: c[chosen] for n, c in columns.items()} for chosen in (lower, ~lower)]
    return [keyed for part in parts for keyed in pack(part)]


@kernel
def _extent(column: NDArray[Any]) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Least, largest, and all of them or-ed together; zeros of an empty column."""
    if len(column) == 0:
        return np.uint64(0), np.uint64(0), np.uint64(0)
    low = high = union = np.uint64(column[0])
    for i in range(len(column)):
        value = np.uint64(column[i])
        low = min(low, value)
        high = max(high, value)
        union |= value
    return low, high, union


@kernel
def _put(keys: Keys, column: NDArray[Any], at: np.uint64, zeros: np.uint64, low: np.uint64) -> None:
    for i in range(len(keys)):
        keys[i] |= ((np.uint64(column[i]) >> zeros) - low) << at


@kernel
def _get(
    keys: Keys,
    rows: NDArray[np.uint32],
    at: np.uint64,
    most: np.uint64,
    low: np.uint64,
    zeros: np.uint64,
    values: NDArray[Any],
) -> None:
    for i in range(len(rows)):
        values[i] = (((keys[rows[i]] >> at) & most) + low) << zeros


@kernel
def _runs(keys: Keys, below: int, last: NDArray[np.uint32], count: NDArray[np.uint32]) -> int:
    size, runs, first = len(keys), 0, 0
    # A shift by the whole width is undefined; nothing is above then, and all keys are one run.
    shift, whole = np.uint64(below % KEY_BITS), below == KEY_BITS
    for i in range(size):
        if i + 1 == size or (not whole and (keys[i] >> shift) != (keys[i + 1] >> shift)):
            last[runs] = i
            count[runs] = i + 1 - first
            first = i + 1
            runs += 1
    return runs
