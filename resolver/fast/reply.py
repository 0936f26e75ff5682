"""Writing a response: header, question, a draft, addresses, OPT. Specification: `resolver.answer`.

Query and response have buffers of their own, so nothing that is still needed is overwritten.
"""

from typing import NamedTuple

import numpy as np
from numba import uint8, uint64
from numpy.typing import NDArray

from resolver import cookies
from resolver.fast.batch import (
    ANSWER,
    CHOICE,
    COOKIE_AT,
    COOKIE_HASH,
    COOKIE_STAMP,
    CUT,
    DRAW,
    ECS_AT,
    ECS_SOURCE,
    EDNS,
    EDNS_COOKIE,
    EDNS_DO,
    EDNS_ECS,
    EDNS_NSID,
    EDNS_PRESENT,
    ENTRY,
    LINE,
    QUESTION_END,
    TX_BYTES,
    UDP_MAX,
    Batch,
)
from resolver.fast.book import (
    BODY_LENGTH,
    BODY_START,
    COUNT_AN,
    COUNT_AR,
    COUNT_NS,
    CUT_AN,
    CUT_AR,
    CUT_COUNT,
    CUT_END,
    CUT_NS,
    CUT_START,
    FLAGS,
    MOVING_COUNT,
    MOVING_START,
    PROBE_OCTETS,
    SERVICE,
    SIGNED,
    STEERED_OWNER,
    Book,
)
from resolver.fast.draft import QUESTION_POINTER
from resolver.fast.kernel import inlined
from resolver.fast.query import OPT_FIXED, QR
from resolver.fast.words import U64, Bytes, Words, copy_octets, put_u16, put_word_le, u16_at
from resolver.wire import CD, HEADER_BYTES, RD, Rcode

TOO_LONG = 0
"""Length of a response that only the slow path can cut."""

PAST = 0xFFFF_FFFF
"""No place to cut."""

_TC = 0x0200
_OPTION_HEAD = 4
_NSID, _EDE, _EDE_NOT_AUTHORITATIVE = 3, 15, 20
_ECS_FIXED = 4
_COOKIE_BYTES = cookies.CLIENT_BYTES + cookies.SERVER_BYTES
_RCODE = 0xF
_REFUSED = int(Rcode.REFUSED)
_RD_HIGH, _CD = RD >> 8, CD


class Addresses(NamedTuple):
    """The RRs of each POP's addresses, for every TTL and family.

    A POP's RRs stand twice in a row, so that any rotation of them is one stretch of octets.
    """

    octets: Bytes
    start: NDArray[np.uint32]
    """[lines, pops]; a line is `2 * TTL number + family`."""
    per_pop: NDArray[np.uint32]
    """[2, pops] addresses by family."""
    rr_bytes: Words
    """[2] octets of one RR by family."""
    signature: Bytes
    """The RRSIG RRs over each POP's addresses, for every service and family."""
    signature_start: NDArray[np.uint32]
    """[2 * services, pops]"""
    signature_bytes: Words
    """[2 * services] octets of one; 0 where the service's zone is not signed."""


@inlined
def opt_length(query: Words, refused: bool, nsid: Bytes) -> U64:
    """Octets of the response's OPT record; 0 without EDNS."""
    edns = query[EDNS]
    if not edns & uint64(EDNS_PRESENT):
        return uint64(0)
    length = uint64(OPT_FIXED)
    if edns & uint64(EDNS_NSID):
        length += uint64(_OPTION_HEAD) + uint64(nsid.shape[0])
    if edns & uint64(EDNS_COOKIE):
        length += uint64(_OPTION_HEAD + _COOKIE_BYTES)
    if edns & uint64(EDNS_ECS):
        length += uint64(_OPTION_HEAD + _ECS_FIXED) + ((query[ECS_SOURCE] + uint64(7)) >> uint64(3))
    if refused:
        length += uint64(_OPTION_HEAD + 2)
    return length


