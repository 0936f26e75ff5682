"""Who asks: the client's address as words, its prefix for the look-up, its DNS cookie.

Cookies are RFC 7873 in the form of RFC 9018; the specification is `resolver.cookies`.
"""

from typing import NamedTuple

import numpy as np
from numba import uint64

from resolver import cookies
from resolver.fast.batch import (
    COOKIE_AT,
    COOKIE_HASH,
    COOKIE_LENGTH,
    COOKIE_STAMP,
    ECS_AT,
    ECS_SOURCE,
    EDNS,
    EDNS_COOKIE,
    EDNS_ECS,
    IPV6,
    NET,
    TRUSTED,
    Batch,
)
from resolver.fast.kernel import inlined
from resolver.fast.libc import AF_INET6
from resolver.fast.siphash import cookie_hash
from resolver.fast.words import U64, Bytes, Flag, Words, u16_at, u64_at, word_le_at

_V4_AT, _V6_AT, _MAPPED_AT = 4, 8, 20
_VERSION_LE = 1
"""Version 1 and three zero octets as the low half of a little-endian word."""
_LOW_HALF = 0xFFFFFFFF
_DAYS = 3
"""Secrets of yesterday, today and tomorrow: all that a valid timestamp may name."""


class Cookies(NamedTuple):
    """Secrets as words."""

    key: Words
    """[3, 2] of the day before `first_day + 1`, of it, and of the day after."""
    first_day: Words
    """[1]"""


def cookie_keys(secret: cookies.CookieSecret | None, now_s: int) -> Cookies:
    """The secrets that are valid around a moment; zeros without a master."""
    first = max(now_s // cookies.ROTATION_S - 1, 0)
    keys = [secret.of_day(first + i) if secret else bytes(16) for i in range(_DAYS)]
    words = np.frombuffer(b"".join(keys), "<u8").astype(np.uint64).reshape(_DAYS, 2)
    return Cookies(words, np.array([first], np.uint64))


@inlined
def _address_at(address: Bytes) -> U64:
    """Where the IPv4 address stands in the sockaddr, or where an IPv6 one does."""
    if address[0] != AF_INET6:
        return uint64(_V4_AT)
    first = u64_at(address, uint64(_V6_AT), uint64(8))
    second = u64_at(address, uint64(_V6_AT + 8), uint64(4))
    if first == uint64(0) and second == uint64(0xFFFF) << uint64(32):
        return uint64(_MAPPED_AT)  # IPv4 through an IPv6 socket
    return uint64(_V6_AT)


@inlined
def note_client(batch: Batch, i: U64) -> None:
    """The prefix that the answer depends on: the client subnet, or else the client."""
    query = batch.query[i]
    if query[EDNS] & uint64(EDNS_ECS) and query[ECS_SOURCE] != uint64(0):
        octets = (query[ECS_SOURCE] + uint64(7)) >> uint64(3)
        at = query[ECS_AT]
        query[NET] = u64_at(batch.rx[i], at + uint64(4), min(octets, uint64(8)))
        query[IPV6] = uint64(u16_at(batch.rx[i], at) == uint64(2))
    else:
        query[NET] = own_net(batch, i)
        query[IPV6] = uint64(_address_at(batch.address[i]) == uint64(_V6_AT))


@inlined
def own_net(batch: Batch, i: U64) -> U64:
    """The client's own address, IPv4 in the top half."""
    at = _address_at(batch.address[i])
    return u64_at(batch.address[i], at, uint64(8) if at == uint64(_V6_AT) else uint64(4))


@inlined
def is_ipv6(batch: Batch, i: U64) -> Flag:
    """Whether the client itself is IPv6."""
    return _address_at(batch.address[i]) == uint64(_V6_AT)


@inlined
def _hash_of(batch: Batch, i: U64, keys: Cookies, stamp: U64, made_s: U64) -> U64:
    address = batch.address[i]
    at = _address_at(address)
    ipv6 = at == uint64(_V6_AT)
    low = word_le_at(address, at)
    high = word_le_at(address, uint64(_V6_AT + 8))
    if not ipv6:
        low &= uint64(_LOW_HALF)
    client = word_le_at(batch.rx[i], batch.query[i, COOKIE_AT])
    day = made_s // uint64(cookies.ROTATION_S) - keys.first_day[0]
    return cookie_hash(keys.key[min(day, uint64(_DAYS - 1))], client, stamp, low, high, ipv6)


@inlined
def _stamp(made_s: U64) -> U64:
    """Version, reserved and the timestamp in network order, as a little-endian word."""
    t = made_s & uint64(_LOW_HALF)
    swapped = (t >> uint64(24)) | ((t >> uint64(8)) & uint64(0xFF00))
    swapped |= ((t << uint64(8)) & uint64(0xFF0000)) | ((t << uint64(24)) & uint64(0xFF000000))
    return swapped << uint64(32) | uint64(_VERSION_LE)


@inlined
def judge_cookie(batch: Batch, i: U64, keys: Cookies, now_s: U64) -> None:
    """Whether the client is who it says, and the server cookie that it is given."""
    query = batch.query[i]
    query[TRUSTED] = uint64(0)
    if not query[EDNS] & uint64(EDNS_COOKIE):
        return
    rx, at = batch.rx[i], query[COOKIE_AT]
    if query[COOKIE_LENGTH] == uint64(cookies.CLIENT_BYTES + cookies.SERVER_BYTES):
        stamp = word_le_at(rx, at + uint64(8))
        made = u64_at(rx, at + uint64(12), uint64(4)) >> uint64(32)
        # Serial number arithmetic (RFC 1982); the sum is far from 2**64, so it does not wrap.
        age = (now_s + uint64(cookies.AHEAD_S_MAX) - made) & uint64(_LOW_HALF)
        timely = age <= uint64(cookies.AGE_S_MAX + cookies.AHEAD_S_MAX)
        if timely and stamp & uint64(_LOW_HALF) == uint64(_VERSION_LE):
            made_s = now_s + uint64(cookies.AHEAD_S_MAX) - age
            found = _hash_of(batch, i, keys, stamp, made_s)
            if found == word_le_at(rx, at + uint64(16)):
                query[TRUSTED] = uint64(1)
                young = age <= uint64(cookies.RENEW_S + cookies.AHEAD_S_MAX)
                if young and age >= uint64(cookies.AHEAD_S_MAX):
                    query[COOKIE_STAMP], query[COOKIE_HASH] = stamp, found
                    return
    query[COOKIE_STAMP] = _stamp(now_s)
    query[COOKIE_HASH] = _hash_of(batch, i, keys, query[COOKIE_STAMP], now_s)
