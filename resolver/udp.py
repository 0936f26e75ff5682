"""DNS over UDP: read what waits, answer, send; from the address that was asked.

One socket bound to every address would else answer from the one that the kernel likes best, and
the client would throw the answer away.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

BATCH_MAX = 64
"""Datagrams read at one go, so that TCP and timers get their turn under a flood."""
DATAGRAM_BYTES_MAX = 4_096
"""A query is never longer; what is cut off here is malformed anyway."""
_ANCILLARY_BYTES = 64
_PKTINFO = {(socket.IPPROTO_IP, 8), (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO)}

Respond = Callable[[bytes, tuple[Any, ...]], bytes | None]


class UdpListener:
    """One UDP socket in the event loop."""

    def __init__(self, bound: socket.socket, respond: Respond) -> None:
        self.socket = bound
        self._respond = respond

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer from now on."""
        loop.add_reader(self.socket.fileno(), self._readable)

    def pause(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leave the socket to another reader, which may hand queries on to `answer`."""
        loop.remove_reader(self.socket.fileno())

    def stop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Answer what has arrived and nothing more."""
        loop.remove_reader(self.socket.fileno())
        self._readable()

    def _readable(self) -> None:
        for _ in range(BATCH_MAX):
            try:
                data, ancillary, _, client = self.socket.recvmsg(
                    DATAGRAM_BYTES_MAX, _ANCILLARY_BYTES, socket.MSG_DONTWAIT
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of an earlier answer: not this datagram's affair
            self.answer(data, ancillary, client)

    def answer(
        self, data: bytes, ancillary: list[tuple[int, int, bytes]], client: tuple[Any, ...]
    ) -> None:
        """Answer one datagram, wherever it was read."""
        wire = self._respond(data, client)
        if wire is not None:
            self._send(wire, ancillary, client)

    def _send(
        self, wire: bytes, ancillary: list[tuple[int, int, bytes]], client: tuple[Any, ...]
    ) -> None:
        source = [_from(item) for item in ancillary if item[:2] in _PKTINFO]
        try:
            self.socket.sendmsg([wire], source, socket.MSG_DONTWAIT, client)
        except OSError:
            return  # the client's path is broken or our buffer is full: it will ask again


def _from(item: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """The packet-info of an answer: the same address, whichever interface leads to the client."""
    level, kind, data = item
    if level == socket.IPPROTO_IP:
        # struct in_pktinfo: interface, the address that was asked, the header's destination.
        return level, kind, bytes(4) + data[4:8] + bytes(4)
    return level, kind, data[:16] + bytes(4)
