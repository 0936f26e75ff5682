"""The loop: receive a batch, answer it stage by stage, send it. Owns the order of the stages.

Stages run over the whole batch, so that the cache misses of independent packets overlap. What a
stage learns stands in `Batch.query`. The loop returns between two batches when it is told to;
Python then calls it again with other tables: no locks, no query lost.
"""

from typing import NamedTuple

import numpy as np
from numba import int32, int64, uint32, uint64
from numpy.typing import NDArray

from popsteer.names import LENGTH_MASK
from popsteer.table import NO_POP
from resolver.fast import libc
from resolver.fast.batch import (
    ACTION,
    ANSWER,
    ANSWERED,
    AT_CLOCK,
    AT_ONE,
    AT_POLL,
    AT_RX,
    CHOICE,
    CONTROL_BYTES,
    CUT,
    DRAW,
    ECS_SOURCE,
    EDNS,
    EDNS_DO,
    EDNS_ECS,
    ENTRY,
    GROUPS,
    IPV6,
    LABELS,
    LENGTH,
    LINE,
    LOWER_LABELS,
    NET,
    QTYPE,
    QUESTION_END,
    READY,
    REPLY_LENGTH,
    RX_BYTES,
    SLOW,
    TRUSTED,
    Batch,
)
from resolver.fast.book import (
    BELOW_ENTRY,
    DO_COLUMNS,
    ENTRY_GAPS,
    ENTRY_SPELLINGS,
    ENTRY_TYPE,
    ENTRY_VARIANT,
    EXACT_ENTRY,
    FAMILY,
    FLAGS,
    NONE_ANSWER,
    OTHER_TYPE,
    SERVICE,
    STEERED_OWNER,
    UNKNOWN,
    Book,
)
from resolver.fast.client import Cookies, is_ipv6, judge_cookie, note_client, own_net
from resolver.fast.count import Counts, count_answer
from resolver.fast.gaps import gap_of
from resolver.fast.gather import let_gather
from resolver.fast.index import NO_ROW, PLEN_AT, Index
from resolver.fast.kernel import inlined, kernel
from resolver.fast.limit import HOLD, PASS, Limits, limit
from resolver.fast.lookup import entry_v4_first, entry_v4_rest, entry_v6
from resolver.fast.names import NODE_BITS, OUTSIDE, closest_encloser, node_of
from resolver.fast.query import READ, read_query
from resolver.fast.reply import TOO_LONG, Addresses, write_reply, write_truncated
from resolver.fast.send import add_response, lay_out, send
from resolver.fast.steer import Standing, choose
from resolver.fast.words import U64, Bytes, Flag, Words
from resolver.wire import HEADER_BYTES

SLOW_SLOTS = 1024
"""Queries that wait for the slow path; more are dropped and counted."""
DRAW_MASK = (1 << 48) - 1
_IDLE_MS = -1
"""Sleep until a packet or the wake-up event comes: an idle server does nothing at all."""
_NODE_MASK = 0xFFFF_FFFF

# Slots of `Loop.control`.
STOP, FD, WAKE_FD, SLOW_FD, SLOW_HEAD, SLOW_TAIL, BATCHES, LOST = range(8)
# Slots of `Loop.seen`.
RECEIVED, ANSWERS, HANDED_ON, DROPPED, SLOW_FULL, HELD, SLIPPED, STEERED = range(8)
RCODES = 16
STOPPED, CLOSED = range(2)


class Loop(NamedTuple):
    """What one loop shares with Python: who writes what is said by each field."""

    control: NDArray[np.int64]
    """STOP and SLOW_TAIL are Python's, the rest is the loop's once it runs."""
    seen: Words
    """[8] counters, by the loop."""
    rcode: Words
    """[16] answers by RCODE, by the loop."""
    pop: Words
    """Steered answers by POP number, by the loop."""
    pace: NDArray[np.int64]
    """[3] of `resolver.fast.gather`, by the loop."""
    random: Words
    """[1] state of the generator of draws, by the loop."""
    slow: Bytes
    """[SLOW_SLOTS, RX_BYTES] queries for the slow path, between SLOW_TAIL and SLOW_HEAD."""
    slow_length: NDArray[np.int64]
    slow_address: Bytes
    slow_control: Bytes


