"""The compiled answer path of one worker: takes snapshots, runs a loop on each UDP socket.

The seam to the rest of the server: `offer` a snapshot whenever it changes, `take` what was
counted. Building is done by one thread, so that neither answers nor the event loop wait for it;
when several snapshots come meanwhile the last one counts.
"""

import asyncio
import ctypes
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import randbits

import numpy as np
import pyarrow as pa

from popsteer.batch import Batcher
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind
from popsteer.telemetry import logger
from resolver.cookies import ROTATION_S
from resolver.fast import book as books
from resolver.fast.engine import SocketLoop, Taken, World, is_warm, warm
from resolver.fast.limit import Limits
from resolver.fast.load import Ranked, Services, ranked_of, routes_of, services_of, settings_of
from resolver.snapshot import Snapshot
from resolver.udp import UdpListener

SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class Built:
    """A world, what it was built from, and the parts that the next one may keep."""

    snapshot: Snapshot
    day: int
    services: Services
    ranked: Ranked
    world: World


class FastPath:
    """Off until `start`, on as soon as the machine code is ready."""

    def __init__(
        self,
        listeners: Sequence[UdpListener],
        bits: Mapping[str, float],
        limited: Limits,
        folder: Path,
    ) -> None:
        """Take the sockets of some listeners over, later.

        Args:
            listeners: Who answers on the sockets until then, and slow queries always.
            bits: Traffic that one answer brings, by service.
            limited: Buckets of the response rate.
            folder: Where compiled indexes of tables are kept for all workers.
        """
        self._listeners = listeners
        self._bits = bits
        self._limits = limited
        self._folder = folder
        self._loops: list[SocketLoop] = []
        self._wanted: Snapshot | None = None
        self._built: Built | None = None
        self._changed = threading.Event()
        self._ending = False
        self._event_loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._build, name="dns-build", daemon=True)

    @property
    def running(self) -> bool:
        """Whether compiled loops answer."""
        return bool(self._loops)

    def start(self, event_loop: asyncio.AbstractEventLoop) -> None:
        """Build, then take the sockets over."""
        self._event_loop = event_loop
        self._thread.start()

    def offer(self, snapshot: Snapshot) -> None:
        """Answer from this snapshot soon."""
        self._wanted = snapshot
        self._changed.set()

    def stop(self) -> None:
        """Give the sockets back; what has arrived is the listeners' again."""
        self._ending = True
        self._changed.set()
        for loop in self._loops:
            assert self._event_loop is not None
            self._event_loop.remove_reader(loop.slow_fd)
            loop.stop()

    def counted(self) -> Taken:
        """Answers since the last time."""
        total = Taken()
        for loop in self._loops:
            total.add(loop.counted())
        return total

    def demand(self, source: SourceId, now_ms: int) -> list[Batch]:
        """Demand since the last time, as batches of one source."""
        batches: list[Batch] = []
        for pops, found in (one for loop in self._loops for one in loop.demand()):
            if len(found.net):
                batcher = Batcher(Kind.DEMAND, source, pops)
                times = np.full(len(found.net), now_ms, np.int64)
                bits = found.bits.astype(np.float32)
                batcher.extend(times, found.net, found.plen, found.pop, found.queries, bits)
                batches += batcher.take(now_ms, flush=True)
        return batches

    def _build(self) -> None:
        """The builder's thread."""
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._ending:
                return
            snapshot = self._wanted
            assert snapshot is not None
            try:
                built = self._next(snapshot)
            except Exception:
                # A fault of ours must not end this thread: the next snapshot may be built again.
                logger().exception("compiled answer path not renewed; it answers as before")
                continue
            if built is self._built:
                continue
            self._enter(built)
            del snapshot, built
            _give_back()

    def _next(self, snapshot: Snapshot) -> Built:
        """The world of a snapshot; parts whose sources did not change are kept."""
        now_s = int(time.time())
        day = now_s // ROTATION_S
        old = self._built
        if old is not None and old.day == day and _same(old.snapshot, snapshot):
            return old
        same_zones = old is not None and old.snapshot.zones is snapshot.zones
        if old is not None and same_zones:
            services, book = old.services, old.world.book
        else:
            services = services_of(snapshot, self._bits)
            minimal_any = snapshot.options.minimal_any
            book = books.build(snapshot.zones, minimal_any, services.number)
        if old is not None and old.snapshot.table is snapshot.table:
            ranked = old.ranked
        else:
            ranked = ranked_of(snapshot.table, self._folder)
        routes, pops = routes_of(snapshot, ranked, services)
        settings = settings_of(snapshot.options, self._limits, now_s)
        return Built(snapshot, day, services, ranked, World(book, routes, settings, tuple(pops)))

    def _enter(self, built: Built) -> None:
        first, self._built = self._built is None, built
        if not first:
            for loop in self._loops:
                loop.enter(built.world)
            return
        if not is_warm():
            logger().info("compiling the answer path; the slow path answers meanwhile")
        spent_s = warm(built.world)
        logger().info("compiled answer path ready", seconds=round(spent_s, 2))
        if self._event_loop is not None and not self._ending:
            self._event_loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        """In the event loop: from now on the sockets are the compiled loops'."""
        if self._ending or self._built is None or self._event_loop is None:
            return
        for listener in self._listeners:
            listener.pause(self._event_loop)
            loop = SocketLoop(listener.socket, listener.answer, randbits(SEED_BITS))
            self._event_loop.add_reader(loop.slow_fd, loop.answer_slowly)
            loop.start(self._built.world)
            self._loops.append(loop)


def _give_back() -> None:
    """Return what building took: a table of a million rows leaves hundreds of MB behind."""
    pa.default_memory_pool().release_unused()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc alone has it
        libc.malloc_trim(0)


def _same(old: Snapshot, new: Snapshot) -> bool:
    """Whether answers are the same; the rung is told by the slow path alone."""
    return (
        old.zones is new.zones
        and old.table is new.table
        and old.outlook == new.outlook
        and old.options == new.options
        and old.fleet is new.fleet
    )
