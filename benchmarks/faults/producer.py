"""`python -m benchmarks.faults.producer`: the real sink, offering known batches, told by lines.

Commands come as JSON lines on stdin, reports leave as JSON lines on stdout. The name of a batch is
told before the batch is offered, so whoever kills this process knows all that it may have sent.
Its lanes beat as an agent's do (`probes.heart`), which must change no count.
"""

import asyncio
import resource
import sys
from pathlib import Path
from typing import TypeAlias

import msgspec

from benchmarks.faults.world import EVERY, KINDS, LANES, ROWS_OF, SPREAD_MS, Name, batch
from popsteer.clock import now_ms
from popsteer.config import Aws
from popsteer.samples import Kind
from popsteer.sink import Sink, open_sink
from probes.heart import Heart

STATUS_PERIOD_S = 0.1
SPILL_BYTES_MAX = 256 * 1024 * 1024
DRAIN_S = 10.0


class Start(msgspec.Struct, frozen=True):
    """The first command."""

    aws: Aws
    folder: str
    seed: int
    run: int
    life: int
    writes: bool = True
    """False: the disk takes nothing any more, once the sink is open."""


class Offer(msgspec.Struct, frozen=True, tag=True):
    """Offer so many samples a second from now on; 0 is none."""

    samples_per_s: float


class Step(msgspec.Struct, frozen=True, tag=True):
    """Set the clock of a lane's source off by so much."""

    lane: int
    ms: int


class Offered(msgspec.Struct, frozen=True, tag=True):
    """A batch is about to be offered."""

    name: Name


class Status(msgspec.Struct, frozen=True, tag=True):
    """How the sink stands."""

    fresh: int
    """Records that are in memory and nowhere else."""
    backlog_bytes: int
    accepted: int
    retried: int
    spilled: int
    drained: int
    lost: int
    rate: float
    """The rate in force, so that a command is known to be carried out."""


Command: TypeAlias = Offer | Step
Report: TypeAlias = Offered | Status

_COMMAND = msgspec.json.Decoder(Command)


class Producer:
    """The lanes of one process and their clocks."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._rate = 0.0
        self._steps_ms = dict.fromkeys(range(LANES), 0)
        self._due = asyncio.Event()

    async def run(self) -> None:
        """Offer and report until stdin ends; what is not accepted then stays on disk."""
        sink = open_sink(self._start.aws, Path(self._start.folder), SPILL_BYTES_MAX)
        if not self._start.writes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        heart = Heart({}, sink.offer)
        works = (sink.run(), self._offer_all(heart), self._report_all(sink), heart.run())
        tasks = [asyncio.create_task(work) for work in works]
        while line := await asyncio.to_thread(sys.stdin.readline):
            self._obey(_COMMAND.decode(line))
        for task in tasks[1::2]:
            task.cancel()
        await sink.drain(DRAIN_S)
        for task in tasks:
            task.cancel()
        sink.close()

    def _obey(self, command: Command) -> None:
        match command:
            case Offer():
                self._rate = command.samples_per_s
                self._due.set()
            case Step():
                self._steps_ms[command.lane] = command.ms

    async def _offer_all(self, heart: Heart) -> None:
        loop, turn = asyncio.get_running_loop(), 0
        due_s = loop.time()
        while True:
            if not self._rate:
                self._due.clear()
                await self._due.wait()
                due_s = loop.time()
                continue
            for kind in KINDS:
                if turn // LANES % EVERY[kind] == 0:
                    self._offer(heart, kind, turn)
            turn += 1
            # A turn that came late is not made up for: the rate is what is asked at the most.
            due_s = max(due_s + ROWS_OF[Kind.RTT] / self._rate, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, due_s - loop.time()))

    def _offer(self, heart: Heart, kind: Kind, turn: int) -> None:
        lane = turn % LANES
        step_ms = self._steps_ms[lane]
        name = Name(
            seed=self._start.seed,
            run=self._start.run,
            life=self._start.life,
            lane=lane,
            turn=turn // LANES,
            kind=kind,
            t0_ms=now_ms() - SPREAD_MS + step_ms,
            step_ms=step_ms,
        )
        _tell(Offered(name))
        heart.offer(batch(name))

    async def _report_all(self, sink: Sink) -> None:
        while True:
            counts = sink.counts
            _tell(
                Status(
                    sink.fresh,
                    sink.backlog_bytes,
                    counts.accepted,
                    counts.retried,
                    counts.spilled,
                    counts.drained,
                    sink.lost,
                    self._rate,
                )
            )
            await asyncio.sleep(STATUS_PERIOD_S)


def _tell(report: Report) -> None:
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    sys.stdout.flush()


def main() -> None:
    """Read the first line, then run."""
    start = msgspec.json.decode(sys.stdin.readline(), type=Start)
    asyncio.run(Producer(start).run())


if __name__ == "__main__":
    main()
