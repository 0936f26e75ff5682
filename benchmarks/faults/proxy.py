"""A proxy between popsteer and its AWS, through which every fault of the network enters.

It owns one port and takes connections apart only as far as it must: a connection of HTTP/1.1
belongs to one service (each client of ours has connections of its own), and its requests are told
by their head; one of HTTP/2 by prior knowledge is the KCL reading Kinesis, and opaque. It never
changes what passes.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self, TypeAlias, TypeVar

PREFACE = b"PRI * HTTP/2.0\r\n\r\n"
"""RFC 9113 section 3.4; its last eight bytes follow as a matter of course."""
CHUNK_BYTES = 1 << 16
HEAD_BYTES_MAX = 1 << 17

T = TypeVar("T")


class Service(StrEnum):
    """Whose connection it is."""

    KINESIS = "kinesis"
    DYNAMODB = "dynamodb"
    S3 = "s3"


@dataclass(frozen=True, slots=True)
class Call:
    """One request of HTTP/1.1."""

    service: Service
    operation: str
    """As in X-Amz-Target; of S3 the method and the path."""
    body_bytes: int
    waits: bool
    """The caller sends its body only when told to (RFC 9110 section 10.1.1)."""


Matches: TypeAlias = Callable[[Call], bool]


@dataclass(frozen=True, slots=True)
class Refused:
    """Connections are reset, the open ones too."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """Nothing passes in either direction; connections stay."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Matching calls are not passed on but answered with this error."""

    status: int
    body: bytes
    matches: Matches = lambda _: True


@dataclass(frozen=True, slots=True)
class Lost:
    """Matching calls are carried out, and the connection ends before their answer."""

    matches: Matches
    before: Callable[[], None] = lambda: None
    """Called in between: carried out, not answered."""


Fault: TypeAlias = Refused | Frozen | Answered | Lost
Upstream: TypeAlias = Callable[[Service], tuple[str, int]]


