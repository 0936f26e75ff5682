"""Reading a query: header, question, OPT and its options (RFC 1035 §4.1, RFC 6891 §6.1).

Only plain, well-formed queries are read here; whatever is unusual is SLOW, never guessed at. The
specification is `resolver.wire.parse`.
"""

from numba import uint64

from resolver.fast.batch import (
    COOKIE_AT,
    COOKIE_LENGTH,
    DROP,
    ECS_AT,
    ECS_SOURCE,
    EDNS,
    EDNS_COOKIE,
    EDNS_DO,
    EDNS_ECS,
    EDNS_NSID,
    EDNS_PRESENT,
    LABELS,
    LENGTH,
    LOWER_LABELS,
    QTYPE,
    QUESTION_END,
    SLOW,
    UDP_MAX,
    Batch,
)
from resolver.fast.kernel import inlined
from resolver.fast.words import U64, Bytes, Flag, Words, put_word_le, u16_at, word_le_at
from resolver.wire import HEADER_BYTES

READ = 2
"""The query was read; the next stage decides."""

_NAME_MAX = 255
_LABEL_MAX = 63
_ALL_BITS = 0xFFFF_FFFF_FFFF_FFFF
_LOW_BITS, _TOP_BITS = 0x7F7F_7F7F_7F7F_7F7F, 0x8080_8080_8080_8080
_FROM_A = 0x3F3F_3F3F_3F3F_3F3F
"""128 - 65 in each octet."""
_ABOVE_Z = 0x2525_2525_2525_2525
"""128 - 91 in each octet."""
QR = 0x80
_OPCODE = 0x78
OPT_FIXED = 11
"""Octets of an OPT record before its options: root, type, class, TTL, RDLENGTH."""
_OPT, _META_FIRST, _ANY = 41, 128, 255
_IN = 1
_NSID, _ECS, _COOKIE = 3, 8, 10
_UDP_PLAIN = 512
"""RFC 1035 §4.2.1, for queries without EDNS and for sizes below it (RFC 6891 §6.2.3)."""


@inlined
def _is_plain(rx: Bytes) -> Flag:
    """QUERY, one question, no other record but perhaps one in the additional section."""
    if rx[2] & _OPCODE or rx[4] or rx[5] != 1:
        return False
    return (rx[6] | rx[7] | rx[8] | rx[9] | rx[10]) == 0 and rx[11] <= 1


@inlined
def _is_data_type(qtype: U64) -> Flag:
    """RFC 6895 §3.1: 128 to 254 are no data."""
    if qtype == uint64(0) or qtype == uint64(_OPT):
        return False
    return qtype < uint64(_META_FIRST) or qtype >= uint64(_ANY)


@inlined
def _lower(name: Bytes, to: U64, rx: Bytes, at: U64, size: U64) -> Flag:
    """Copy a label in lower case, eight octets at a time; whether any was in upper case.

    The octets behind it that come along are overwritten by what follows in the name.
    """
    found = uint64(0)
    for k in range((size + uint64(7)) >> uint64(3)):
        offset = uint64(k) << uint64(3)
        word = word_le_at(rx, at + offset)
        # The top bit of each octet: whether its lower seven are at least 'A', and above 'Z'.
        low = word & uint64(_LOW_BITS)
        upper = (low + uint64(_FROM_A)) & ~(low + uint64(_ABOVE_Z)) & ~word & uint64(_TOP_BITS)
        put_word_le(name, to + offset, word | (upper >> uint64(2)))
        left = min(size - offset, uint64(8)) << uint64(2)
        found |= upper & ~((uint64(_ALL_BITS) << left) << left)
    return found != uint64(0)


@inlined
def _read_name(batch: Batch, rx: Bytes, length: U64, query: Words) -> U64:
    """Copy the name in lower case to `batch.name`; the offset behind it, or 0 if unusual."""
    at = uint64(HEADER_BYTES)
    labels = uint64(0)
    upper = uint64(0)
    name = batch.name
    while True:
        if at >= length:
            return uint64(0)
        size = uint64(rx[at])
        name[at - uint64(HEADER_BYTES)] = size
        at += uint64(1)
        if size == uint64(0):
            break
        if size > uint64(_LABEL_MAX) or at + size - uint64(HEADER_BYTES) >= uint64(_NAME_MAX):
            return uint64(0)
        if at + size > length:
            return uint64(0)
        if _lower(name, at - uint64(HEADER_BYTES), rx, at, size):
            upper = labels + uint64(1)
        at += size
        labels += uint64(1)
    put_word_le(name, at - uint64(HEADER_BYTES), uint64(0))
    query[LABELS] = labels
    query[LOWER_LABELS] = labels - upper
    return at


