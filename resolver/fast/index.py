"""The compiled index of a table: a few flat arrays, memory-mapped and shared by all workers.

An entry is `row << 8 | scope`: the row that answers, or NO_ROW in a gap, and the ECS scope
prefix-length of that answer, as `Table.find` gives it. The rows of an index are the different ones
of the table: those with equal POPs, shares and prefix length are one, so that they stay in the
processor's caches.

IPv4 is one array of 256-entry chunks. The first 256 chunks are indexed by the top 16 bits of the
address; an entry whose low byte is CHUNK points to the chunk that tells the next 8 bits apart, and
so on down to /32. IPv6 is a sorted array of range starts with a first level by the top 20 bits;
its gaps get their scope at query time from the two neighbours.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popsteer.names import Net

Entries = NDArray[np.uint32]
Words = NDArray[np.uint64]

NO_ROW = 0xFF_FFFF
ROWS_MAX = NO_ROW
CHUNK = 0xFF
"""Low byte of an entry that points to a chunk; scopes end at 64."""
TOP_BITS_V6 = 20
LEVEL_ONE_CHUNKS = (1 << 16) // 256


class Index(NamedTuple):
    """A table as kernels read it: `Table.find` as arrays, and the rows' columns."""

    v4: Entries
    v6_top: Entries
    """[2**20 + 1]: the last range that starts at or before the top bits' first address."""
    v6_start: Net
    v6_entry: Entries
    rows: Words
    """[different rows, 4] one half of a cache line each: 8 POP numbers of 16 bits, 8 shares of 8
    bits, and the prefix length. Kernels read it through the two views below. Where a table has
    several sets of answers, an entry names the row of the first and the others follow it."""
    pop: NDArray[np.uint16]
    """[rows, 16] of which 8 are ranked POPs by number, then NO_POP."""
    octet: NDArray[np.uint8]
    """[rows, 32] of which 8 from SHARE_AT on are shares, and PLEN_AT is the prefix length."""


SHARE_AT, PLEN_AT = 16, 24
_FILES = ("v4", "v6_top", "v6_start", "v6_entry", "rows")


def index_of(v4: Entries, v6_top: Entries, v6_start: Net, v6_entry: Entries, rows: Words) -> Index:
    """An index from its arrays."""
    return Index(v4, v6_top, v6_start, v6_entry, rows, rows.view(np.uint16), rows.view(np.uint8))


def load(folder: Path) -> Index:
    """An index mapped from its folder; all who map it share the pages.

    Raises:
        OSError: a file is missing.
        ValueError: a file is not an array.
    """
    return index_of(*(mapped(folder / f"{name}.npy") for name in _FILES))


def mapped(path: Path) -> Any:
    """Private and never written: kernels are compiled for writable arrays alone."""
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
