"""One shard in memory: records a person can count, a fragile store, a scripted checkpointer.

The processor is the real one; a crash is an exception that nothing catches, thrown from a write
or a checkpoint.
"""

import base64
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from amazon_kclpy import messages
from amazon_kclpy.checkpoint_error import CheckpointError
from hypothesis import strategies as st

from aggregator.consumer import ShardProcessor
from aggregator.histogram import LOST, bucket_of
from aggregator.partials import DemandPartial, Origin, RttPartial, decode, kind_prefix
from aggregator.settings import BULK_KINDS, ConsumerSettings
from popsteer.config import Aws
from popsteer.names import SourceId
from popsteer.samples import DemandBatch, Header, Kind, RttBatch, Signal, SignalBatch, encode
from popsteer.store import MemoryStore

T0_MS = 1_700_000_000_000
WINDOW_MS = 10_000
GRACE_MS = 500
SHARD = "shardId-000000000001"
SETTINGS = ConsumerSettings(
    aws=Aws(),
    stream="popsteer-bulk",
    kinds=BULK_KINDS,
    window_ms=WINDOW_MS,
    grace_ms=GRACE_MS,
    subjects=("ams1", "fra1"),
)


class Killed(BaseException):
    """kill -9: no handler may catch it."""


@dataclass(frozen=True, slots=True)
class Put:
    """A record on the shard, and what a person would expect of it."""

    sequence: int
    arrival_ms: int
    data: bytes
    source: str = ""
    number: int = 0
    rows: tuple[tuple[int, int, str, int, int], ...] = ()
    """(event window, net, POP, bucket, rtt) of each sample that should count."""
    refused: bool = False
    queries: int = 0


@dataclass(slots=True)
class FragileStore(MemoryStore):
    """Dies right before or right after some write."""

    lives: int = 10**9
    after_write: bool = False

    def create(self, key: str, body: bytes) -> bool:
        """See `ObjectStore.create`."""
        self.lives -= 1
        if self.lives < 0 and not self.after_write:
            raise Killed
        created = MemoryStore.create(self, key, body)
        if self.lives < 0:
            raise Killed
        return created


@dataclass(slots=True)
class Checkpoints:
    """The lease table's checkpoint of the shard."""

    at: int = -1
    ended: bool = False
    lives: int = 10**9
    errors: list[str] = field(default_factory=list)

    def checkpoint(self, sequence: str | None = None) -> None:
        """As kclpy's."""
        self.lives -= 1
        if self.lives < 0:
            raise Killed
        if self.errors:
            raise CheckpointError(self.errors.pop())
        if sequence is None:
            self.ended = True
        else:
            assert int(sequence) >= self.at
            self.at = int(sequence)


def started(
    store: MemoryStore, parents: tuple[str, ...] = (), shard: str = SHARD
) -> ShardProcessor:
    tree = {shard: parents}
    processor = ShardProcessor(SETTINGS, store, lambda one: tree.get(one, ()))
    processor.initialize(
        messages.InitializeInput(
            {
                "shardId": shard,
                "sequenceNumber": "TRIM_HORIZON",
                "subSequenceNumber": 0,
                "action": "initialize",
            }
        )
    )
    return processor


def give(
    processor: ShardProcessor, puts: list[Put], checkpoints: Checkpoints, behind_ms: int = 1
) -> None:
    records = [
        {
            "sequenceNumber": str(p.sequence),
            "subSequenceNumber": 0,
            "approximateArrivalTimestamp": p.arrival_ms,
            "partitionKey": "k",
            "data": base64.b64encode(p.data).decode(),
        }
        for p in puts
    ]
    document = {
        "records": [messages.Record(r) for r in records],
        "millisBehindLatest": behind_ms,
        "action": "processRecords",
    }
    given_input = messages.ProcessRecordsInput(document)
    given_input._checkpointer = checkpoints
    processor.process_records(given_input)


def end(processor: ShardProcessor, checkpoints: Checkpoints) -> None:
    ended = messages.ShardEndedInput({"action": "shardEnded"})
    ended._checkpointer = checkpoints
    processor.shard_ended(ended)