@inlined
def _is_ecs_sound(rx: Bytes, at: U64, size: U64) -> Flag:
    """RFC 7871 §6: family, length, scope 0, as many octets as needed, no host bits."""
    if size < uint64(4) or rx[at + uint64(3)] != 0:
        return False
    family = u16_at(rx, at)
    source = uint64(rx[at + uint64(2)])
    if family == uint64(0):
        return source == uint64(0) and size == uint64(4)
    if family == uint64(1):
        if source > uint64(32):
            return False
    elif family != uint64(2) or source > uint64(128):
        return False
    if size != uint64(4) + ((source + uint64(7)) >> uint64(3)):
        return False
    spare = source & uint64(7)
    if spare == uint64(0):
        return True
    return (uint64(rx[at + size - uint64(1)]) << spare) & uint64(0xFF) == uint64(0)


@inlined
def _read_option(rx: Bytes, at: U64, size: U64, code: U64, query: Words) -> Flag:
    """Note the first option of each code that we know; False if it is malformed."""
    edns = query[EDNS]
    if code == uint64(_ECS) and not edns & uint64(EDNS_ECS):
        if not _is_ecs_sound(rx, at, size):
            return False
        query[ECS_AT] = at
        query[ECS_SOURCE] = uint64(rx[at + uint64(2)])
        query[EDNS] = edns | uint64(EDNS_ECS)
    elif code == uint64(_COOKIE) and not edns & uint64(EDNS_COOKIE):
        # RFC 7873 §5.2.2: a client cookie alone, or with 8 to 32 octets of server cookie.
        if size > uint64(40) or (size < uint64(16) and size != uint64(8)):
            return False
        query[COOKIE_AT] = at
        query[COOKIE_LENGTH] = size
        query[EDNS] = edns | uint64(EDNS_COOKIE)
    elif code == uint64(_NSID):
        query[EDNS] = edns | uint64(EDNS_NSID)
    return True


@inlined
def _read_opt(rx: Bytes, at: U64, length: U64, query: Words) -> Flag:
    """The OPT record at `at`; False if it is not one, or an unusual one."""
    if at + uint64(OPT_FIXED) > length or rx[at] != 0:
        return False
    if u16_at(rx, at + uint64(1)) != uint64(_OPT) or rx[at + uint64(6)] != 0:
        return False  # RFC 6891 §6.1.3: other versions get BADVERS from the slow path
    query[UDP_MAX] = max(u16_at(rx, at + uint64(3)), uint64(_UDP_PLAIN))
    query[EDNS] = uint64(EDNS_PRESENT)
    if rx[at + uint64(7)] & 0x80:
        query[EDNS] |= uint64(EDNS_DO)
    end = at + uint64(OPT_FIXED) + u16_at(rx, at + uint64(9))
    if end > length:
        return False
    at += uint64(OPT_FIXED)
    while at < end:
        if at + uint64(4) > end:
            return False
        code = u16_at(rx, at)
        size = u16_at(rx, at + uint64(2))
        at += uint64(4)
        if at + size > end or not _read_option(rx, at, size, code, query):
            return False
        at += size
    return True


@inlined
def read_query(batch: Batch, i: U64) -> U64:
    """Read packet `i` into `batch.query[i]` and its name into `batch.name`.

    Inlined: a call would hand every array of the batch over on the stack, 200 ns a packet.

    Returns:
        READ, SLOW or DROP.
    """
    rx = batch.rx[i]
    query = batch.query[i]
    length = query[LENGTH]
    if length < uint64(HEADER_BYTES) or rx[2] & QR:
        return DROP
    if not _is_plain(rx):
        return SLOW
    at = _read_name(batch, rx, length, query)
    if at == uint64(0) or at + uint64(4) > length:
        return SLOW
    if u16_at(rx, at + uint64(2)) != uint64(_IN) or not _is_data_type(u16_at(rx, at)):
        return SLOW
    query[QTYPE] = u16_at(rx, at)
    at += uint64(4)
    query[QUESTION_END] = at
    query[EDNS] = uint64(0)
    query[UDP_MAX] = uint64(_UDP_PLAIN)
    if rx[11] and not _read_opt(rx, at, length, query):
        return SLOW
    return READ
