"""The compiled index of a table: a few flat arrays, memory-mapped and shared by all workers.

An entry is `row << 8 | scope`: the row of the table that answers, or NO_ROW in a gap, and the ECS
scope prefix-length of that answer, both exactly as `Table.find` gives them.

IPv4 is one array of 256-entry chunks. The first 256 chunks are indexed by the top 16 bits of the
address; an entry whose low byte is CHUNK points to the chunk that tells the next 8 bits apart, and
so on down to /32. IPv6 is a sorted array of range starts with a first level by the top 20 bits;
its gaps get their scope at query time from the two neighbours.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from popsteer.errors import TableError
from popsteer.intervals import Ranges, blocks, last_of
from popsteer.names import LENGTH_MASK, U64_MAX, Net
from popsteer.table import CANDIDATES_MAX, NO_POP, Table

Entries = NDArray[np.uint32]
Words = NDArray[np.uint64]

NO_ROW = 0xFF_FFFF
ROWS_MAX = NO_ROW
CHUNK = 0xFF
"""Low byte of an entry that points to a chunk; scopes end at 64."""
TOP_BITS_V6 = 20
_IPV4_SHIFT = np.uint64(32)
_LEVELS_V4 = (16, 24, 32)
_LEVEL_ONE_CHUNKS = (1 << 16) // 256
_ONE = np.uint64(1)


class Index(NamedTuple):
    """A table as kernels read it: `Table.find` as arrays, and the rows' columns."""

    v4: Entries
    v6_top: Entries
    """[2**20 + 1]: the last range that starts at or before the top bits' first address."""
    v6_start: Net
    v6_entry: Entries
    rows: Words
    """[rows, 4] one half of a cache line for each row: 8 POP numbers of 16 bits, 8 shares of 8
    bits, and the prefix length. Kernels read it through the two views below."""
    pop: NDArray[np.uint16]
    """[rows, 16] of which 8 are ranked POPs by number, then NO_POP."""
    octet: NDArray[np.uint8]
    """[rows, 32] of which 8 from SHARE_AT on are shares, and PLEN_AT is the prefix length."""


SHARE_AT, PLEN_AT = 16, 24
_FILES = ("v4", "v6_top", "v6_start", "v6_entry", "rows")


def build(table: Table) -> Index:
    """The index of a table; about half a second of CPU time for a million prefixes.

    Raises:
        TableError: more rows than an entry can name.
    """
    if len(table) >= ROWS_MAX:
        raise TableError(f"{len(table)} rows; the compiled index holds {ROWS_MAX - 1}")
    split = table.ipv4_rows
    rows = np.arange(len(table), dtype=np.uint32)
    entry = rows << np.uint32(8) | table.scope.astype(np.uint32)
    v4 = _chunks(table.net[:split], table.plen[:split], entry[:split])
    start, v6_entry = _ranges(table.net[split:], table.plen[split:], entry[split:])
    top = np.arange(1 << TOP_BITS_V6, dtype=np.uint64) << np.uint64(64 - TOP_BITS_V6)
    v6_top = np.searchsorted(start, top, side="right").astype(np.uint32) - np.uint32(1)
    v6_top = np.append(v6_top, np.uint32(len(start) - 1))
    return _index(v4, v6_top, start, v6_entry, _rows(table))


def _index(v4: Entries, v6_top: Entries, v6_start: Net, v6_entry: Entries, rows: Words) -> Index:
    return Index(v4, v6_top, v6_start, v6_entry, rows, rows.view(np.uint16), rows.view(np.uint8))


def _rows(table: Table) -> Words:
    """The rows' columns side by side; at least one, so that no kernel meets an empty array."""
    rows = np.zeros((max(len(table), 1), 4), np.uint64)
    if not len(table):
        rows.view(np.uint16)[:, :CANDIDATES_MAX] = NO_POP
        return rows
    rows.view(np.uint16)[:, :CANDIDATES_MAX] = table.pop
    rows.view(np.uint8)[:, SHARE_AT : SHARE_AT + CANDIDATES_MAX] = table.share
    rows.view(np.uint8)[:, PLEN_AT] = table.plen
    return rows