class Settings(NamedTuple):
    """What stays the same for long."""

    edns_known: Words
    """[1] bits of `Batch.query[EDNS]` for the options that are switched on."""
    nsid: Bytes
    cookies: Cookies
    limits: Limits


class Routes(NamedTuple):
    """The table and what POPs are now."""

    table: Index
    standing: Standing
    addresses: Addresses
    group: NDArray[np.uint32]
    """[services] which line of `standing`, halved."""
    set: NDArray[np.uint32]
    """[services] which of the rows behind an entry; see `Index.rows`."""
    counted: NDArray[np.uint32]
    """[services] what a POP's number is raised by where demand is counted."""
    ttl: NDArray[np.uint32]
    """[services] which line of `addresses`, halved."""
    bits: Words
    """[services] traffic that one answer brings."""


@inlined
def next_draw(random: Words) -> U64:
    """48 random bits: SplitMix64 (Steele, Lea, Flood 2014)."""
    random[0] += uint64(0x9E3779B97F4A7C15)
    z = random[0]
    z = (z ^ (z >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> uint64(27))) * uint64(0x94D049BB133111EB)
    return (z ^ (z >> uint64(31))) & uint64(DRAW_MASK)


@inlined
def _entry_of(book: Book, first: U64, qtype: U64) -> U64:
    at = first
    while True:
        found = uint64(book.entry[at, ENTRY_TYPE])
        if found == qtype or found == uint64(OTHER_TYPE):
            return at
        at += uint64(1)


@inlined
def _find_answer(batch: Batch, i: U64, book: Book) -> U64:
    """The answer's number, or UNKNOWN; notes what the name has in front of its encloser."""
    query = batch.query[i]
    octets = query[QUESTION_END] - uint64(HEADER_BYTES + 4)
    node = node_of(book.names, batch.name_words, octets)
    query[CUT] = uint64(0)
    column = uint64(EXACT_ENTRY)
    by_do = uint64(DO_COLUMNS) if query[EDNS] & uint64(EDNS_DO) else uint64(0)
    if node == uint64(OUTSIDE):
        found = closest_encloser(book.names, batch, octets, query[LABELS])
        node = found & uint64(_NODE_MASK)
        query[CUT] = found >> uint64(NODE_BITS)
        column = uint64(BELOW_ENTRY)
    entry = _entry_of(book, uint64(book.node[node, column + by_do]), query[QTYPE])
    spellings = uint64(book.entry[entry, ENTRY_SPELLINGS])
    variant = uint64(book.entry[entry, ENTRY_VARIANT]) + min(query[LOWER_LABELS], spellings)
    if book.entry[entry, ENTRY_GAPS] > 1:
        variant += gap_of(book, batch.rx[i], node, query[CUT]) * (spellings + uint64(1))
    return uint64(book.variant[variant])


@kernel
def _read(batch: Batch, count: U64, book: Book, settings: Settings, now_s: U64) -> None:
    """Stage 1: what is asked, by whom, and which answer that is."""
    for k in range(count):
        i = uint64(k)
        query = batch.query[i]
        action = read_query(batch, i)
        if action == READ:
            query[EDNS] &= settings.edns_known[0]
            query[ANSWER] = _find_answer(batch, i, book)
            query[ENTRY] = uint64(0)
            action = SLOW if query[ANSWER] == uint64(UNKNOWN) else ANSWERED
            note_client(batch, i)
            judge_cookie(batch, i, settings.cookies, now_s)
        query[ACTION] = uint64(action)


@inlined
def _is_steered(book: Book, query: Words) -> Flag:
    if query[ACTION] != uint64(ANSWERED):
        return False
    return book.answer[query[ANSWER], STEERED_OWNER] != 0


@kernel
def _look_up(batch: Batch, count: U64, book: Book, routes: Routes) -> None:
    """Stage 2: the table's entry for each client, one memory level at a time."""
    for k in range(count):
        query = batch.query[uint64(k)]
        if _is_steered(book, query) and query[IPV6] == uint64(0):
            query[ENTRY] = entry_v4_first(routes.table, query[NET])
    for k in range(count):
        query = batch.query[uint64(k)]
        if _is_steered(book, query):
            if query[IPV6]:
                query[ENTRY] = entry_v6(routes.table, query[NET])
            else:
                query[ENTRY] = entry_v4_rest(routes.table, query[NET], query[ENTRY])


