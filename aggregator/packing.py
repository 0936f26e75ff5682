"""Several small columns as one column of sortable 64-bit keys.

Sorting packed keys is six times as fast as sorting an index (numpy's vectorised quicksort), and
the sorted keys carry all columns with them. Each column takes only the bits that its range needs;
rows whose columns need more than 64 bits together are split into several packings.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        filled = len(next(iter(columns.values()))) > 0
        low = {n: int(c.min()) if filled else 0 for n, c in columns.items()}
        high = {n: int(c.max()) if filled else 0 for n, c in columns.items()}
        union = {n: int(np.bitwise_or.reduce(c)) for n, c in columns.items()}
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
            if not self.bits[name]:
                continue
            keys <<= np.uint64(self.bits[name])
            if self.zeros[name] or self.low[name]:
                narrowed = column >> column.dtype.type(self.zeros[name])
                narrowed -= narrowed.dtype.type(self.low[name])
                keys |= narrowed
            else:
                keys |= column
        keys.sort()
        return keys

    def read(self, keys: Keys, name: str) -> Keys:
        """A column of these keys."""
        if not self.bits[name]:
            return np.full(len(keys), self.low[name] << self.zeros[name], np.uint64)
        # In place: fresh memory costs more than the arithmetic.
        values = _shifted(keys, self._below(name))
        values &= np.uint64((1 << self.bits[name]) - 1)
        if self.low[name]:
            values += np.uint64(self.low[name])
        if self.zeros[name]:
            values <<= np.uint64(self.zeros[name])
        return values

    def above(self, keys: Keys, name: str) -> Keys:
        """All columns more significant than `name`, as one number per key."""
        return _shifted(keys, self._below(name) + self.bits[name])

    def _below(self, name: str) -> int:
        names = list(self.bits)
        return sum(self.bits[n] for n in names[names.index(name) + 1 :])


def pack(columns: dict[str, NDArray[Any]]) -> list[tuple[Packing, Keys]]:
    """Packings and sorted keys which together hold all rows in order: nearly always just one.

    Columns that need too many bits are cut in two at the middle of the most significant column
    that varies, so the parts stay in order.
    """
    packing = Packing.of(columns)
    if packing.fits:
        return [(packing, packing.keys(columns))]
    name = next(n for n, bits in packing.bits.items() if bits)
    middle = packing.low[name] + (1 << (packing.bits[name] - 1)) << packing.zeros[name]
    lower = columns[name] < columns[name].dtype.type(middle)
    return [
        part
        for chosen in (lower, ~lower)
        for part in pack({n: c[chosen] for n, c in columns.items()})
    ]


def _shifted(keys: Keys, bits: int) -> Keys:
    # A shift by the whole width is undefined.
    return keys >> np.uint64(bits) if bits < KEY_BITS else np.zeros_like(keys)
