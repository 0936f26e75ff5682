"""From batches to Kinesis: numbered, encoded, put, retried, spilled; never blocks who measures.

`offer` returns at once. Two outboxes, urgent and bulk, each with its own calls, so that a backlog
of RTT never delays health. What is not accepted within `SPILL_AFTER_S`, or does not fit into
memory, waits on disk (`popsteer.spill`) and is sent later, in order, behind fresh records; what a
full disk refuses stays in memory as long as that holds it. The outboxes decide
(`popsteer.outbox`), this module only does: one task per stream, calls in threads.
"""

import asyncio
import dataclasses
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from popsteer import samples
from popsteer.aws import kinesis
from popsteer.batch import halves
from popsteer.config import Aws
from popsteer.lanes import Lanes, Sequences
from popsteer.names import SourceId
from popsteer.outbox import Outbox, Record
from popsteer.samples import RECORD_BYTES_MAX, STREAM_OF, URGENT_STREAM, Batch
from popsteer.spill import Segment, Spill, Urgency, parse
from popsteer.telemetry import logger

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

SPILL_AFTER_S = 2.0
"""A record that was not accepted for so long goes to disk."""
MEMORY_BYTES_MAX = 32 * 1024 * 1024
"""For each outbox."""
CALLS_MAX = 4
"""Calls under way at once, for each stream."""
LINGER_S = {Urgency.URGENT: 0.0, Urgency.BULK: 0.1}
"""How long a call waits for records of other sources; a source with a backlog does not wait."""
DRAIN_WINDOW = 64
"""Records from disk that may be in an outbox at once."""
TICK_S = 0.25

Put = Callable[[Urgency, Sequence[Record]], list[str]]
"""One PutRecords call: an error code per record, "" for accepted. Blocks; never raises."""


@dataclass(slots=True)
class SinkCounts:
    """What became of the records, since the start."""

    samples: int = 0
    """Offered, in batches."""
    accepted: int = 0
    accepted_bytes: int = 0
    calls: int = 0
    retried: int = 0
    """Attempts that were not accepted."""
    spilled: int = 0
    drained: int = 0
    """Accepted ones that came from disk."""
    dropped: int = 0
    """Lost for good: neither memory nor disk took them."""
    errors: Counter[str] = field(default_factory=Counter)
    """Attempts that were not accepted, by error code."""


@dataclass(slots=True)
class _Outlet:
    """One stream: its outbox and the calls on it."""

    urgency: Urgency
    outbox: Outbox
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    accepted_s: float = float("-inf")
    """When the stream last accepted a record."""
    away: bool = False
    """The last call failed as a whole: said once, until one succeeds."""
    draining: Segment | None = None
    unread: deque[Record] = field(default_factory=deque)
    """Records of the draining segment that are not in the outbox yet."""
    unsettled: int = 0
    """Records of the draining segment that were not accepted yet."""