@kernel
def _steer(batch: Batch, count: U64, book: Book, routes: Routes, random: Words) -> None:
    """Stage 3: the POP of each steered answer."""
    for k in range(count):
        query = batch.query[uint64(k)]
        if _is_steered(book, query):
            answer = book.answer[query[ANSWER]]
            service, family = uint64(answer[SERVICE]), uint64(answer[FAMILY])
            group = uint64(2) * uint64(routes.group[service]) + family
            query[LINE] = uint64(2) * uint64(routes.ttl[service]) + family
            query[DRAW] = next_draw(random)
            row = query[ENTRY] >> uint64(8)
            if row != uint64(NO_ROW):
                row += uint64(routes.set[service])
            query[CHOICE] = choose(routes.table, routes.standing, row, group, query[DRAW])


@inlined
def _by_subnet(query: Words) -> Flag:
    return query[EDNS] & uint64(EDNS_ECS) != uint64(0) and query[ECS_SOURCE] != uint64(0)


@inlined
def _source(query: Words) -> U64:
    """Bits of the client's prefix that are known."""
    whole = uint64(64) if query[IPV6] else uint64(32)
    return min(whole, query[ECS_SOURCE]) if _by_subnet(query) else whole


@inlined
def _row_length(routes: Routes, query: Words) -> U64:
    row = query[ENTRY] >> uint64(8)
    if row == uint64(NO_ROW):
        return uint64(0)
    return uint64(routes.table.octet[row, PLEN_AT]) & uint64(LENGTH_MASK)


@kernel
def _count(
    batch: Batch, count: U64, book: Book, routes: Routes, counts: Counts, loop: Loop
) -> None:
    """Stage 4: demand; where no POP has an address the answer is another one."""
    for k in range(count):
        query = batch.query[uint64(k)]
        if not _is_steered(book, query):
            continue
        answer = book.answer[query[ANSWER]]
        pop = query[CHOICE] & uint64(0xFFFF)
        if pop == uint64(NO_POP):
            query[ANSWER] = uint64(answer[NONE_ANSWER])
            query[ENTRY] = uint64(0)
            continue
        bits = routes.bits[answer[SERVICE]]
        loop.pop[pop] += uint64(1)
        length = _row_length(routes, query)
        pop += uint64(routes.counted[answer[SERVICE]])
        count_answer(counts, query[NET], _source(query), length, query[IPV6], pop, bits)
        if not _by_subnet(query):
            query[ENTRY] = uint64(0)  # RFC 7871 §7.2.1: it does not depend on a subnet


@inlined
def _limited(batch: Batch, i: U64, book: Book, limits: Limits, now_s: float) -> U64:
    """Response classes are NOERROR with data, without, and each RCODE."""
    query = batch.query[i]
    if query[TRUSTED]:
        return PASS
    rcode = uint64(book.answer[query[ANSWER], FLAGS]) & uint64(0xF)
    return limit(limits, own_net(batch, i), uint64(is_ipv6(batch, i)), rcode, now_s)


@kernel
def _write(
    batch: Batch, count: U64, book: Book, routes: Routes, settings: Settings, loop: Loop
) -> U64:
    """Stage 5: the responses; how many there are to send."""
    now_s = float(batch.clock[0] & 0xFFFFF) + float(batch.clock[1]) * 1e-9
    batch.made[READY], batch.made[GROUPS] = uint64(0), uint64(0)
    for k in range(count):
        i = uint64(k)
        query = batch.query[i]
        if query[ACTION] == uint64(ANSWERED):
            verdict = _limited(batch, i, book, settings.limits, now_s)
            if verdict == PASS:
                length = write_reply(batch, i, book, routes.addresses, settings.nsid)
            elif verdict == HOLD:
                loop.seen[HELD] += uint64(1)
                continue
            else:
                loop.seen[SLIPPED] += uint64(1)
                length = write_truncated(batch, i, settings.nsid)
            if length == uint64(TOO_LONG):
                _hand_on(batch, i, loop)
                continue
            query[REPLY_LENGTH] = length
            loop.rcode[uint64(batch.tx[i, 3]) & uint64(0xF)] += uint64(1)
            add_response(batch, i)
        elif query[ACTION] == uint64(SLOW):
            ipv6 = uint64(is_ipv6(batch, i))
            unknown = uint64(RCODES - 1)
            if limit(settings.limits, own_net(batch, i), ipv6, unknown, now_s) == PASS:
                _hand_on(batch, i, loop)
            else:
                loop.seen[HELD] += uint64(1)
        else:
            loop.seen[DROPPED] += uint64(1)
    lay_out(batch)
    return batch.made[READY]


