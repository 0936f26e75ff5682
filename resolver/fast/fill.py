"""Writing the compiled index of a table, in memory or straight into files.

One pass counts, another writes: nothing but the index itself takes memory. The form is that of
`resolver.fast.index`.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numba import uint32, uint64

from popsteer.errors import TableError
from popsteer.names import LENGTH_MASK, Net
from popsteer.table import CANDIDATES_MAX, NO_POP, Table, TableMeta
from resolver.fast.index import (
    CHUNK,
    LEVEL_ONE_CHUNKS,
    NO_ROW,
    PLEN_AT,
    ROWS_MAX,
    SHARE_AT,
    TOP_BITS_V6,
    Entries,
    Index,
    index_of,
)
from resolver.fast.kernel import inlined, kernel
from resolver.fast.words import MIX, U64, Flag, Words

_IPV4_SHIFT = np.uint64(32)
_ROWS_AT_ONCE = 1 << 16


def build(table: Table, folder: Path | None = None) -> Index:
    """The index of a table, in memory or in files of a folder; 0.2 s of CPU for a million rows.

    Raises:
        TableError: more rows than an entry can name.
        OSError: the folder cannot be written.
    """
    if len(table) >= ROWS_MAX:
        raise TableError(f"{len(table)} rows; the compiled index holds {ROWS_MAX - 1}")
    split = table.ipv4_rows
    rows, entry = _different_rows(table)
    entry <<= np.uint32(8)
    entry |= table.scope
    length = (table.plen & np.uint8(LENGTH_MASK)).astype(np.uint64)
    four = (table.net[:split] >> _IPV4_SHIFT), length[:split], entry[:split]
    chunks = int(fill_v4(*four, np.zeros(0, np.uint32)))
    v4 = _array(folder, "v4", (chunks << 8,), np.uint32)
    fill_v4(*four, v4)
    six = table.net[split:].copy(), length[split:], entry[split:]
    none = np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    ranges = int(fill_v6(*six, *none))
    v6_start = _array(folder, "v6_start", (ranges,), np.uint64)
    v6_entry = _array(folder, "v6_entry", (ranges,), np.uint32)
    v6_top = _array(folder, "v6_top", ((1 << TOP_BITS_V6) + 1,), np.uint32)
    fill_v6(*six, v6_start, v6_entry, v6_top)
    kept = _array(folder, "rows", rows.shape, np.uint64)
    kept[:] = rows
    return index_of(v4, v6_top, v6_start, v6_entry, kept)


def warm() -> None:
    """Load the machine code that `build` calls, or compile it where it is not on the disk."""
    wide = np.zeros((1, CANDIDATES_MAX), np.uint16)
    net, narrow = np.zeros(1, np.uint64), wide.astype(np.uint8)
    one = narrow[0, :1]
    build(Table(TableMeta(generation=0), ("",), net, one, wide, narrow, wide, one))


def _array(folder: Path | None, name: str, shape: tuple[int, ...], dtype: type) -> Any:
    """Zeros in memory, or in a new file."""
    if folder is None:
        return np.zeros(shape, dtype)
    path = folder / f"{name}.npy"
    array = np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)
    with path.open("r+b") as file:
        # A page of a mapped file for which the disk has no room would be the end of the process.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return np.asarray(array)


def _different_rows(table: Table) -> tuple[Words, Entries]:
    """The rows' columns side by side, equal ones once, and which of them each row is.

    Of a table with several sets of answers, rows that are equal in all sets are one, and stand
    there once for each set.
    """
    if not table.further or not len(table):
        return _rows_of_set(table)
    sets = [_rows_of_set(one) for one in table.sets]
    together = np.stack([number for _, number in sets], axis=1)
    different, number = np.unique(together, axis=0, return_inverse=True)
    if different.size >= ROWS_MAX:
        raise TableError(f"{different.size} different rows; an index holds {ROWS_MAX - 1}")
    rows = np.stack([rows[different[:, i]] for i, (rows, _) in enumerate(sets)], axis=1)
    return rows.reshape(-1, 4), (number.ravel() * len(sets)).astype(np.uint32)


def _rows_of_set(table: Table) -> tuple[Words, Entries]:
    number = np.zeros(len(table), np.uint32)
    rows = np.zeros((max(len(table), 1), 4), np.uint64)
    if not len(table):
        # One at least, so that no kernel meets an empty array.
        rows.view(np.uint16)[:, :CANDIDATES_MAX] = NO_POP
        return rows, number
    slots = np.zeros(1 << (2 * len(table)).bit_length(), np.uint32)
    count = 0
    for first in range(0, len(table), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        block = np.zeros((len(table.net[part]), 4), np.uint64)
        block.view(np.uint16)[:, :CANDIDATES_MAX] = table.pop[part]
        block.view(np.uint8)[:, SHARE_AT : SHARE_AT + CANDIDATES_MAX] = table.share[part]
        block.view(np.uint8)[:, PLEN_AT] = table.plen[part]
        count = int(number_rows(block, number[part], rows, np.uint64(count), slots))
    return rows[:count], number


@inlined
def _mixed(row: Words) -> U64:
    mixed = uint64(0)
    for i in range(4):
        mixed = (mixed ^ row[uint64(i)]) * uint64(MIX)
        mixed ^= mixed >> uint64(29)
    return mixed


@inlined
def _equal(one: Words, other: Words) -> Flag:
    return one[0] == other[0] and one[1] == other[1] and one[2] == other[2] and one[3] == other[3]


@kernel
def number_rows(block: Words, number: Entries, rows: Words, count: U64, slots: Entries) -> U64:
    """Number some rows, equal ones alike; new ones are written behind the `count` known ones.

    Args:
        block: [n, 4]
        number: [n] to be written.
        rows: Those that are known; room for all.
        count: How many are known.
        slots: A hash table of their numbers plus one, at most half full.

    Returns:
        How many are known then.
    """
    last = uint64(slots.shape[0] - 1)
    for k in range(block.shape[0]):
        row = block[uint64(k)]
        slot = _mixed(row) & last
        while slots[slot] and not _equal(rows[uint64(slots[slot]) - uint64(1)], row):
            slot = (slot + uint64(1)) & last
        if slots[slot] == 0:
            for i in range(4):
                rows[count, uint64(i)] = row[uint64(i)]
            count += uint64(1)
            slots[slot] = uint32(count)
        number[uint64(k)] = slots[slot] - uint32(1)
    return count


@inlined
def _chunk_at(v4: Entries, slot: U64, chunk: U64) -> U64:
    """The chunk that a slot points to, made the next free one if it pointed to none."""
    if uint64(v4[slot]) & uint64(0xFF) == uint64(CHUNK):
        return uint64(v4[slot]) >> uint64(8)
    v4[slot] = uint32((chunk << uint64(8)) | uint64(CHUNK))
    return chunk


@inlined
def _put_block(v4: Entries, first: U64, length: U64, value: U64, chunk: U64) -> U64:
    """Write one prefix; the next free chunk."""
    slot = first >> uint64(16)
    bits = uint64(16)
    while length > bits:
        used = _chunk_at(v4, slot, chunk)
        chunk = max(chunk, used + uint64(1))
        bits += uint64(8)
        slot = (used << uint64(8)) | ((first >> (uint64(32) - bits)) & uint64(0xFF))
    for at in range(slot, slot + (uint64(1) << (bits - length))):
        v4[at] = uint32(value)
    return chunk


@inlined
def _new_chunks(first: U64, length: U64) -> U64:
    """How many chunks a block adds: blocks tile everything, so a parent's first one makes its."""
    count = uint64(0)
    for bits in (16, 24):
        inner = (uint64(1) << uint64(32 - bits)) - uint64(1)
        count += uint64(length > uint64(bits) and first & inner == uint64(0))
    return count


