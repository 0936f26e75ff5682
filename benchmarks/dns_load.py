"""A load generator for DNS over UDP: prebuilt queries, sendmmsg and recvmmsg in nopython code.

Closed loop: so many queries outstanding over some sockets, as resolvers and forwarders have them;
each reply is replaced by the next query of that socket, and what is lost is sent anew after a
while. Every reply is judged: RCODE, TC, and the last octet of the first address,
which says the POP, against an independent longest-prefix match.
"""

import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import int32, uint32, uint64
from numpy.typing import NDArray

from resolver.fast import libc
from resolver.fast.kernel import kernel

SLOT_BYTES = 192
REPLY_BYTES = 1_280
BATCH = 64
SOCKETS = 8
STALLED_MS = 100
"""With no reply for so long the window counts as lost and is filled anew."""
ANY_POP = 0xFFFF
"""Expectation of a query whose answer is not judged by its address."""

# Slots of `Tally.words`.
SENT, GOOD, WRONG, STALLS, _SLOTS = range(5)


@dataclass(frozen=True, slots=True)
class Queries:
    """Prebuilt packets; the id of a packet is its number modulo 65,536."""

    octets: NDArray[np.uint8]
    """[n, SLOT_BYTES]"""
    length: NDArray[np.uint64]
    right: NDArray[np.uint16]
    """[n] POPs that are right, as the last octet of the address, or ANY_POP."""

    def __len__(self) -> int:
        return len(self.length)


class Generator(NamedTuple):
    """The generator's memory; structs of the kernel point into it."""

    octets: NDArray[np.uint8]
    length: NDArray[np.uint64]
    expected: NDArray[np.uint16]
    tx_header: NDArray[np.uint64]
    tx_vector: NDArray[np.uint64]
    rx_header: NDArray[np.uint64]
    rx: NDArray[np.uint8]
    poll: NDArray[np.int32]
    """[sockets, 2] struct pollfd of each."""
    outstanding: NDArray[np.uint64]
    """[sockets]"""
    at: NDArray[np.uint64]
    words: NDArray[np.uint64]
    clock: NDArray[np.int64]


@kernel
def _last_octet(rx: Any, i: Any, length: Any) -> Any:
    """Last octet of the first RR's data; the question's name is walked, the owner is a pointer."""
    at = uint64(12)
    while at < length and rx[i, at]:
        at += uint64(rx[i, at]) + uint64(1)
    at += uint64(5)
    if at + uint64(12) > length:
        return uint64(0xFFFF)
    size = uint64(rx[i, at + uint64(10)]) << uint64(8) | uint64(rx[i, at + uint64(11)])
    if at + uint64(11) + size >= length + uint64(1):
        return uint64(0xFFFF)
    return uint64(rx[i, at + uint64(11) + size])


@kernel
def _judge(g: Any, i: Any, length: Any) -> Any:
    """Whether a reply is the right one to the query whose id it has."""
    if length < uint64(12) or g.rx[i, 2] & 0x82 != 0x80 or g.rx[i, 3] & 0x0F:
        return False
    number = uint64(g.rx[i, 0]) << uint64(8) | uint64(g.rx[i, 1])
    if g.expected[number] == ANY_POP:
        return g.rx[i, 7] > 0
    return uint64(g.expected[number]) == _last_octet(g.rx, i, length)


@kernel
def _send(g: Any, fd: Any, next_query: Any, count: Any) -> Any:
    """Send `count` (at most BATCH) queries from number `next_query` on; how many went out."""
    total = uint64(g.length.shape[0])
    for k in range(count):
        number = (next_query + uint64(k)) % total
        g.tx_vector[k, 0] = g.at[2] + number * uint64(SLOT_BYTES)
        g.tx_vector[k, 1] = g.length[number]
    sent = libc.sendmmsg(int32(fd), g.at[0], uint32(count), 0)
    return uint64(max(sent, 0))


@kernel
def _refill(g: Any, one: Any, next_query: Any, window: Any) -> Any:
    """Send on one socket what its window has room for; the number of the next query."""
    while g.outstanding[one] < window:
        room = min(window - g.outstanding[one], uint64(BATCH))
        went = _send(g, g.poll[one, 0], next_query, room)
        if went == uint64(0):
            break
        next_query += went
        g.outstanding[one] += went
        g.words[SENT] += went
    return next_query


@kernel
def _collect(g: Any, one: Any) -> Any:
    """Judge the replies that wait on one socket; how many."""
    fd = int32(g.poll[one, 0])
    got = libc.recvmmsg(fd, g.at[1], uint32(BATCH), libc.MSG_DONTWAIT, uint64(0))
    for k in range(max(got, 0)):
        length = g.rx_header[uint64(k), libc.WORD_LEN] & uint64(0xFFFFFFFF)
        good = _judge(g, uint64(k), length)
        g.words[GOOD] += uint64(good)
        g.words[WRONG] += uint64(not good)
    count = uint64(max(got, 0))
    g.outstanding[one] -= min(g.outstanding[one], count)
    return count


