"""`popsteer serve`: one node and its workers as processes.

With one worker everything runs in this process. With several, the parent polls and checks, and
the children answer; they meet over a pipe each. The parent holds the sockets, so a child that
dies finds its queries waiting when it is back.
"""

import asyncio
import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import uvloop
from prometheus_client import REGISTRY

from popsteer.clock import now_ms
from popsteer.config import Config
from popsteer.heartbeat import Ages
from popsteer.memory import keep_little
from popsteer.telemetry import configure, logger, serve_metrics
from resolver.cookies import CookieSecret
from resolver.counts import NodeMetrics
from resolver.node import Node, cookie_secret, lane
from resolver.sockets import Bound, bind
from resolver.worker import Report, Update, Worker

RESTART_S = 1.0
"""A child that dies is started again after this long."""
STOP_S = 3.0
"""A child that does not end in this time is killed."""


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ConfigError: a zone, table, key or address cannot be used.
        SetupError: a port or folder cannot be had.
    """
    configure("resolver")
    keep_little()
    # Asked to reload before there is anything to reload: the start reads the files anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    secret = cookie_secret(config)
    sockets = bind(config.dns.addresses, config.dns.workers)
    try:
        main = _alone if config.dns.workers == 1 else _with_children
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(config, sockets, secret))
    finally:
        for one in (one for worker in sockets for one in worker):
            one.close()


async def _alone(config: Config, sockets: list[list[Bound]], secret: CookieSecret) -> None:
    worker = Worker(config, sockets[0], secret, lane(config, 0))
    node = Node(config, worker.update)
    _open_metrics(config, node)
    node.tell()
    await worker.start()
    _say_ready(sockets)
    try:
        await _until_stopped(
            node, node.run(), _report(worker, config.dns.demand_period_s, node.take)
        )
    finally:
        await worker.stop()


def _say_ready(sockets: list[list[Bound]]) -> None:
    listen = [_address(one) for one in sockets[0]]
    logger().info("ready", listen=listen, workers=len(sockets))


def _address(bound: Bound) -> str:
    host, port, *_ = bound.udp.getsockname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _open_metrics(config: Config, node: Node) -> None:
    REGISTRY.register(NodeMetrics(node.counts, node.refusals.counts, node.gauges, node.rung))
    REGISTRY.register(Ages(node.newest, now_ms))
    if node.sink is not None:
        # Both need boto3, which a node that stands alone does without.
        from popsteer import vitals
        from popsteer.sink_metrics import SinkCollector

        REGISTRY.register(SinkCollector(node.sink))
        vitals.tell(config)
    serve_metrics(config.telemetry.metrics)


async def _until_stopped(node: Node | None, *loops: Coroutine[Any, Any, None]) -> None:
    """Run the loops until a signal asks to stop; SIGHUP reloads the zones."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if node is not None:
        loop.add_signal_handler(signal.SIGHUP, node.reload_zones)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(one) for one in loops]
        await stopped.wait()
        for task in running:
            task.cancel()


async def _report(worker: Worker, demand_period_s: float, tell: Callable[[Report], None]) -> None:
    """Counts every second, demand every period, and both at the end."""
    waited_s = 0.0
    try:
        while True:
            await asyncio.sleep(min(1.0, demand_period_s))
            waited_s += min(1.0, demand_period_s)
            with_demand = waited_s >= demand_period_s
            waited_s = 0.0 if with_demand else waited_s
            tell(worker.report(with_demand))
    finally:
        tell(worker.report(with_demand=True))


@dataclass(slots=True)
class _Child:
    """A worker process and the pipe to it."""

    process: SpawnProcess
    pipe: Connection
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)


class _Children:
    """The worker processes of a node."""

    def __init__(self, config: Config, sockets: list[list[Bound]], secret: CookieSecret) -> None:
        self._config = config
        self._sockets = sockets
        self._secret = secret
        self._children: dict[int, _Child] = {}
        self._pending: set[asyncio.Task[None]] = set()

    def publish(self, update: Update) -> None:
        """To every child, without holding up this loop while a large table is on its way."""
        for child in self._children.values():
            task = asyncio.create_task(self._send(child, update))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _send(self, child: _Child, update: Update) -> None:
        async with child.sending:
            with contextlib.suppress(OSError):  # it died: its successor is told everything
                await asyncio.to_thread(child.pipe.send, update)

    async def keep(self, index: int, node: Node) -> None:
        """Run one child, again whenever it dies."""
        try:
            while True:
                child = self._start(index)
                await self._send(child, node.update())
                await self._listen(child, node)
                logger().error("worker died", worker=index, code=child.process.exitcode)
                await asyncio.sleep(RESTART_S)
        finally:
            child = self._children[index]
            child.process.terminate()
            await asyncio.to_thread(child.process.join, STOP_S)
            if child.process.is_alive():
                child.process.kill()

    def _start(self, index: int) -> _Child:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_child_main,
            args=(self._config, self._sockets[index], self._secret, index, theirs),
            name=f"popsteer-dns-{index}",
            daemon=True,
        )
        process.start()
        theirs.close()
        child = self._children[index] = _Child(process, ours)
        return child

    async def _listen(self, child: _Child, node: Node) -> None:
        """Take its reports until it ends."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                node.take(await _received(child.pipe))
        await asyncio.to_thread(child.process.join, STOP_S)


async def _with_children(config: Config, sockets: list[list[Bound]], secret: CookieSecret) -> None:
    # Zones are read here once too, so that a bad one is said before any child starts.
    Worker(config, [], secret, lane(config, 0))
    children = _Children(config, sockets, secret)
    node = Node(config, children.publish)
    _open_metrics(config, node)
    _say_ready(sockets)
    await _until_stopped(
        node,
        node.run(),
        *(children.keep(index, node) for index in range(config.dns.workers)),
    )


def _child_main(
    config: Config, sockets: list[Bound], secret: CookieSecret, index: int, pipe: Connection
) -> None:
    configure("resolver")
    keep_little()
    # A terminal sends it to the whole group; the parent tells us to reload.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_answer(config, sockets, secret, index, pipe))


async def _answer(
    config: Config, sockets: list[Bound], secret: CookieSecret, index: int, pipe: Connection
) -> None:
    """A child: answer until the parent ends it or goes away."""
    worker = Worker(config, sockets, secret, lane(config, index))
    worker.update(await _received(pipe))
    await worker.start()
    try:
        await _until_stopped(
            None,
            _follow(worker, pipe),
            _report(worker, config.dns.demand_period_s, pipe.send),
        )
    finally:
        await worker.stop()


async def _follow(worker: Worker, pipe: Connection) -> None:
    with contextlib.suppress(EOFError):
        while True:
            worker.update(await _received(pipe))
    # Without the parent nobody checks POPs or polls tables: end with it.
    signal.raise_signal(signal.SIGTERM)


async def _received(pipe: Connection) -> Any:
    """The next message of a pipe.

    Raises:
        EOFError: the other end is closed.
    """
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pipe.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(pipe.fileno())
    return pipe.recv()