class Sink:
    """The one way of a process into Kinesis; owns the sequences, the outboxes and the spill."""

    def __init__(
        self,
        put: Put,
        sequences: Sequences,
        spill: Spill,
        *,
        rng: Random | None = None,
        memory_bytes_max: int = MEMORY_BYTES_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._put = put
        self._sequences = sequences
        self._spill = spill
        self._lanes = Lanes()
        self._rng = rng or Random()  # noqa: S311 -- spreads retries, guards nothing
        self._clock = clock
        self._started_s = clock()
        self._spilled_s: dict[SourceId, float] = {}
        self._outlets = {u: _Outlet(u, Outbox(memory_bytes_max)) for u in Urgency}
        self._threads = ThreadPoolExecutor(2 * CALLS_MAX, thread_name_prefix="put-records")
        self._closing = False
        self._settled = asyncio.Event()
        self._log = logger()
        self.counts = SinkCounts()

    def offer(self, batch: Batch) -> bool:
        """Number, encode and queue a batch; its header names the lane, the sequence is ours.

        False when the batch is lost: after `drain`, or when neither memory nor disk takes it.
        """
        if self._closing:
            self.counts.dropped += 1
            return False
        outlet = self._outlets[_urgency(batch)]
        source = self._source(outlet, batch.header.source)
        self.counts.samples += samples.rows(batch)
        # No await from here on: records are queued in the order in which they are numbered.
        kept = [
            self._queue(outlet, Record(source, body, self._clock()))
            for body in self._encode(source, batch)
        ]
        return all(kept)

    def _source(self, outlet: _Outlet, lane: SourceId) -> SourceId:
        """The source of a lane; a spare one as soon as the stream is back and its own waits."""
        source = self._lanes.source(lane)
        if self._spill.waits(source) and outlet.accepted_s > self._spilled_s.get(source, 0.0):
            source = self._lanes.move(lane, self._spill.waits)
        return source

    def _encode(self, source: SourceId, batch: Batch) -> list[bytes]:
        number = self._sequences.next(source)
        header = dataclasses.replace(batch.header, source=source, sequence=number)
        record = samples.encode(dataclasses.replace(batch, header=header))
        if len(record) <= RECORD_BYTES_MAX or samples.rows(batch) < 2:
            return [record]
        first, second = halves(batch)
        return [*self._encode(source, first), *self._encode(source, second)]

    def _queue(self, outlet: _Outlet, record: Record) -> bool:
        if not self._spill.waits(record.source):
            if self._push(outlet, record):
                return True
            self._evict(outlet, outlet.outbox.stuck(before_s=float("inf")))
            self._spilled_s[record.source] = self._clock()
        # Where the disk is full, memory takes what it can, also behind what waits on disk.
        kept = self._to_disk(outlet, record) or self._push(outlet, record)
        self.counts.dropped += not kept
        return kept

    def _push(self, outlet: _Outlet, record: Record) -> bool:
        if outlet.outbox.push(record):
            outlet.wake.set()
            return True
        return False

    def _evict(self, outlet: _Outlet, sources: list[SourceId]) -> None:
        """Move the records of these sources to disk, in order; what it refuses stays."""
        for source in sources:
            self._spilled_s[source] = self._clock()
            if not outlet.outbox.evict(source, lambda record: self._to_disk(outlet, record)):
                return

    def _to_disk(self, outlet: _Outlet, record: Record) -> bool:
        kept = self._spill.append(outlet.urgency, record.source, record.body)
        self.counts.spilled += kept
        return kept

    async def run(self) -> None:
        """Send until cancelled; end with `drain`."""
        async with asyncio.TaskGroup() as tasks:
            for outlet in self._outlets.values():
                tasks.create_task(self._send(outlet, tasks))

    async def _send(self, outlet: _Outlet, tasks: asyncio.TaskGroup) -> None:
        while True:
            await _woken(outlet.wake, self._pause_s(outlet))
            outlet.wake.clear()
            self._evict(outlet, outlet.outbox.stuck(self._clock() - SPILL_AFTER_S))
            if not self._closing:
                await self._refill(outlet)
            if not outlet.outbox.backlogged():
                await asyncio.sleep(LINGER_S[outlet.urgency])
            while outlet.calls < CALLS_MAX and (picked := outlet.outbox.pick(self._clock())):
                outlet.calls += 1
                tasks.create_task(self._call(outlet, picked))

    def _pause_s(self, outlet: _Outlet) -> float:
        ready_s = outlet.outbox.next_ready_s()
        if ready_s is None or outlet.calls == CALLS_MAX:
            return TICK_S
        return min(TICK_S, max(0.0, ready_s - self._clock()))

    async def _call(self, outlet: _Outlet, picked: list[Record]) -> None:
        loop = asyncio.get_running_loop()
        try:
            errors = await loop.run_in_executor(self._threads, self._put, outlet.urgency, picked)
        finally:
            outlet.calls -= 1
        self._settle(outlet, picked, errors)
        self._settled.set()
        outlet.wake.set()

    def _settle(self, outlet: _Outlet, picked: list[Record], errors: list[str]) -> None:
        now_s = self._clock()
        outlet.outbox.settle(picked, [not e for e in errors], now_s, self._rng)
        counts = self.counts
        counts.calls += 1
        for record, error in zip(picked, errors, strict=True):
            if error:
                counts.retried += 1
                counts.errors[error] += 1
                continue
            outlet.accepted_s = now_s
            counts.accepted += 1
            counts.accepted_bytes += len(record.body)
            if record.segment is not None:
                counts.drained += 1
                self._drained(outlet, record)
        self._say(outlet, errors)

    def _say(self, outlet: _Outlet, errors: list[str]) -> None:
        """One line when a stream goes away and one when it is back."""
        away = all(errors)
        if away and not outlet.away:
            self._log.warning("stream away", stream=outlet.urgency.value, error=errors[0])
        elif outlet.away and not away:
            self._log.info("stream back", stream=outlet.urgency.value, on_disk=self._spill.bytes)
        outlet.away = away

    async def _refill(self, outlet: _Outlet) -> None:
        """Let records from disk into the outbox, a few at a time."""
        if outlet.draining is None:
            segment = self._spill.oldest(outlet.urgency)
            if segment is None:
                return
            body = await asyncio.to_thread(_read, segment.path)
            now_s = self._clock()
            outlet.draining = segment
            outlet.unread.extend(Record(s, b, now_s, segment.number) for s, b in parse(body))
            outlet.unsettled = len(outlet.unread)
            if not outlet.unread:
                self._finish(outlet)
        while outlet.unread and outlet.unsettled - len(outlet.unread) < DRAIN_WINDOW:
            if not outlet.outbox.push(outlet.unread[0]):
                return
            outlet.unread.popleft()

    def _drained(self, outlet: _Outlet, record: Record) -> None:
        assert outlet.draining is not None
        assert outlet.draining.number == record.segment
        outlet.unsettled -= 1
        if not outlet.unsettled:
            self._finish(outlet)

    def _finish(self, outlet: _Outlet) -> None:
        if outlet.draining is not None:
            self._spill.remove(outlet.draining)
        outlet.draining = None

    async def drain(self, timeout_s: float) -> None:
        """Take nothing more, send what is in memory while `run` goes on, put the rest on disk."""
        self._closing = True
        deadline_s = self._clock() + timeout_s
        while self.fresh and (left_s := deadline_s - self._clock()) > 0:
            await _woken(self._settled, left_s)
            self._settled.clear()
        for outlet in self._outlets.values():
            self._evict(outlet, outlet.outbox.stuck(before_s=float("inf")))
            self.counts.dropped += outlet.outbox.fresh

    def close(self) -> None:
        """After `run` was cancelled: free the folder and the threads."""
        self._spill.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def fresh(self) -> int:
        """Records that wait in memory and nowhere else: what a kill would lose."""
        return sum(outlet.outbox.fresh for outlet in self._outlets.values())

    @property
    def backlog_bytes(self) -> int:
        """What waits in memory and on disk."""
        return self._spill.bytes + sum(o.outbox.bytes for o in self._outlets.values())

    def accepted_age_s(self, urgency: Urgency) -> float:
        """Since a stream last accepted a record; since the start when it never did."""
        return self._clock() - max(self._outlets[urgency].accepted_s, self._started_s)

    @property
    def lost(self) -> int:
        """Records that are lost for good, since the start."""
        return self.counts.dropped + self._spill.dropped


def open_sink(aws: Aws, folder: Path, spill_bytes_max: int) -> Sink:
    """The sink of a process on the configured streams; `folder` is the process's own.

    Raises:
        SetupError: the folder cannot be written, or another process uses it.
    """
    spill = Spill(folder / "spill", spill_bytes_max)
    sequences = Sequences(folder / "sequence", time.time_ns() // 1_000)
    streams = {Urgency.URGENT: aws.urgent_stream, Urgency.BULK: aws.bulk_stream}
    return Sink(put_records(kinesis(aws), streams), sequences, spill)


def put_records(client: "KinesisClient", streams: dict[Urgency, str]) -> Put:
    """PutRecords as a `Put`: whatever goes wrong becomes an error code for each record."""

    def put(urgency: Urgency, records: Sequence[Record]) -> list[str]:
        try:
            answer = client.put_records(
                StreamName=streams[urgency],
                Records=[{"Data": r.body, "PartitionKey": r.source} for r in records],
            )
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "ClientError"))
            return [code] * len(records)
        except (BotoCoreError, OSError) as error:
            return [type(error).__name__] * len(records)
        return [entry.get("ErrorCode", "") for entry in answer["Records"]]

    return put


def _urgency(batch: Batch) -> Urgency:
    return Urgency.URGENT if STREAM_OF[batch.kind] == URGENT_STREAM else Urgency.BULK


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # dropped meanwhile, or the disk lost it: its records are gone


async def _woken(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        pass