@inlined
def _hand_on(batch: Batch, i: U64, loop: Loop) -> None:
    """Give a query to the slow path, if there is room."""
    head = loop.control[SLOW_HEAD]
    if head - loop.control[SLOW_TAIL] >= SLOW_SLOTS:
        loop.seen[SLOW_FULL] += uint64(1)
        return
    loop.seen[HANDED_ON] += uint64(1)
    slot = uint64(head) & uint64(SLOW_SLOTS - 1)
    length = batch.query[i, LENGTH]
    for k in range(length):
        loop.slow[slot, k] = batch.rx[i, k]
    for k in range(uint64(libc.SOCKADDR_BYTES)):
        loop.slow_address[slot, k] = batch.address[i, k]
    for k in range(uint64(CONTROL_BYTES)):
        loop.slow_control[slot, k] = batch.control[i, k]
    loop.slow_length[slot] = length
    loop.control[SLOW_HEAD] = head + 1


@kernel
def answer_batch(
    batch: Batch,
    count: U64,
    book: Book,
    routes: Routes,
    settings: Settings,
    counts: Counts,
    loop: Loop,
) -> U64:
    """Answer `count` received packets; how many responses are ready to send."""
    now_s = uint64(batch.clock[0])
    _read(batch, count, book, settings, now_s)
    _look_up(batch, count, book, routes)
    _steer(batch, count, book, routes, loop.random)
    _count(batch, count, book, routes, counts, loop)
    return _write(batch, count, book, routes, settings, loop)


@inlined
def _receive(batch: Batch, fd: int) -> U64:
    """Packets that wait, at most a batch, or the next one; 0 or less if none comes for a moment."""
    size = uint32(batch.rx_header.shape[0])
    count = libc.recvmmsg(fd, batch.at[AT_RX], size, libc.MSG_WAITFORONE, uint64(0))
    for k in range(count):
        length = batch.rx_header[uint64(k), libc.WORD_LEN] & uint64(0xFFFFFFFF)
        batch.query[uint64(k), LENGTH] = min(length, uint64(RX_BYTES))
    return count


@inlined
def _offer_room(batch: Batch, count: U64) -> None:
    """The system writes into headers how much of the room it used."""
    for k in range(count):
        header = batch.rx_header[uint64(k)]
        header[libc.WORD_NAMELEN] = uint64(libc.SOCKADDR_BYTES)
        header[libc.WORD_CONTROLLEN] = uint64(CONTROL_BYTES)


@kernel
def serve(
    batch: Batch, book: Book, routes: Routes, settings: Settings, counts: Counts, loop: Loop
) -> U64:
    """Answer until told to; STOPPED, or CLOSED when the socket is gone."""
    fd = int32(loop.control[FD])
    _offer_room(batch, uint64(batch.rx_header.shape[0]))
    while loop.control[STOP] == 0:
        received = _receive(batch, fd)
        if received <= 0:
            libc.poll(batch.at[AT_POLL], uint64(2), _IDLE_MS)
            if (batch.poll[1] >> 16) & libc.POLLNVAL:
                return CLOSED
            continue
        libc.clock_gettime(libc.CLOCK_REALTIME, batch.at[AT_CLOCK])
        handed_on = loop.control[SLOW_HEAD]
        ready = answer_batch(batch, uint64(received), book, routes, settings, counts, loop)
        loop.control[LOST] += send(batch, fd)
        _offer_room(batch, uint64(received))
        if loop.control[SLOW_HEAD] != handed_on:
            libc.write(int32(loop.control[SLOW_FD]), batch.at[AT_ONE], uint64(8))
        loop.seen[RECEIVED] += uint64(received)
        loop.seen[ANSWERS] += ready
        loop.control[BATCHES] += 1
        let_gather(batch, int64(received), loop.pace)
    return STOPPED