@inlined
def _put_opt(batch: Batch, i: U64, at: U64, length: U64, nsid: Bytes, refused: bool) -> None:
    """The OPT record; options in the order of the slow path."""
    tx, rx, query = batch.tx[i], batch.rx[i], batch.query[i]
    edns = query[EDNS]
    tx[at] = 0
    put_u16(tx, at + uint64(1), uint64(41))
    put_u16(tx, at + uint64(3), uint64(TX_BYTES))
    put_u16(tx, at + uint64(5), uint64(0))
    put_u16(tx, at + uint64(7), uint64(0x8000) if edns & uint64(EDNS_DO) else uint64(0))
    put_u16(tx, at + uint64(9), length - uint64(OPT_FIXED))
    at += uint64(OPT_FIXED)
    if edns & uint64(EDNS_NSID):
        at = _put_option(tx, at, uint64(_NSID), uint64(nsid.shape[0]))
        for k in range(uint64(nsid.shape[0])):
            tx[at + uint64(k)] = nsid[k]
        at += uint64(nsid.shape[0])
    if edns & uint64(EDNS_COOKIE):
        at = _put_option(tx, at, uint64(cookies.OPTION), uint64(_COOKIE_BYTES))
        copy_octets(tx, at, rx, query[COOKIE_AT], uint64(cookies.CLIENT_BYTES))
        put_word_le(tx, at + uint64(8), query[COOKIE_STAMP])
        put_word_le(tx, at + uint64(16), query[COOKIE_HASH])
        at += uint64(_COOKIE_BYTES)
    if edns & uint64(EDNS_ECS):
        size = uint64(_ECS_FIXED) + ((query[ECS_SOURCE] + uint64(7)) >> uint64(3))
        at = _put_option(tx, at, uint64(8), size)
        copy_octets(tx, at, rx, query[ECS_AT], size)
        tx[at + uint64(3)] = uint8(query[ENTRY])  # SCOPE PREFIX-LENGTH
        at += size
    if refused:
        at = _put_option(tx, at, uint64(_EDE), uint64(2))
        put_u16(tx, at, uint64(_EDE_NOT_AUTHORITATIVE))


@inlined
def _put_option(tx: Bytes, at: U64, code: U64, size: U64) -> U64:
    put_u16(tx, at, code)
    put_u16(tx, at + uint64(2), size)
    return at + uint64(_OPTION_HEAD)


@inlined
def _put_head(batch: Batch, i: U64, flags: U64) -> None:
    """Header up to the question count, and the question as it was asked (0x20)."""
    rx, tx = batch.rx[i], batch.tx[i]
    tx[0], tx[1] = rx[0], rx[1]
    tx[2] = uint8(QR) | uint8(flags >> uint64(8)) | (rx[2] & uint8(_RD_HIGH))
    tx[3] = uint8(flags) | (rx[3] & uint8(_CD))
    at = uint64(HEADER_BYTES)
    copy_octets(tx, at, rx, at, batch.query[i, QUESTION_END] - at)


@inlined
def _put_counts(tx: Bytes, answer: U64, authority: U64, additional: U64) -> None:
    put_u16(tx, uint64(4), uint64(1))
    put_u16(tx, uint64(6), answer)
    put_u16(tx, uint64(8), authority)
    put_u16(tx, uint64(10), additional)


@inlined
def _put_body(batch: Batch, i: U64, book: Book, number: U64, length: U64) -> None:
    """The draft's octets, pointers moved by what the name is longer than the draft's."""
    tx, query = batch.tx[i], batch.query[i]
    line = book.answer[number]
    at, start = query[QUESTION_END], uint64(line[BODY_START])
    copy_octets(tx, at, book.body, start, length)
    if query[CUT] <= uint64(PROBE_OCTETS):
        return
    longer = query[CUT] - uint64(PROBE_OCTETS)
    first = uint64(line[MOVING_START])
    for k in range(first, first + uint64(line[MOVING_COUNT])):
        offset = uint64(book.moving[k])
        if offset < length:
            put_u16(tx, at + offset, u16_at(tx, at + offset) + longer)


@inlined
def _steered_pointer(query: Words, owner: U64) -> U64:
    if owner == uint64(QUESTION_POINTER) or query[CUT] <= uint64(PROBE_OCTETS):
        return owner
    return owner + query[CUT] - uint64(PROBE_OCTETS)


@inlined
def _put_addresses(tx: Bytes, at: U64, addresses: Addresses, query: Words, owner: U64) -> None:
    """The RRs of the chosen POP, turned by the draw."""
    family = query[LINE] & uint64(1)
    pop = query[CHOICE] & uint64(0xFFFF)
    count = uint64(addresses.per_pop[family, pop])
    size = addresses.rr_bytes[family]
    turn = (query[DRAW] >> uint64(32)) & uint64(0xFFFF)
    start = uint64(addresses.start[query[LINE], pop])
    if count > uint64(1):
        start += (turn % count) * size
    copy_octets(tx, at, addresses.octets, start, count * size)
    pointer = _steered_pointer(query, owner)
    if pointer != uint64(QUESTION_POINTER):
        for k in range(count):
            put_u16(tx, at + uint64(k) * size, pointer)


