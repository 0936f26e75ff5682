"""Sets of addresses as sorted disjoint ranges: the arithmetic under tables.

One family at a time; numbers are `net` columns (uint64, see `popsteer.names`). Ranges are
inclusive at both ends, so that the last address of the family needs no 65th bit. Everything is
vectorised: a million prefixes take about a second.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popsteer.names import IPV6_BIT, LENGTH_MASK, U64_MAX, Net, Plen

GAP = -1
"""Owner of a range that no prefix covers."""

Rows = NDArray[np.int64]
_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Sorted disjoint ranges [first, last] and the row that owns each."""

    first: Net
    last: Net
    owner: Rows


def last_of(net: Net, plen: Plen) -> Net:
    """The last number of every block."""
    length = (plen & np.uint8(LENGTH_MASK)).astype(np.uint64)
    # Shifting by 64 is undefined in C, so /0 is taken in two steps.
    half = length >> _ONE
    return net | ((np.uint64(U64_MAX) >> half) >> (length - half))


def flatten(net: Net, plen: Plen) -> Ranges:
    """The longest-prefix match as ranges without gaps between owners of one family.

    Where prefixes nest the longest wins; where two are equal the later row wins. Ranges that no
    prefix covers are left out.
    """
    if not len(net):
        empty = np.zeros(0, np.uint64)
        return Ranges(empty, empty, np.zeros(0, np.int64))
    last = last_of(net, plen)
    order = np.argsort(net, kind="stable")
    if (net[order[1:]] > last[order[:-1]]).all():
        return Ranges(net[order], last[order], order)
    return _flatten_nested(net, plen, last)


def _flatten_nested(net: Net, plen: Plen, last: Net) -> Ranges:
    after = last[last != U64_MAX] + _ONE
    points = np.sort(np.concatenate([net, after]))
    points = points[np.append(True, points[1:] != points[:-1])]
    owner = np.full(len(points), GAP, np.int64)
    length = plen & np.uint8(LENGTH_MASK)
    for one_length in np.unique(length):
        rows = np.flatnonzero(length == one_length)
        begin = np.searchsorted(points, net[rows])
        end = np.searchsorted(points, last[rows], side="right")
        count = end - begin
        into = np.repeat(begin - (np.cumsum(count) - count), count) + np.arange(count.sum())
        owner[into] = np.repeat(rows, count)
    ends = np.append(points[1:] - _ONE, np.uint64(U64_MAX))
    covered = owner != GAP
    return Ranges(points[covered], ends[covered], owner[covered])


def merge(ranges: Ranges, answer: NDArray[Any]) -> Ranges:
    """Join touching ranges whose owners have an equal `answer`; the first owner stays.

    `answer` is [rows] or [rows, width].
    """
    if not len(ranges.first):
        return ranges
    touching = ranges.first[1:] - _ONE == ranges.last[:-1]
    pair = np.flatnonzero(touching)
    equal = answer[ranges.owner[pair + 1]] == answer[ranges.owner[pair]]
    starts = np.ones(len(ranges.first), bool)
    starts[pair + 1] = ~(equal if equal.ndim == 1 else equal.all(axis=1))
    index = np.flatnonzero(starts)
    last = ranges.last[np.append(index[1:] - 1, len(starts) - 1)]
    return Ranges(ranges.first[index], last, ranges.owner[index])


def blocks(ranges: Ranges, ipv6: bool) -> tuple[Net, Plen, Rows]:
    """The fewest prefixes that make up the ranges: net, plen and owner, sorted by address."""
    family = np.uint8(IPV6_BIT if ipv6 else 0)
    going = np.arange(len(ranges.first))
    first = ranges.first.copy()
    nets, plens, owners = [first[:0]], [np.zeros(0, np.uint8)], [ranges.owner[:0]]
    while len(going):
        net, last = first[going], ranges.last[going]
        plen = _widest_length(net, last) | family
        nets.append(net)
        plens.append(plen)
        owners.append(ranges.owner[going])
        end = last_of(net, plen)
        more = end != last
        going = going[more]
        first[going] = end[more] + _ONE
    net = np.concatenate(nets)
    order = np.argsort(net, kind="stable")
    return net[order], np.concatenate(plens)[order], np.concatenate(owners)[order]


def _widest_length(first: Net, last: Net) -> Plen:
    """Length of the largest block that starts at `first` and does not pass `last`."""
    # Trailing zeros of `first`; 0 - 1 wraps to all ones, which gives the wanted 64 for zero.
    aligned = np.bitwise_count((first & (~first + _ONE)) - _ONE)
    span = last - first
    smeared = span.copy()
    for shift in (1, 2, 4, 8, 16, 32):
        smeared |= smeared >> np.uint64(shift)
    bits = np.bitwise_count(smeared)
    fits = np.where(smeared == span, bits, bits - np.uint8(1))
    length: Plen = (np.uint8(64) - np.minimum(aligned, fits)).astype(np.uint8)
    return length


def common_prefix_length(a: int, b: int) -> int:
    """How many leading bits of 64 two numbers share."""
    return 64 - (a ^ b).bit_length()
