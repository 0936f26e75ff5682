"""SipHash-2-4 over a DNS cookie's input (RFC 9018 §4.4; Aumasson and Bernstein 2012).

The input is the client cookie, 8 bytes of version, reserved and timestamp, and the client address:
20 bytes for IPv4, 32 for IPv6. All words are little-endian as SipHash reads them.
"""

from typing import Any

from numba import uint64

from resolver.fast.kernel import inlined
from resolver.fast.words import U64

_LAST_V4 = 20 << 56
_LAST_V6 = 32 << 56
"""The last word carries the length of the input in its top byte."""


@inlined
def _rotated(x: U64, bits: int) -> U64:
    return (x << uint64(bits)) | (x >> uint64(64 - bits))


@inlined
def _sip_round(v0: U64, v1: U64, v2: U64, v3: U64) -> tuple[U64, U64, U64, U64]:
    v0 += v1
    v2 += v3
    v1 = _rotated(v1, 13) ^ v0
    v3 = _rotated(v3, 16) ^ v2
    v0 = _rotated(v0, 32)
    v2 += v1
    v0 += v3
    v1 = _rotated(v1, 17) ^ v2
    v3 = _rotated(v3, 21) ^ v0
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


@inlined
def _absorb(v0: U64, v1: U64, v2: U64, v3: U64, word: U64) -> tuple[U64, U64, U64, U64]:
    v3 ^= word
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0 ^= word
    return v0, v1, v2, v3


@inlined
def cookie_hash(key: Any, client: U64, stamp: U64, low: U64, high: U64, ipv6: bool) -> U64:
    """The 8 bytes of hash as a little-endian word.

    Args:
        key: [2] words of the secret.
        client: the client cookie.
        stamp: version, three reserved bytes, timestamp.
        low: the IPv4 address in the low 32 bits, or the first half of an IPv6 address.
        high: the second half; unused for IPv4.
        ipv6: the family.
    """
    v0 = uint64(0x736F6D6570736575) ^ key[0]
    v1 = uint64(0x646F72616E646F6D) ^ key[1]
    v2 = uint64(0x6C7967656E657261) ^ key[0]
    v3 = uint64(0x7465646279746573) ^ key[1]
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, client)
    v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, stamp)
    if ipv6:
        v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, low)
        v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, high)
        v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, uint64(_LAST_V6))
    else:
        v0, v1, v2, v3 = _absorb(v0, v1, v2, v3, uint64(_LAST_V4) | low)
    v2 ^= uint64(0xFF)
    for _ in range(4):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3
