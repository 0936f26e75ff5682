"""Types of kernel arguments, and reading and writing numbers in packets.

All index arithmetic is uint64: numba turns a mix of signed and unsigned into floats, and a signed
index costs a test for negative numbers at every access.
"""

from typing import Any, TypeAlias

import numpy as np
from numba import uint8, uint64
from numpy.typing import NDArray

from resolver.fast.kernel import inlined

U64: TypeAlias = Any
"""np.uint64 in kernels. Any to the type checker, because numba's conversions have no types."""
Flag: TypeAlias = Any
"""A truth value in kernels, likewise."""
MIX = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: a product with it spreads a key over its top bits (Knuth, The Art
of Computer Programming, vol. 3, §6.4)."""

Bytes: TypeAlias = NDArray[np.uint8]
Words: TypeAlias = NDArray[np.uint64]


@inlined
def u16_at(octets: Bytes, at: U64) -> U64:
    """Two octets in network order."""
    return uint64(octets[at]) << uint64(8) | uint64(octets[at + uint64(1)])


@inlined
def u64_at(octets: Bytes, at: U64, count: U64) -> U64:
    """The first `count` (at most 8) octets in network order, as the top of a word.

    All eight are read, so they have to be there.
    """
    word = uint64(0)
    for i in range(uint64(8)):
        word = word << uint64(8) | uint64(octets[at + uint64(i)])
    half = count << uint64(2)  # a shift by 64 is undefined, so it is taken in two steps
    return word & ~((uint64(0xFFFFFFFFFFFFFFFF) >> half) >> half)


@inlined
def word_le_at(octets: Bytes, at: U64) -> U64:
    """Eight octets, little-endian."""
    word = uint64(0)
    for i in range(uint64(8)):
        word |= uint64(octets[at + uint64(i)]) << (uint64(i) << uint64(3))
    return word


@inlined
def put_word_le(octets: Bytes, at: U64, word: U64) -> None:
    """Eight octets, little-endian."""
    for i in range(uint64(8)):
        octets[at + uint64(i)] = uint8(word >> (uint64(i) << uint64(3)))


@inlined
def copy_octets(to: Bytes, at: U64, octets: Bytes, start: U64, count: U64) -> None:
    """Copy `count` octets by words.

    Up to 7 more are read and written; what is written next overwrites them.
    """
    for k in range((count + uint64(7)) >> uint64(3)):
        offset = uint64(k) << uint64(3)
        put_word_le(to, at + offset, word_le_at(octets, start + offset))


@inlined
def put_u16(octets: Bytes, at: U64, value: U64) -> None:
    """Two octets in network order."""
    octets[at] = uint8(value >> uint64(8))
    octets[at + uint64(1)] = uint8(value)