@inlined
def _gap_length(first: U64, end: U64) -> U64:
    """Prefix length of the largest block that starts at `first` and ends by `end`."""
    length = uint64(32)
    while length > uint64(0):
        size = uint64(1) << (uint64(33) - length)
        if first & (size - uint64(1)) or first + size > end:
            break
        length -= uint64(1)
    return length


@kernel
def fill_v4(net: Words, length: Words, entry: Entries, v4: Entries) -> U64:
    """Write disjoint sorted prefixes and the gaps between them; counts alone if `v4` is empty.

    A gap's blocks are as large as they can be, and so are their scopes (RFC 7871 §7.2.1).

    Args:
        net: [n] first addresses as 32-bit numbers.
        length: [n]
        entry: [n]
        v4: Zeros, 256 for each chunk.

    Returns:
        Chunks.
    """
    chunk = uint64(LEVEL_ONE_CHUNKS)
    done = uint64(0)
    for r in range(net.shape[0] + 1):
        row = uint64(r)
        last = row == uint64(net.shape[0])
        until = uint64(1 << 32) if last else net[row]
        while done < until:
            bits = _gap_length(done, until)
            if v4.shape[0]:
                chunk = _put_block(v4, done, bits, uint64(NO_ROW << 8) | bits, chunk)
            else:
                chunk += _new_chunks(done, bits)
            done += uint64(1) << (uint64(32) - bits)
        if not last:
            if v4.shape[0]:
                chunk = _put_block(v4, until, length[row], uint64(entry[row]), chunk)
            else:
                chunk += _new_chunks(until, length[row])
            done += uint64(1) << (uint64(32) - length[row])
    return chunk


@kernel
def fill_v6(
    net: Net, length: Words, entry: Entries, start: Net, value: Entries, top: Entries
) -> U64:
    """Write disjoint sorted prefixes and the gaps between them as ranges that cover everything.

    Returns:
        Ranges; nothing is written where `start` is empty.
    """
    write = start.shape[0] != 0
    at, done, full = uint64(0), uint64(0), False
    for r in range(net.shape[0]):
        row = uint64(r)
        if net[row] != done:
            if write:
                start[at], value[at] = done, uint32(NO_ROW << 8)
            at += uint64(1)
        if write:
            start[at], value[at] = net[row], entry[row]
        at += uint64(1)
        size = uint64(1) << (uint64(64) - length[row]) if length[row] else uint64(0)
        done = net[row] + size
        full = done == uint64(0)
    if not full:
        # Scope 0 here: the look-up knows both neighbours of a gap.
        if write:
            start[at], value[at] = done, uint32(NO_ROW << 8)
        at += uint64(1)
    if write:
        _fill_top(start, top)
    return at


@inlined
def _fill_top(start: Net, top: Entries) -> None:
    at, last = uint64(0), uint64(start.shape[0] - 1)
    for t in range(uint64(1 << TOP_BITS_V6)):
        first = uint64(t) << uint64(64 - TOP_BITS_V6)
        while at < last and start[at + uint64(1)] <= first:
            at += uint64(1)
        top[uint64(t)] = uint32(at)
    top[uint64(1 << TOP_BITS_V6)] = uint32(last)
