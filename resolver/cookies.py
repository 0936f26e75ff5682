"""DNS cookies (RFC 7873) in the interoperable form of RFC 9018. Pure; secrets come in.

A server cookie is version 1, three zero octets, a timestamp and SipHash-2-4 over the client's
cookie, these eight octets and the client's address. Secrets of successive days are derived from
one master, so every worker, and every node that shares the master, knows them without a word.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass

OPTION = 10
CLIENT_BYTES = 8
SERVER_BYTES = 16
_VERSION = b"\x01\0\0\0"
AGE_S_MAX = 3_600
"""RFC 9018 §4.3: older is not valid."""
AHEAD_S_MAX = 300
RENEW_S = 1_800
"""A cookie older than this is answered with a new one."""
ROTATION_S = 86_400
_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True)
class CookieSecret:
    """The master from which each day's secret comes."""

    master: bytes

    def of_day(self, day: int) -> bytes:
        """16 octets."""
        return hashlib.blake2s(day.to_bytes(8, "big"), key=self.master, digest_size=16).digest()


def well_formed(data: bytes) -> bool:
    """RFC 7873 §5.2.2: a client cookie alone, or with a server cookie of 8 to 32 octets."""
    return len(data) == CLIENT_BYTES or 16 <= len(data) <= 40


def make(client_cookie: bytes, address: bytes, secret: CookieSecret, now_s: int) -> bytes:
    """The server cookie for a client now."""
    head = _VERSION + (now_s & 0xFFFFFFFF).to_bytes(4, "big")
    return head + _mac(client_cookie + head, address, secret, now_s)


def valid(data: bytes, address: bytes, secret: CookieSecret, now_s: int) -> bool:
    """Whether an option carries a server cookie that we gave this client not long ago."""
    # The reserved octets may be anything, the MAC covers them (RFC 9018 §4.2).
    if len(data) != CLIENT_BYTES + SERVER_BYTES or data[8] != _VERSION[0]:
        return False
    age_s = _age_s(data, now_s)
    if not -AHEAD_S_MAX <= age_s <= AGE_S_MAX:
        return False
    return hmac.compare_digest(data[16:], _mac(data[:16], address, secret, now_s - age_s))


def _mac(cookies: bytes, address: bytes, secret: CookieSecret, made_s: int) -> bytes:
    return siphash_2_4(secret.of_day(made_s // ROTATION_S), cookies + address)


def reply(data: bytes, address: bytes, secret: CookieSecret, now_s: int) -> bytes:
    """The option of the answer: a young valid cookie again, else a new one (RFC 9018 §4.3)."""
    if valid(data, address, secret, now_s) and 0 <= _age_s(data, now_s) <= RENEW_S:
        return data
    client_cookie = data[:CLIENT_BYTES]
    return client_cookie + make(client_cookie, address, secret, now_s)


def _age_s(data: bytes, now_s: int) -> int:
    """Seconds since the timestamp in serial number arithmetic (RFC 1982)."""
    age = (now_s - int.from_bytes(data[12:16], "big")) & 0xFFFFFFFF
    return age - 2**32 if age >= 2**31 else age


def siphash_2_4(key: bytes, data: bytes) -> bytes:
    """SipHash-2-4 with 64 bits of output, little-endian (Aumasson and Bernstein, 2012)."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]
    tail = len(data) % 8
    padded = data + bytes(7 - tail) + bytes((len(data) & 0xFF,))
    for (word,) in struct.iter_unpack("<Q", padded):
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xFF
    _rounds(v, 4)
    return struct.pack("<Q", v[0] ^ v[1] ^ v[2] ^ v[3])


def _rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        v[0] = (v[0] + v[1]) & _U64
        v[1] = _rotated(v[1], 13) ^ v[0]
        v[0] = _rotated(v[0], 32)
        v[2] = (v[2] + v[3]) & _U64
        v[3] = _rotated(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & _U64
        v[3] = _rotated(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & _U64
        v[1] = _rotated(v[1], 17) ^ v[2]
        v[2] = _rotated(v[2], 32)


def _rotated(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) & _U64