@kernel
def generate(g: Any, window: Any, until_ns: Any) -> Any:
    """Keep `window` queries outstanding on each socket until the monotonic clock says so."""
    sockets = uint64(g.poll.shape[0])
    next_query = uint64(0)
    while True:
        libc.clock_gettime(libc.CLOCK_MONOTONIC, g.at[4])
        if g.clock[0] * 1_000_000_000 + g.clock[1] >= until_ns:
            return
        got = uint64(0)
        for one in range(sockets):
            got += _collect(g, uint64(one))
            next_query = _refill(g, uint64(one), next_query, window)
        if got == uint64(0) and libc.poll(g.at[3], sockets, STALLED_MS) == 0:
            g.outstanding[:] = uint64(0)
            g.words[STALLS] += uint64(1)


def generator(queries: Queries, fds: list[int]) -> Generator:
    """Memory for some connected sockets; keep it alive while it runs."""
    g = Generator(
        queries.octets,
        queries.length,
        queries.right,
        np.zeros((BATCH, libc.MSGHDR_WORDS), np.uint64),
        np.zeros((BATCH, 2), np.uint64),
        np.zeros((BATCH, libc.MSGHDR_WORDS), np.uint64),
        np.zeros((BATCH, REPLY_BYTES), np.uint8),
        np.array([(fd, libc.POLLIN) for fd in fds], np.int32),
        np.zeros(len(fds), np.uint64),
        np.zeros(5, np.uint64),
        np.zeros(_SLOTS, np.uint64),
        np.zeros(2, np.int64),
    )
    g.at[:] = [a.ctypes.data for a in (g.tx_header, g.rx_header, g.octets, g.poll, g.clock)]
    return g


class Receiving:
    """Structs for receiving, kept alive beside the generator."""

    def __init__(self, g: Generator) -> None:
        self.vector = np.zeros((BATCH, 2), np.uint64)
        for i in range(BATCH):
            self.vector[i] = (g.rx[i].ctypes.data, REPLY_BYTES)
            g.rx_header[i, libc.WORD_IOV] = self.vector[i].ctypes.data
            g.rx_header[i, libc.WORD_IOVLEN] = 1
            g.tx_header[i, libc.WORD_IOV] = g.tx_vector[i].ctypes.data
            g.tx_header[i, libc.WORD_IOVLEN] = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the generator saw."""

    seconds: float
    sent: int
    good: int
    wrong: int
    stalls: int

    @property
    def qps(self) -> float:
        """Right answers a second."""
        return self.good / self.seconds


def drive(
    address: tuple[str, int],
    queries: Queries,
    seconds: float,
    window: int,
    sockets: int = SOCKETS,
) -> Run:
    """Load one server for a while with `window` queries outstanding in all."""
    with ExitStack() as stack:
        fds = [_connected(stack, address) for _ in range(sockets)]
        g = generator(queries, fds)
        structs = Receiving(g)
        began_ns = time.monotonic_ns()
        generate(g, np.uint64(max(window // sockets, 1)), began_ns + int(seconds * 1e9))
        spent_s = (time.monotonic_ns() - began_ns) / 1e9
        del structs
    sent, good, wrong, stalls = (int(n) for n in g.words[:4])
    return Run(spent_s, sent, good, wrong, stalls)


def _connected(stack: ExitStack, address: tuple[str, int]) -> int:
    one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    one.connect(address)
    return one.fileno()


def queries_of(names: list[bytes], subnets: list[bytes], expected: NDArray[np.uint16]) -> Queries:
    """A queries for wire names with client subnets (option data) and a DNS cookie each."""
    rng = np.random.default_rng(11)
    count = len(names)
    octets = np.zeros((count, SLOT_BYTES), np.uint8)
    length = np.zeros(count, np.uint64)
    for i, (name, subnet) in enumerate(zip(names, subnets, strict=True)):
        options = struct.pack("!HH", 8, len(subnet)) + subnet if subnet else b""
        options += struct.pack("!HH", 10, 8) + rng.bytes(8)
        opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(options)) + options
        head = struct.pack("!6H", i & 0xFFFF, 0, 1, 0, 0, 1)
        packet = head + name + struct.pack("!HH", 1, 1) + opt
        octets[i, : len(packet)] = np.frombuffer(packet, np.uint8)
        length[i] = len(packet)
    return Queries(octets, length, expected)
