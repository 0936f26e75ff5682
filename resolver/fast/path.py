"""The compiled answer path of one worker: takes snapshots, runs a loop on each UDP socket.

The seam to the rest of the server: `offer` a snapshot whenever it changes, `take` what was
counted. Building is done by one thread, so that neither answers nor the event loop wait for it;
when several snapshots come meanwhile the last one counts. That thread also imports numba, which
takes longer than everything else at a start: the slow path answers long before.
"""

import asyncio
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from secrets import randbits
from typing import TYPE_CHECKING

import numpy as np

from popsteer.batch import Batcher
from popsteer.memory import give_back
from popsteer.names import Prefix, SourceId
from popsteer.samples import Batch, Kind
from popsteer.telemetry import logger
from resolver.fast.taken import Taken
from resolver.snapshot import Snapshot
from resolver.udp import UdpListener

if TYPE_CHECKING:
    from resolver.fast.builder import Builder
    from resolver.fast.engine import SocketLoop, World

SEED_BITS = 63


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits of the response rate."""

    per_s: float
    """For each network and class of response; 0 is off."""
    exempt: Sequence[Prefix] = ()


class FastPath:
    """Off until `start`, on as soon as the machine code is ready."""

    def __init__(
        self,
        listeners: Sequence[UdpListener],
        bits: Mapping[str, float],
        rates: Rates,
    ) -> None:
        """Take the sockets of some listeners over, later.

        Args:
            listeners: Who answers on the sockets until then, and slow queries always.
            bits: Traffic that one answer brings, by service.
            rates: What a network may ask for.
        """
        self._listeners = listeners
        self._bits = bits
        self._rates = rates
        self._loops: list[SocketLoop] = []
        self._wanted: Snapshot | None = None
        self._world: World | None = None
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
                used = np.flatnonzero(np.bincount(found.pop))
                batcher = Batcher(Kind.DEMAND, source, [pops[number] for number in used.tolist()])
                subject = np.searchsorted(used, found.pop).astype(np.uint16)
                times = np.full(len(found.net), now_ms, np.int64)
                bits = found.bits.astype(np.float32)
                batcher.extend(times, found.net, found.plen, subject, found.queries, bits)
                batches += batcher.take(now_ms, flush=True)
        return batches

    def _build(self) -> None:
        """The builder's thread."""
        from resolver.fast.builder import Builder
        from resolver.fast.compile import ensure_compiled

        ensure_compiled()
        builder = Builder(self._bits, self._rates.per_s, self._rates.exempt)
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._ending:
                return
            snapshot = self._wanted
            assert snapshot is not None
            if snapshot.table is None or snapshot.index is not None:
                self._renew(builder, snapshot)
            del snapshot
            give_back()

    def _renew(self, builder: "Builder", snapshot: Snapshot) -> None:
        try:
            world = builder.world_of(snapshot)
        except Exception:
            # A fault of ours must not end this thread: the next snapshot may be built again.
            logger().exception("compiled answer path not renewed; it answers as before")
            return
        if world is not self._world:
            self._enter(world)

    def _enter(self, world: "World") -> None:
        from resolver.fast.engine import warm

        first, self._world = self._world is None, world
        if not first:
            for loop in self._loops:
                loop.enter(world)
            return
        warm(world)
        give_back()
        logger().info("compiled answer path ready")
        if self._event_loop is not None and not self._ending:
            self._event_loop.call_soon_threadsafe(self._take_over)

    def _take_over(self) -> None:
        """In the event loop: from now on the sockets are the compiled loops'."""
        if self._ending or self._world is None or self._event_loop is None:
            return
        from resolver.fast.engine import SocketLoop

        for listener in self._listeners:
            listener.pause(self._event_loop)
            loop = SocketLoop(listener.socket, listener.answer, randbits(SEED_BITS))
            self._event_loop.add_reader(loop.slow_fd, loop.answer_slowly)
            loop.start(self._world)
            self._loops.append(loop)
