"""Demand counted while answering: a hash table of (client prefix, POP), read by Python at leisure.

The rule is that of `resolver.demand`: prefixes no finer than /24 and /48 unless a row of the table
is, and coarser ones when the table is full, so that memory is bounded and volume is not lost.
A loop writes one table while the other is read: no locks, no lost count.
"""

import ctypes
import mmap
from typing import NamedTuple

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from popsteer.names import IPV6_BIT
from resolver.demand import COARSE_LENGTHS, ENTRIES_MAX, LENGTHS
from resolver.fast.kernel import inlined
from resolver.fast.words import MIX, U64, Words

SLOTS = 4 * ENTRIES_MAX
"""At most half full: fine and coarse entries together are 2 * ENTRIES_MAX."""
_ENTRY_BYTES = 32
_USED, _DROPPED = 0, 1
_NONE = np.zeros(0, np.int64)
_V4_FINE, _V6_FINE = LENGTHS[False], LENGTHS[True]
_V4_COARSE, _V6_COARSE = COARSE_LENGTHS[False], COARSE_LENGTHS[True]


class Counts(NamedTuple):
    """One table of counts."""

    entry: Words
    """[SLOTS, 4] half a cache line each: net, tag, queries, bits. A tag is plen << 16 | POP
    number, plus the top bit so that none is 0; 0 is an empty slot."""
    used: Words
    """[2] entries, and answers that found no room."""


_NET, _TAG, _QUERIES, _BITS = range(4)


@inlined
def _cut(net: U64, length: U64) -> U64:
    if length == uint64(0):
        return uint64(0)
    return net & ~((uint64(0xFFFFFFFFFFFFFFFF) >> (length - uint64(1))) >> uint64(1))


@inlined
def _slot(counts: Counts, net: U64, tag: U64) -> U64:
    """Where the entry is, or the empty slot where it belongs."""
    mixed = (net ^ (tag * uint64(MIX))) * uint64(MIX)
    last = uint64(counts.entry.shape[0] - 1)
    slot = (mixed ^ (mixed >> uint64(32))) & last
    while counts.entry[slot, _TAG]:
        if counts.entry[slot, _TAG] == tag and counts.entry[slot, _NET] == net:
            break
        slot = (slot + uint64(1)) & last
    return slot


@inlined
def _tag(length: U64, ipv6: U64, pop: U64) -> U64:
    plen = length | (uint64(IPV6_BIT) if ipv6 else uint64(0))
    return uint64(1 << 63) | (plen << uint64(16)) | pop


@inlined
def count_answer(
    counts: Counts, net: U64, source: U64, row_length: U64, ipv6: U64, pop: U64, bits: U64
) -> None:
    """Count one answer to a client prefix of `source` bits that a row of `row_length` covers."""
    fine = uint64(_V6_FINE) if ipv6 else uint64(_V4_FINE)
    length = min(source, max(fine, row_length))
    slot = _slot(counts, _cut(net, length), _tag(length, ipv6, pop))
    if counts.entry[slot, _TAG] == uint64(0):
        limit = uint64(ENTRIES_MAX)
        if counts.used[_USED] >= limit:
            coarse = uint64(_V6_COARSE) if ipv6 else uint64(_V4_COARSE)
            length = min(source, coarse)
            slot = _slot(counts, _cut(net, length), _tag(length, ipv6, pop))
            limit = uint64(2 * ENTRIES_MAX)
        if counts.entry[slot, _TAG] == uint64(0):
            if counts.used[_USED] >= limit:
                counts.used[_DROPPED] += uint64(1)
                return
            counts.entry[slot, _NET] = _cut(net, length)
            counts.entry[slot, _TAG] = _tag(length, ipv6, pop)
            counts.used[_USED] += uint64(1)
    counts.entry[slot, _QUERIES] += uint64(1)
    counts.entry[slot, _BITS] += bits


def counts() -> Counts:
    """An empty table; pages that are not written take no memory."""
    pages = mmap.mmap(-1, SLOTS * _ENTRY_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return Counts(np.frombuffer(pages, np.uint64).reshape(SLOTS, -1), np.zeros(2, np.uint64))


def _empty(counts: Counts) -> None:
    """Zeros again. The pages go back: with two tables one of them always waits."""
    entry = counts.entry
    madvise = ctypes.CDLL(None).madvise
    if madvise(ctypes.c_void_p(entry.ctypes.data), entry.nbytes, mmap.MADV_DONTNEED):
        entry[:] = 0
    counts.used[:] = 0


class Counted(NamedTuple):
    """What a table held, as columns."""

    net: Words
    plen: NDArray[np.uint8]
    pop: NDArray[np.uint16]
    queries: NDArray[np.uint32]
    bits: NDArray[np.float64]
    dropped: int


def take(counts: Counts) -> Counted:
    """The entries; the table is empty afterwards. No loop may be writing it."""
    at = np.flatnonzero(counts.entry[:, _TAG]) if counts.used[_USED] else _NONE
    entry = counts.entry[at]
    tag = entry[:, _TAG]
    taken = Counted(
        entry[:, _NET],
        (tag >> np.uint64(16)).astype(np.uint8),
        tag.astype(np.uint16),
        entry[:, _QUERIES].astype(np.uint32),
        entry[:, _BITS].astype(np.float64),
        int(counts.used[_DROPPED]),
    )
    if len(at):
        _empty(counts)
    return taken