@dataclass(eq=False, slots=True)
class _Connection:
    """One client's connection and ours on its behalf."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    service: Service | None = None
    up: asyncio.StreamWriter | None = None
    losing: Lost | None = None
    """The call under way must not be answered."""

    def abort(self) -> None:
        for one in (self.writer, self.up):
            if one is not None:
                one.transport.abort()


@dataclass(eq=False)
class Proxy:
    """The proxy, on an event loop in a thread of its own; ends with the `with` block."""

    upstream: Upstream
    """Where each service is now: it may move."""
    port: int = 0
    """0 until it listens, then its own for good."""
    _faults: dict[Service, Fault] = field(default_factory=dict)
    _open: set[_Connection] = field(default_factory=set)
    _thawed: dict[Service, asyncio.Event] = field(default_factory=dict)
    _server: asyncio.Server | None = None
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def endpoint(self) -> str:
        """Its address as an AWS endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        """Take connections (again)."""
        self._do(self._listen())

    def close_port(self) -> None:
        """Refuse new connections and reset the open ones: nobody is there."""
        self._do(self._close_port())

    def set(self, service: Service, fault: Fault) -> None:
        """From now on this happens to the service."""
        self._do(self._set(service, fault))

    def heal(self, service: Service) -> None:
        """Let everything pass again."""
        self._do(self._set(service, None))

    @contextlib.contextmanager
    def broken(self, service: Service, fault: Fault) -> Iterator[None]:
        """A fault for as long as the block lasts."""
        self.set(service, fault)
        try:
            yield
        finally:
            self.heal(service)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, limit=HEAD_BYTES_MAX
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._abort(None)

    async def _end(self) -> None:
        await self._close_port()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _set(self, service: Service, fault: Fault | None) -> None:
        thawed = self._thawed.setdefault(service, asyncio.Event())
        self._faults.pop(service, None)
        thawed.set()
        if fault is not None:
            self._faults[service] = fault
        if isinstance(fault, Frozen):
            thawed.clear()
        if isinstance(fault, Refused):
            self._abort(service)

    def _abort(self, service: Service | None) -> None:
        for connection in list(self._open):
            if service is None or connection.service == service:
                connection.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(reader, writer)
        self._open.add(connection)
        try:
            await self._carry(connection)
        except* (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one of the two sides has gone, which the other learns by our abort
        finally:
            self._open.discard(connection)
            connection.abort()

    async def _carry(self, connection: _Connection) -> None:
        head = await connection.reader.readuntil(b"\r\n\r\n")
        connection.service = Service.KINESIS if head == PREFACE else call_of(head).service
        async with asyncio.TaskGroup() as tasks:
            up = await self._connect(connection, tasks)
            if head == PREFACE:
                up.write(head)
                await self._pump(connection.reader, connection, up)
            else:
                await self._requests(connection, head, up)
            connection.abort()

    async def _connect(
        self, connection: _Connection, tasks: asyncio.TaskGroup
    ) -> asyncio.StreamWriter:
        assert connection.service is not None
        await self._pass(connection)
        up_reader, up = await asyncio.open_connection(*self.upstream(connection.service))
        connection.up = up
        tasks.create_task(self._answers(up_reader, connection))
        return up

    async def _pass(self, connection: _Connection) -> None:
        """Wait out a freeze; end the connection when it is refused."""
        assert connection.service is not None
        while isinstance(fault := self._faults.get(connection.service), Frozen):
            await self._thawed[connection.service].wait()
        if isinstance(fault, Refused):
            raise ConnectionResetError

    async def _pump(
        self,
        source: asyncio.StreamReader,
        connection: _Connection,
        sink: asyncio.StreamWriter,
    ) -> None:
        while data := await source.read(CHUNK_BYTES):
            await self._pass(connection)
            sink.write(data)
            await sink.drain()

    async def _answers(self, up_reader: asyncio.StreamReader, connection: _Connection) -> None:
        try:
            while data := await up_reader.read(CHUNK_BYTES):
                losing = connection.losing
                if losing is not None and not data.startswith(b"HTTP/1.1 100"):
                    losing.before()
                    break
                await self._pass(connection)
                connection.writer.write(data)
                await connection.writer.drain()
        except OSError:
            pass  # as in `_serve`
        connection.abort()

    async def _requests(
        self, connection: _Connection, head: bytes, up: asyncio.StreamWriter
    ) -> None:
        while True:
            call = call_of(head)
            await self._pass(connection)
            fault = self._faults.get(call.service)
            if isinstance(fault, Answered) and fault.matches(call):
                await _answer(connection, call, fault)
                return
            lost = isinstance(fault, Lost) and fault.matches(call)
            connection.losing = fault if lost and isinstance(fault, Lost) else None
            up.write(head)
            left = call.body_bytes
            while left:
                data = await connection.reader.read(min(left, CHUNK_BYTES))
                if not data:
                    return
                left -= len(data)
                await self._pass(connection)
                up.write(data)
                await up.drain()
            head = await connection.reader.readuntil(b"\r\n\r\n")


async def _answer(connection: _Connection, call: Call, fault: Answered) -> None:
    if not call.waits:
        await connection.reader.readexactly(call.body_bytes)
    kind = "application/xml" if call.service == Service.S3 else "application/x-amz-json-1.0"
    connection.writer.write(
        f"HTTP/1.1 {fault.status} Fault\r\nContent-Type: {kind}\r\nConnection: close\r\n"
        f"Content-Length: {len(fault.body)}\r\n\r\n".encode()
        + fault.body
    )
    await connection.writer.drain()
    connection.writer.close()
    await connection.writer.wait_closed()


def call_of(head: bytes) -> Call:
    """What the head of a request (RFC 9112) tells."""
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = lines[0].split(" ", 2)
    pairs = (line.partition(":") for line in lines[1:] if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    target = re.match(r"(Kinesis|DynamoDB)_\d+\.(\w+)", headers.get("x-amz-target", ""))
    return Call(
        Service(target[1].lower()) if target else Service.S3,
        target[2] if target else f"{method} {path}",
        int(headers.get("content-length", 0)),
        headers.get("expect", "") == "100-continue",
    )