def rtt_put(
    sequence: int, arrival_ms: int, source: str, number: int, seed: int, age_ms: int = 900
) -> Put:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 12))
    t0_ms = arrival_ms - age_ms
    dt_ms = rng.integers(0, 1_000, n).astype(np.uint32)
    net = rng.integers(1, 4, n).astype(np.uint64) << np.uint64(40)
    subject = rng.integers(0, 2, n).astype(np.uint16)
    rtt_us = rng.integers(1_000, 1_100, n).astype(np.uint32)
    lost = (rng.random(n) < 0.2).astype(np.uint8)
    pops = ("fra1", "ams1")
    batch = RttBatch(
        Header(SourceId(source), number, t0_ms, pops),
        dt_ms,
        net,
        np.full(n, 24, np.uint8),
        subject,
        rtt_us,
        np.zeros(n, np.uint8),
        lost,
    )
    bucket = np.where(lost == 1, np.int16(LOST), bucket_of(rtt_us))
    rows = tuple(
        ((t0_ms + int(d)) // WINDOW_MS * WINDOW_MS, int(x), pops[int(s)], int(b), int(r))
        for d, x, s, b, r in zip(dt_ms, net, subject, bucket, rtt_us, strict=True)
    )
    return Put(sequence, arrival_ms, encode(batch), source, number, rows)


def demand_put(sequence: int, arrival_ms: int, source: str, number: int, queries: int) -> Put:
    one = np.ones(1, np.uint32)
    batch = DemandBatch(
        Header(SourceId(source), number, arrival_ms, ("fra1",)),
        0 * one,
        one.astype(np.uint64) << np.uint64(40),
        np.full(1, 24, np.uint8),
        np.zeros(1, np.uint16),
        one * np.uint32(queries),
        np.full(1, 0.1, np.float32),
    )
    return Put(sequence, arrival_ms, encode(batch), source, number, queries=queries)


def bad_put(sequence: int, arrival_ms: int, which: int) -> Put:
    """Records that must be refused, each for its own reason."""
    good = Header(SourceId(f"bad{sequence}"), 0, arrival_ms, ("fra1",))
    unknown = Header(SourceId(f"bad{sequence}"), 0, arrival_ms, ("nowhere",))
    stale = Header(SourceId(f"bad{sequence}"), 0, arrival_ms - 3_600_001, ("fra1",))
    ahead = Header(SourceId(f"bad{sequence}"), 0, arrival_ms + 300_001, ("fra1",))
    zero = np.zeros(1, np.uint16)
    signal = SignalBatch(
        good, np.zeros(1, np.uint32), zero, np.full(1, Signal.UP, np.uint8), np.ones(1)
    )
    rtts = [
        RttBatch(
            header,
            np.zeros(1, np.uint32),
            np.zeros(1, np.uint64),
            np.zeros(1, np.uint8),
            zero,
            np.ones(1, np.uint32),
            np.zeros(1, np.uint8),
            np.zeros(1, np.uint8),
        )
        for header in (unknown, stale, ahead)
    ]
    bodies = [b"not arrow", encode(signal), *map(encode, rtts)]
    return Put(sequence, arrival_ms, bodies[which], f"bad{sequence}", refused=True)


@st.composite
def shards(draw: st.DrawFn) -> list[Put]:
    """Records in sequence order: retries, gaps, late ones, malformed ones, arrivals that jitter."""
    puts: list[Put] = []
    arrival_ms = T0_MS
    sent: list[Put] = []
    numbers = {"fra1.rtt": 0, "ams1.rtt": 5}
    for place in range(draw(st.integers(1, 14))):
        arrival_ms += draw(st.sampled_from([0, 700, 4_000, 11_000, 35_000]))
        at_ms = arrival_ms - draw(st.sampled_from([0, 0, 0, 300, 12_000]))
        sequence = 10**55 + place * 7
        what = draw(st.sampled_from(["rtt", "rtt", "rtt", "demand", "retry", "bad"]))
        if what == "retry" and sent:
            again = draw(st.sampled_from(sent))
            puts.append(Put(sequence, at_ms, again.data, again.source, again.number, again.rows))
            continue
        if what == "bad":
            puts.append(bad_put(sequence, at_ms, draw(st.integers(0, 4))))
            continue
        source = draw(st.sampled_from(sorted(numbers)))
        numbers[source] += draw(st.sampled_from([1, 1, 3]))
        if what == "demand":
            put = demand_put(sequence, at_ms, source, numbers[source], draw(st.integers(1, 9)))
        else:
            put = rtt_put(sequence, at_ms, source, numbers[source], draw(st.integers(0, 99)))
        sent.append(put)
        puts.append(put)
    return puts


def expected(puts: list[Put]) -> tuple[Counter[tuple[int, int, str, int]], dict[object, int], int]:
    """The twin: counts by row, the maximum by row, and the sum of queries."""
    seen: set[tuple[str, int]] = set()
    counts: Counter[tuple[int, int, str, int]] = Counter()
    highest: dict[object, int] = {}
    queries = 0
    for put in puts:
        if put.refused or (put.source, put.number) in seen:
            continue
        seen.add((put.source, put.number))
        queries += put.queries
        for window_ms, net, pop, bucket, rtt_us in put.rows:
            key = (window_ms, net, pop, bucket)
            counts[key] += 1
            highest[key] = max(highest.get(key, 0), rtt_us)
    return counts, highest, queries


def written(
    store: MemoryStore,
) -> tuple[Counter[tuple[int, int, str, int]], dict[object, int], int]:
    counts: Counter[tuple[int, int, str, int]] = Counter()
    highest: dict[object, int] = {}
    queries = 0
    for body in store.objects.values():
        partial = decode(body)
        if isinstance(partial, RttPartial):
            for w, n, p, b, c, m in zip(
                partial.event_window_ms,
                partial.net,
                partial.pop,
                partial.bucket,
                partial.count,
                partial.max_us,
                strict=True,
            ):
                row = (int(w), int(n), partial.pops[p], int(b))
                counts[row] += int(c)
                highest[row] = max(highest.get(row, 0), int(m))
        elif isinstance(partial, DemandPartial):
            queries += int(partial.queries.sum())
    return counts, highest, queries


def origins(store: MemoryStore) -> list[Origin]:
    keys = store.list(kind_prefix(Kind.DEMAND))
    return sorted((decode(store.objects[k]).origin for k in keys), key=lambda o: o.first_sequence)


def rest_of(puts: list[Put], checkpoints: Checkpoints) -> list[Put]:
    return [p for p in puts if p.sequence > checkpoints.at]


def run_to_the_end(store: MemoryStore, puts: list[Put], checkpoints: Checkpoints) -> None:
    processor = started(store)
    for put in rest_of(puts, checkpoints):
        give(processor, [put], checkpoints)
    end(processor, checkpoints)
