"""Longest-prefix match over the compiled index. Twin: `popsteer.table.Table.find`."""

from typing import Any

from numba import uint64

from resolver.fast.index import CHUNK, NO_ROW, TOP_BITS_V6, Index
from resolver.fast.kernel import inlined, kernel
from resolver.fast.words import U64

_TOP_SHIFT = 64 - TOP_BITS_V6


@inlined
def leading_zeros(x: U64) -> U64:
    """Leading zero bits of 64."""
    if x == uint64(0):
        return uint64(64)
    count = uint64(0)
    for shift in (32, 16, 8, 4, 2, 1):
        if x >> uint64(64 - shift) == uint64(0):
            count += uint64(shift)
            x <<= uint64(shift)
    return count


@inlined
def entry_v4_first(index: Index, net: U64) -> U64:
    """The first memory level: an entry, or a pointer to a chunk (low byte CHUNK)."""
    return uint64(index.v4[net >> uint64(48)])


@inlined
def entry_v4_rest(index: Index, net: U64, entry: U64) -> U64:
    """The remaining levels."""
    if entry & uint64(0xFF) == uint64(CHUNK):
        byte = (net >> uint64(40)) & uint64(0xFF)
        entry = uint64(index.v4[(entry & uint64(0xFFFFFF00)) | byte])
        if entry & uint64(0xFF) == uint64(CHUNK):
            byte = (net >> uint64(32)) & uint64(0xFF)
            entry = uint64(index.v4[(entry & uint64(0xFFFFFF00)) | byte])
    return entry


@inlined
def entry_v6(index: Index, net: U64) -> U64:
    """Binary search within one /20; a gap's scope comes from its neighbours."""
    top = net >> uint64(_TOP_SHIFT)
    low = uint64(index.v6_top[top])
    high = uint64(index.v6_top[top + uint64(1)]) + uint64(1)
    start = index.v6_start
    while high - low > uint64(1):
        middle = (low + high) >> uint64(1)
        if start[middle] <= net:
            low = middle
        else:
            high = middle
    entry = uint64(index.v6_entry[low])
    if entry >> uint64(8) == uint64(NO_ROW):
        entry |= _gap_scope(start, low, net)
    return entry


@inlined
def _gap_scope(start: Any, at: Any, net: Any) -> Any:
    """RFC 7871 §7.2.1: the widest block around the address that touches no row."""
    scope = uint64(0)
    if at > uint64(0):
        scope = leading_zeros(net ^ (start[at] - uint64(1))) + uint64(1)
    after = at + uint64(1)
    if after < uint64(start.shape[0]):
        scope = max(scope, leading_zeros(net ^ start[after]) + uint64(1))
    return scope


@kernel
def find(index: Index, net: U64, ipv6: bool) -> U64:
    """One lookup, `row << 8 | scope`; the serving loop takes the levels apart."""
    if ipv6:
        return entry_v6(index, net)
    return entry_v4_rest(index, net, entry_v4_first(index, net))
