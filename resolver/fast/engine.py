"""The rim of the compiled path: threads, wake-ups, what waits for the slow path, counts.

Owns one loop for each UDP socket and swaps what the loops read: it builds the new arrays aside,
then makes each loop return between two batches and enter again. It never answers by itself, and
until the machine code is ready it leaves the sockets to the slow path.
"""

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from popsteer.table import POPS_MAX
from popsteer.telemetry import logger
from resolver.fast import libc
from resolver.fast.batch import AT_POLL, CONTROL_BYTES, MERGES, RX_BYTES, Batch, batch
from resolver.fast.book import Book
from resolver.fast.count import Counted, counts, take
from resolver.fast.serve import (
    CLOSED,
    DROPPED,
    FD,
    HELD,
    RCODES,
    SLOW_FD,
    SLOW_FULL,
    SLOW_HEAD,
    SLOW_SLOTS,
    SLOW_TAIL,
    STOP,
    Loop,
    Routes,
    Settings,
    serve,
)
from resolver.fast.taken import Taken
from resolver.wire import Rcode

POP_SLOTS = 2 * POPS_MAX
"""The table's POPs and those that only the configuration names."""
HANDSHAKE_S = 0.25
"""How long a reader of counts waits for a loop to change tables; else it asks again later."""
STOP_S = 2.0
_LULL_US = 10_000
"""With no packet for so long the loop sleeps until one comes."""
_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1_000
"""By itself the system makes a nap of 50 us one of up to 100."""
_CMSG_HEAD = struct.Struct("=QII")

SlowQuery = Callable[[bytes, list[tuple[int, int, bytes]], tuple[Any, ...]], None]
"""Answers one query by the slow path: its octets, ancillary data, and the client."""


Demand = tuple[tuple[str, ...], Counted]
"""What a table of counts held, and the POPs that its numbers mean."""


@dataclass(frozen=True, slots=True)
class World:
    """All that loops read; swapped whole."""

    book: Book
    routes: Routes
    settings: Settings
    pops: tuple[str, ...]
    """What POP numbers mean."""


def loop_memory(seed: int) -> Loop:
    """The memory that one loop shares with Python."""
    return Loop(
        np.zeros(8, np.int64),
        np.zeros(8, np.uint64),
        np.zeros(RCODES, np.uint64),
        np.zeros(POP_SLOTS, np.uint64),
        np.zeros(3, np.int64),
        np.array([seed], np.uint64),
        np.zeros((SLOW_SLOTS, RX_BYTES), np.uint8),
        np.zeros(SLOW_SLOTS, np.int64),
        np.zeros((SLOW_SLOTS, libc.SOCKADDR_BYTES), np.uint8),
        np.zeros((SLOW_SLOTS, CONTROL_BYTES), np.uint8),
    )