@inlined
def _put_signature(
    tx: Bytes, at: U64, addresses: Addresses, query: Words, owner: U64, line: U64, size: U64
) -> None:
    """The RRSIG over the addresses, which holds for every rotation of them."""
    start = uint64(addresses.signature_start[line, query[CHOICE] & uint64(0xFFFF)])
    copy_octets(tx, at, addresses.signature, start, size)
    put_u16(tx, at, _steered_pointer(query, owner))


@inlined
def _fitting_cut(book: Book, number: U64, room: U64) -> U64:
    """The last place before the end where the message may be cut; PAST if none of them."""
    line = book.answer[number]
    first = uint64(line[CUT_START])
    last = first + uint64(line[CUT_COUNT]) - uint64(1)
    if uint64(book.cut[last, CUT_END]) <= room:
        return uint64(PAST)  # only additional data is too long: the slow path picks some
    while last > first and uint64(book.cut[last, CUT_END]) > room:
        last -= uint64(1)
    return last


@inlined
def write_reply(batch: Batch, i: U64, book: Book, addresses: Addresses, nsid: Bytes) -> U64:
    """Write the response of packet `i` to `batch.tx[i]`; its length, or TOO_LONG.

    Reads the columns ANSWER, LINE, CHOICE, DRAW, CUT, ENTRY (scope) and those of the query.
    """
    query, tx = batch.query[i], batch.tx[i]
    number = query[ANSWER]
    line = book.answer[number]
    flags = uint64(line[FLAGS])
    refused = flags & uint64(_RCODE) == uint64(_REFUSED)
    opt = opt_length(query, refused, nsid)
    at = query[QUESTION_END]
    room = min(query[UDP_MAX], uint64(TX_BYTES)) - opt - at
    body = uint64(line[BODY_LENGTH])
    an, ns, ar = uint64(line[COUNT_AN]), uint64(line[COUNT_NS]), uint64(line[COUNT_AR])
    owner = uint64(line[STEERED_OWNER])
    more, signed, of = uint64(0), uint64(0), uint64(0)
    if body > room:
        cut = _fitting_cut(book, number, room)
        if cut == uint64(PAST):
            return uint64(TOO_LONG)
        body = uint64(book.cut[cut, CUT_END])
        an, ns = uint64(book.cut[cut, CUT_AN]), uint64(book.cut[cut, CUT_NS])
        ar = uint64(book.cut[cut, CUT_AR])
        flags |= uint64(_TC)
    elif owner:
        family = query[LINE] & uint64(1)
        count = uint64(addresses.per_pop[family, query[CHOICE] & uint64(0xFFFF)])
        more = count * addresses.rr_bytes[family]
        if line[SIGNED]:
            of = uint64(2) * uint64(line[SERVICE]) + family
            signed = addresses.signature_bytes[of]
        if body + more + signed > room:
            more, signed = uint64(0), uint64(0)
            flags |= uint64(_TC)
        else:
            an += count + uint64(signed != uint64(0))
    _put_head(batch, i, flags)
    _put_counts(tx, an, ns, ar + uint64(opt != uint64(0)))
    _put_body(batch, i, book, number, body)
    at += body
    if more:
        _put_addresses(tx, at, addresses, query, owner)
    if signed:
        _put_signature(tx, at + more, addresses, query, owner, of, signed)
    at += more + signed
    if opt:
        _put_opt(batch, i, at, opt, nsid, refused)
    return at + opt


@inlined
def write_truncated(batch: Batch, i: U64, nsid: Bytes) -> U64:
    """An empty response with TC, which sends a real client to TCP; its length."""
    query = batch.query[i]
    query[ENTRY] = uint64(0)
    opt = opt_length(query, False, nsid)
    _put_head(batch, i, uint64(_TC))
    _put_counts(batch.tx[i], uint64(0), uint64(0), uint64(opt != uint64(0)))
    if opt:
        _put_opt(batch, i, query[QUESTION_END], opt, nsid, False)
    return query[QUESTION_END] + opt
