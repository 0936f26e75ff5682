"""The records of one stream that wait in memory: what to put next, and what became of it.

Pure: the time (monotonic seconds) and the randomness come in. PutRecords promises no order
within a call, and a record may fail alone; so at most one record of a source is under way, and
the next one follows only when it was accepted. That keeps each source in order, and a source is
a partition key, so it costs no throughput once there are a few of them.

Limits of a call: 500 records and 5 MB, partition keys included (PutRecords, Kinesis Data
Streams API reference). Waiting times between attempts are decorrelated jitter (M. Brooker,
"Exponential Backoff and Jitter").
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from popsteer.names import SourceId

RECORDS_PER_CALL_MAX = 500
BYTES_PER_CALL_MAX = 5 * 1024 * 1024
BACKOFF_S_MIN = 0.05
BACKOFF_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """An encoded batch on its way."""

    source: SourceId
    body: bytes
    offered_s: float
    """When it was offered, monotonic."""
    segment: int | None = None
    """Number of the spill segment that it was read from; None is fresh."""

    @property
    def bytes(self) -> int:
        """What it counts against the limits of a call."""
        return len(self.body) + len(self.source)


@dataclass(slots=True)
class _Queue:
    """Records of one source, oldest first."""

    records: deque[Record] = field(default_factory=deque)
    under_way: bool = False
    """The first record, or one that was evicted since, is in a call."""
    backoff_s: float = 0.0
    ready_s: float = 0.0
    """No attempt before this time."""


class Outbox:
    """Bounded memory, a queue per source."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._queues: dict[SourceId, _Queue] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return sum(len(queue.records) for queue in self._queues.values())

    @property
    def fresh(self) -> int:
        """How many records here are nowhere else."""
        return sum(r.segment is None for queue in self._queues.values() for r in queue.records)

    def push(self, record: Record) -> bool:
        """Queue behind the other records of its source; False when memory is full."""
        if self.bytes + record.bytes > self._bytes_max:
            return False
        self._queues.setdefault(record.source, _Queue()).records.append(record)
        self.bytes += record.bytes
        return True

    def pick(self, now_s: float) -> list[Record]:
        """What the next call carries: fresh records first, then those from the spill.

        Sources take turns. The records stay queued until `settle`.
        """
        picked: list[Record] = []
        size = 0
        for source, record in [*self._ready(now_s, fresh=True), *self._ready(now_s, fresh=False)]:
            if len(picked) == RECORDS_PER_CALL_MAX or size + record.bytes > BYTES_PER_CALL_MAX:
                break
            size += record.bytes
            picked.append(record)
            queue = self._queues.pop(source)
            queue.under_way = True
            self._queues[source] = queue
        return picked

    def _ready(self, now_s: float, *, fresh: bool) -> Iterator[tuple[SourceId, Record]]:
        for source, queue in self._queues.items():
            if queue.records and not queue.under_way and queue.ready_s <= now_s:
                record = queue.records[0]
                if (record.segment is None) == fresh:
                    yield source, record

    def settle(
        self, picked: Sequence[Record], accepted: Sequence[bool], now_s: float, rng: Random
    ) -> None:
        """The call is over: forget what was accepted, wait with what was not."""
        for record, done in zip(picked, accepted, strict=True):
            queue = self._queues[record.source]
            queue.under_way = False
            if done:
                queue.backoff_s = queue.ready_s = 0.0
                if queue.records and queue.records[0] is record:
                    queue.records.popleft()
                    self.bytes -= record.bytes
            else:
                longest = max(BACKOFF_S_MIN, 3 * queue.backoff_s)
                queue.backoff_s = min(BACKOFF_S_MAX, rng.uniform(BACKOFF_S_MIN, longest))
                queue.ready_s = now_s + queue.backoff_s
            if not queue.records:
                del self._queues[record.source]

    def next_ready_s(self) -> float | None:
        """When the next record may be attempted; None when nothing waits for an attempt."""
        times = [q.ready_s for q in self._queues.values() if q.records and not q.under_way]
        return min(times, default=None)

    def evict(self, source: SourceId, take: Callable[[Record], bool]) -> bool:
        """Hand the records of a source that are nowhere else on, in order, until `take` refuses.

        True when all were taken. One that is under way may be accepted all the same; its
        sequence number tells that it is a repetition.
        """
        queue = self._queues[source]
        kept: deque[Record] = deque()
        refused = False
        for record in queue.records:
            refused = refused or (record.segment is None and not take(record))
            if refused or record.segment is not None:
                kept.append(record)
            else:
                self.bytes -= record.bytes
        queue.records = kept
        if not kept and not queue.under_way:
            del self._queues[source]
        return not refused

    def stuck(self, before_s: float) -> list[SourceId]:
        """Sources with a record that is nowhere else and was offered before `before_s`.

        Those behind records from disk count too: while the stream is away nothing moves them.
        """
        return [
            source
            for source, queue in self._queues.items()
            if any(r.segment is None and r.offered_s < before_s for r in queue.records)
        ]

    def backlogged(self) -> bool:
        """Whether any source has more than one record waiting."""
        return any(len(queue.records) > 1 for queue in self._queues.values())