def _chunks(net: Net, plen: NDArray[np.uint8], entry: Entries) -> Entries:
    """The IPv4 array from disjoint sorted prefixes."""
    gap_net, gap_plen, _ = blocks(_gaps(net, last_of(net, plen)), ipv6=False)
    net = np.concatenate([net, gap_net])
    order = np.argsort(net, kind="stable")
    first = (net[order] >> _IPV4_SHIFT).astype(np.uint32)
    length = np.concatenate([plen, gap_plen])[order].astype(np.int64)
    entry = np.concatenate([entry, _gap_entry(gap_plen)])[order]
    levels: list[Entries] = []
    chunk = _LEVEL_ONE_CHUNKS
    for bits in _LEVELS_V4:
        deeper = length > bits
        shift = np.uint32(32 - bits)
        parent = first[deeper] >> shift
        heads = parent[np.append(True, parent[1:] != parent[:-1])] if len(parent) else parent
        numbers = np.arange(chunk, chunk + len(heads), dtype=np.uint32)
        start = np.concatenate([first[~deeper], heads << shift])
        value = np.concatenate([entry[~deeper], numbers << np.uint32(8) | np.uint32(CHUNK)])
        count = np.concatenate([1 << (bits - length[~deeper]), np.ones(len(heads), np.int64)])
        order = np.argsort(start, kind="stable")
        levels.append(np.repeat(value[order], count[order]))
        first, length, entry = first[deeper], length[deeper], entry[deeper]
        chunk += len(heads)
    return np.concatenate(levels)


def _ranges(net: Net, plen: NDArray[np.uint8], entry: Entries) -> tuple[Net, Entries]:
    """The IPv6 ranges from disjoint sorted prefixes; they cover everything."""
    gaps = _gaps(net, last_of(net, plen))
    start = np.concatenate([net, gaps.first])
    # Scope 0 here: the kernel looks at both neighbours of a gap.
    value = np.concatenate([entry, np.full(len(gaps.first), NO_ROW << 8, np.uint32)])
    order = np.argsort(start, kind="stable")
    return start[order], value[order]


def _gaps(first: Net, last: Net) -> Ranges:
    """What sorted disjoint ranges leave uncovered."""
    if not len(first):
        begin, end = np.zeros(1, np.uint64), np.full(1, U64_MAX, np.uint64)
    else:
        begin = np.append(last[last != U64_MAX] + _ONE, np.zeros(int(first[0] != 0), np.uint64))
        begin.sort()
        end = np.append(
            first[first != 0] - _ONE, np.full(int(last[-1] != U64_MAX), U64_MAX, np.uint64)
        )
    real = begin <= end
    return Ranges(begin[real], end[real], np.zeros(int(real.sum()), np.int64))


def _gap_entry(plen: NDArray[np.uint8]) -> Entries:
    scope = (plen & np.uint8(LENGTH_MASK)).astype(np.uint32)
    return np.uint32(NO_ROW << 8) | scope


def save(index: Index, folder: Path) -> None:
    """Write an index whole: the folder appears under its name only when it is complete."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in _FILES:
        np.save(partial / f"{name}.npy", getattr(index, name))
    try:
        partial.rename(folder)
    except OSError:  # another worker was first, with the same bytes
        shutil.rmtree(partial)


def load(folder: Path) -> Index:
    """An index mapped from its folder; workers share the pages.

    Raises:
        TableError: the folder does not hold a whole index.
    """
    try:
        return _index(*(_mapped(folder / f"{name}.npy") for name in _FILES))
    except (OSError, ValueError) as error:
        raise TableError(f"{folder}: not a compiled index: {error}; delete it") from None


def _mapped(path: Path) -> Any:
    """Private and never written: kernels are compiled for writable arrays alone."""
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


def shared(table: Table, folder: Path) -> Index:
    """The index of a table, from the folder where all workers keep theirs.

    Whoever is first writes it; where nothing can be written it stays in this process's memory.
    """
    name = f"{table.meta.generation}-{_digest(table)}"
    try:
        if not (folder / name).exists():
            save(build(table), folder / name)
            _sweep(folder, keep=name)
        return load(folder / name)
    except (OSError, TableError):
        return build(table)


def _digest(table: Table) -> str:
    sha = hashlib.sha256()
    for column in (table.net, table.plen, table.pop, table.share, table.scope):
        sha.update(np.ascontiguousarray(column).data)
    return sha.hexdigest()[:16]


def _sweep(folder: Path, keep: str) -> None:
    """Remove indexes of other tables; who still maps one keeps its pages until it lets go."""
    for other in folder.iterdir():
        if other.name != keep and not other.name.endswith(".partial"):
            shutil.rmtree(other, ignore_errors=True)
