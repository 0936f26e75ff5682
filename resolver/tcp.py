"""DNS over TCP (RFC 7766): pipelined, with limits that no client can turn against the others.

A message must arrive whole, and an answer must be taken, within `TCP_IDLE_S`. When connections
run out the one that was idle longest makes room, of the same client first: new clients are always
served, and who holds connections open without a word loses them.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from resolver.answer import TCP_IDLE_S
from resolver.wire import HEADER_BYTES

CONNECTIONS_MAX = 1_000
CONNECTIONS_PER_CLIENT_MAX = 200
WRITE_BUFFER_BYTES = 128 * 1024
"""Beyond it a connection's answers wait until the client reads."""

Respond = Callable[[bytes, tuple[Any, ...]], Iterator[bytes]]
"""The messages of the response, made as they are taken: none, one, or those of a transfer."""


@dataclass(eq=False, slots=True)
class _Connection:
    client: str
    writer: asyncio.StreamWriter
    active_s: float
    """When it last brought a whole message."""


@dataclass(slots=True)
class TcpListener:
    """The TCP sockets of one worker and all their connections."""

    respond: Respond
    evicted: Callable[[], None]
    idle_s: float = TCP_IDLE_S
    connections_max: int = CONNECTIONS_MAX
    per_client_max: int = CONNECTIONS_PER_CLIENT_MAX
    _servers: list[asyncio.Server] = field(default_factory=list)
    _open: dict[_Connection, asyncio.Task[None]] = field(default_factory=dict)

    async def start(self, bound: list[socket.socket]) -> None:
        """Accept from now on."""
        for one in bound:
            self._servers.append(await asyncio.start_server(self._accept, sock=one))

    async def stop(self) -> None:
        """Accept no more, close what is open."""
        for server in self._servers:
            server.close()
        for connection in list(self._open):
            connection.writer.transport.abort()
        tasks = list(self._open.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        task = asyncio.current_task()
        if peer is None or task is None:  # gone already
            writer.transport.abort()
            return
        self._make_room(peer[0])
        now_s = asyncio.get_running_loop().time()
        connection = _Connection(peer[0], writer, now_s)
        self._open[connection] = task
        writer.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                await self._converse(connection, reader, peer)
        finally:
            await self._close(connection)

    async def _close(self, connection: _Connection) -> None:
        """Give the client a while to take what is written; it still counts as a connection."""
        transport = connection.writer.transport
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self.idle_s):
                    if not transport.is_closing():
                        transport.set_write_buffer_limits(0)
                        await connection.writer.drain()
        finally:
            del self._open[connection]
            transport.abort()

    def _make_room(self, client: str) -> None:
        theirs = [c for c in self._open if c.client == client]
        for group, most in ((theirs, self.per_client_max), (self._open, self.connections_max)):
            if len(group) >= most:
                idlest = min(group, key=lambda connection: connection.active_s)
                idlest.writer.transport.abort()
                self.evicted()

    async def _converse(
        self, connection: _Connection, reader: asyncio.StreamReader, peer: tuple[Any, ...]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with asyncio.timeout(self.idle_s):
                size = int.from_bytes(await reader.readexactly(2), "big")
                if size < HEADER_BYTES:
                    return
                data = await reader.readexactly(size)
            connection.active_s = loop.time()
            for wire in self.respond(data, peer):
                connection.writer.write(len(wire).to_bytes(2, "big") + wire)
                async with asyncio.timeout(self.idle_s):
                    await connection.writer.drain()
                connection.active_s = loop.time()
                # What is buffered is read without a pause: let the others have their turn.
                await asyncio.sleep(0)