class SocketLoop:
    """The compiled loop on one socket, in a thread of its own."""

    def __init__(self, bound: socket.socket, slow: SlowQuery, seed: int) -> None:
        self._socket = bound
        self._slow = slow
        self._memory: Batch
        self._memory, self._kept = batch()
        self.loop = loop_memory(seed)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.slow_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._set_up()
        self._world: World | None = None
        self._spare = counts()
        self._active = counts()
        self._active_pops: tuple[str, ...] = ()
        self._retired_pops: tuple[str, ...] = ()
        self._earlier: list[Demand] = []
        self._retired = threading.Event()
        self._swap_counts = False
        self._ending = False
        self._lock = threading.Lock()
        self._counted = Taken()
        self._thread = threading.Thread(target=self._run, name="dns-fast", daemon=True)

    def _set_up(self) -> None:
        fd = self._socket.fileno()
        # Under load a system call less for each batch: wait in the one that receives. Whoever
        # else uses the socket says with each call that it does not wait.
        moment = struct.pack("@ll", 0, _LULL_US)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, moment)
        os.set_blocking(fd, True)
        self._merges = _can_segment(self._socket)
        self.loop.control[FD] = fd
        self.loop.control[SLOW_FD] = self.slow_fd
        pollers = (fd, libc.POLLIN), (self._wake_fd, libc.POLLIN), (fd, libc.POLLOUT)
        for i, (one, events) in enumerate(pollers):
            self._memory.poll[2 * i : 2 * i + 2] = one, events
        assert int(self._memory.at[AT_POLL]) == self._memory.poll.ctypes.data

    def start(self, world: World) -> None:
        """Answer from now on."""
        self._world = world
        self._thread.start()

    def enter(self, world: World) -> None:
        """Answer from this world, as soon as the batch at hand is done."""
        self._world = world
        self._interrupt()

    def stop(self) -> None:
        """End after the batch at hand; what waits for the slow path is answered."""
        self._ending = True
        self._interrupt()
        self._thread.join(STOP_S)
        self.answer_slowly()

    def close(self) -> None:
        """Give the event descriptors back."""
        os.close(self._wake_fd)
        os.close(self.slow_fd)

    def _interrupt(self) -> None:
        self.loop.control[STOP] = 1
        os.eventfd_write(self._wake_fd, 1)

    def _ended_after_clearing(self) -> bool:
        """Clear the signal first and look then: what changes later stops the loop again."""
        self.loop.control[STOP] = 0
        _drain(self._wake_fd)
        return self._ending

    def _run(self) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS)
        while not self._ended_after_clearing():
            world = self._world
            assert world is not None
            self._change_counts(world.pops)
            self._memory.made[MERGES] = self._merges
            ended = serve(
                self._memory, world.book, world.routes, world.settings, self._active, self.loop
            )
            self._harvest(world.pops)
            if ended == CLOSED:
                logger().error("the socket of the compiled path is gone")
                return

    def _change_counts(self, pops: tuple[str, ...]) -> None:
        """Hand the demand over if it is asked for, or if POPs get other numbers."""
        if self._swap_counts:
            self._active, self._spare = self._spare, self._active
            self._retired_pops = self._active_pops
            self._swap_counts = False
            self._retired.set()
        elif pops != self._active_pops:
            with self._lock:
                self._earlier.append((self._active_pops, take(self._active)))
        self._active_pops = pops

    def _harvest(self, pops: tuple[str, ...]) -> None:
        """Add up what the loop counted under the numbers of this world; the loop stands still."""
        loop = self.loop
        with self._lock:
            for number in np.flatnonzero(loop.pop).tolist():
                self._counted.pops[pops[number]] += int(loop.pop[number])
            for code in np.flatnonzero(loop.rcode).tolist():
                self._counted.rcodes[_rcode_name(code)] += int(loop.rcode[code])
            self._counted.dropped += int(loop.seen[[DROPPED, SLOW_FULL, HELD]].sum())
            loop.pop[:] = 0
            loop.rcode[:] = 0
            loop.seen[:] = 0

    def counted(self) -> Taken:
        """Counts up to the last time that the loop stood still, since they were last taken."""
        self._interrupt()
        with self._lock:
            counted, self._counted = self._counted, Taken()
        return counted

    def demand(self) -> list[Demand]:
        """Demand since the last time; less when the loop did not stand still in time.

        The loop goes on with an empty table, so that nothing is read while it is written.
        """
        with self._lock:
            found, self._earlier = self._earlier, []
        if not self._thread.is_alive():
            return [*found, (self._active_pops, take(self._active))]
        self._retired.clear()
        self._swap_counts = True
        self._interrupt()
        if self._retired.wait(HANDSHAKE_S):
            found.append((self._retired_pops, take(self._spare)))
        return found

    def answer_slowly(self) -> None:
        """Answer what the loop handed on; for the thread of the event loop."""
        _drain(self.slow_fd)
        control = self.loop.control
        while control[SLOW_TAIL] < control[SLOW_HEAD]:
            slot = int(control[SLOW_TAIL]) % SLOW_SLOTS
            data = self.loop.slow[slot, : self.loop.slow_length[slot]].tobytes()
            client = _client(self.loop.slow_address[slot].tobytes())
            ancillary = _ancillary(self.loop.slow_control[slot].tobytes())
            control[SLOW_TAIL] += 1  # the slot is copied: the loop may write it again
            self._slow(data, ancillary, client)


def warm(world: World) -> None:
    """Load the loop's machine code, or compile it where it is not on the disk."""
    memory, _kept = batch(1)
    loop = loop_memory(0)
    loop.control[STOP] = 1
    serve(memory, world.book, world.routes, world.settings, counts(), loop)


def _can_segment(one: socket.socket) -> bool:
    """Whether the system knows UDP_SEGMENT: one that does not would send all as one datagram."""
    try:
        one.setsockopt(libc.SOL_UDP, libc.UDP_SEGMENT, 0)
    except OSError:
        return False
    return True


def _drain(event_fd: int) -> None:
    try:
        os.eventfd_read(event_fd)
    except BlockingIOError:
        return


def _rcode_name(code: int) -> str:
    return Rcode(code).name


def _client(sockaddr: bytes) -> tuple[Any, ...]:
    """What `recvmsg` would give as the address."""
    (port,) = struct.unpack_from("!H", sockaddr, 2)
    if sockaddr[0] != libc.AF_INET6:
        return socket.inet_ntoa(sockaddr[4:8]), port
    (flow,) = struct.unpack_from("!I", sockaddr, 4)
    (scope,) = struct.unpack_from("=I", sockaddr, 24)
    return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24]), port, flow, scope


def _ancillary(control: bytes) -> list[tuple[int, int, bytes]]:
    """The one item that the sockets ask for: which address the query came to."""
    size, level, kind = _CMSG_HEAD.unpack_from(control)
    if size <= _CMSG_HEAD.size:
        return []
    return [(level, kind, control[_CMSG_HEAD.size : size])]
