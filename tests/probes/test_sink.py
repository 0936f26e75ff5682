"""The sink against a scripted stream: order, retries, spill, spare sources, bounds."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest

from popsteer import samples
from popsteer.lanes import Sequences
from popsteer.names import SourceId
from popsteer.outbox import RECORDS_PER_CALL_MAX, Record
from popsteer.samples import RECORD_BYTES_MAX, Header, RttBatch, SignalBatch
from popsteer.sink import Sink
from popsteer.spill import Spill, Urgency

LANE = SourceId("fra1.rtt")


class ScriptedStream:
    """A stream that does what a test tells it; keeps what it accepted, as a consumer would."""

    def __init__(self) -> None:
        self.accepted: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.calls: list[int] = []
        self.fault: Callable[[Record], str] = lambda _: ""

    def put(self, _urgency: Urgency, records: Sequence[Record]) -> list[str]:
        """One PutRecords call."""
        self.calls.append(len(records))
        errors = [self.fault(record) for record in records]
        for record, error in zip(records, errors, strict=True):
            if not error:
                batch = samples.decode(record.body)
                assert batch.header.source == record.source
                self.accepted[record.source].append((batch.header.sequence, batch.header.t0_ms))
        return errors

    def t0s(self) -> list[int]:
        """What arrived, repetitions included."""
        return [t0 for got in self.accepted.values() for _, t0 in got]

    def above_high_water(self) -> list[int]:
        """What a consumer with one high-water mark per source would keep."""
        kept = []
        for got in self.accepted.values():
            mark = -1
            for sequence, t0_ms in got:
                if sequence > mark:
                    kept.append(t0_ms)
                    mark = sequence
        return kept


def rtt_batch(t0_ms: int, lane: SourceId = LANE, rows: int = 3) -> RttBatch:
    rng = np.random.default_rng(t0_ms)
    return RttBatch(
        Header(lane, 0, t0_ms, ("fra1",)),
        dt_ms=np.zeros(rows, np.uint32),
        net=rng.integers(0, 2**24, rows, np.uint64) << np.uint64(40),
        plen=np.full(rows, 24, np.uint8),
        subject=np.zeros(rows, np.uint16),
        rtt_us=rng.integers(0, 60_000_000, rows).astype(np.uint32),
        method=np.zeros(rows, np.uint8),
        lost=np.zeros(rows, np.uint8),
    )


def signal_batch(t0_ms: int) -> SignalBatch:
    return SignalBatch(
        Header(SourceId("fra1.signal"), 0, t0_ms, ("fra1",)),
        dt_ms=np.zeros(1, np.uint32),
        subject=np.zeros(1, np.uint16),
        signal=np.zeros(1, np.uint8),
        value=np.ones(1),
    )


def make_sink(
    stream: ScriptedStream,
    folder: Path,
    memory_bytes_max: int = 1 << 20,
    spill_bytes_max: int = 1 << 20,
) -> Sink:
    folder.mkdir(exist_ok=True)
    return Sink(
        stream.put,
        Sequences(folder / "sequence", now_us=1_000),
        Spill(folder / "spill", spill_bytes_max, segment_bytes=8_192),
        rng=Random(1),
        memory_bytes_max=memory_bytes_max,
    )


@asynccontextmanager
async def running(sink: Sink) -> AsyncIterator[Sink]:
    task = asyncio.create_task(sink.run())
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        sink.close()


async def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 -- the condition is the sink's own state
            await asyncio.sleep(0.01)


async def test_every_batch_arrives_once_and_in_order(tmp_path: Path) -> None:
    stream = ScriptedStream()
    async with running(make_sink(stream, tmp_path)) as sink:
        assert all(sink.offer(rtt_batch(t)) for t in range(50))
        await sink.drain(10)
    assert stream.t0s() == list(range(50))
    assert sink.counts.samples == 150
    assert sink.lost == 0


async def test_a_partial_failure_is_retried_alone_and_keeps_the_order_of_its_source(
    tmp_path: Path,
) -> None:
    stream = ScriptedStream()
    rng = Random(7)
    stream.fault = lambda _: "ProvisionedThroughputExceededException" if rng.random() < 0.4 else ""
    lanes = [SourceId(f"pop{i}.rtt") for i in range(5)]
    async with running(make_sink(stream, tmp_path)) as sink:
        for t in range(6):
            for lane in lanes:
                sink.offer(rtt_batch(t, lane))
        await sink.drain(20)
    for lane in lanes:
        assert [t0 for _, t0 in stream.accepted[lane]] == list(range(6))
    assert sink.counts.retried > 0
    assert sink.counts.errors["ProvisionedThroughputExceededException"] == sink.counts.retried


async def test_a_call_carries_at_most_500_records(tmp_path: Path) -> None:
    stream = ScriptedStream()
    async with running(make_sink(stream, tmp_path, 1 << 23)) as sink:
        for i in range(RECORDS_PER_CALL_MAX + 100):
            sink.offer(rtt_batch(i, SourceId(f"p{i}.rtt"), rows=1))
        await sink.drain(20)
    assert len(stream.t0s()) == RECORDS_PER_CALL_MAX + 100
    assert max(stream.calls) == RECORDS_PER_CALL_MAX


async def test_a_batch_too_large_for_a_payload_unit_is_halved(tmp_path: Path) -> None:
    stream = ScriptedStream()
    sizes: list[int] = []

    def fault(record: Record) -> str:
        sizes.append(len(record.body))
        return ""

    stream.fault = fault
    async with running(make_sink(stream, tmp_path)) as sink:
        sink.offer(rtt_batch(1, rows=8_000))
        await sink.drain(10)
    assert len(sizes) > 1
    assert max(sizes) <= RECORD_BYTES_MAX


async def test_an_outage_goes_to_disk_and_comes_back_without_loss(tmp_path: Path) -> None:
    stream = ScriptedStream()
    stream.fault = lambda _: "EndpointConnectionError"
    async with running(make_sink(stream, tmp_path)) as sink:
        for t in range(20):
            sink.offer(rtt_batch(t))
        await until(lambda: sink.counts.spilled >= 20)
        sink.offer(rtt_batch(20))
        stream.fault = lambda _: ""
        await until(lambda: len(stream.t0s()) >= 21)
        await until(lambda: sink.backlog_bytes == 0)
    assert sorted(stream.above_high_water()) == list(range(21))


async def test_fresh_records_overtake_the_backlog_under_a_spare_source(tmp_path: Path) -> None:
    stream = ScriptedStream()
    stream.fault = lambda _: "ServiceUnavailable"
    async with running(make_sink(stream, tmp_path)) as sink:
        for t in range(10):
            sink.offer(rtt_batch(t))
        await until(lambda: sink.counts.spilled >= 10)
        # One shard stays throttled: the lane's first source cannot be drained yet.
        stream.fault = lambda r: "Throttled" if r.source == LANE else ""
        sink.offer(rtt_batch(1_000, SourceId("other.rtt")))
        await until(lambda: sink.counts.accepted == 1)
        sink.offer(rtt_batch(100))
        await until(lambda: 100 in stream.t0s())
        assert LANE not in stream.accepted
        stream.fault = lambda _: ""
        await until(lambda: sink.backlog_bytes == 0)
    assert [t0 for _, t0 in stream.accepted["fra1.rtt~1"]] == [100]
    assert sorted(stream.above_high_water()) == [*range(10), 100, 1_000]


async def test_urgent_records_do_not_queue_behind_bulk(tmp_path: Path) -> None:
    stream = ScriptedStream()
    stream.fault = lambda r: "Throttled" if r.source == LANE else ""
    async with running(make_sink(stream, tmp_path)) as sink:
        for t in range(50):
            sink.offer(rtt_batch(t))
        sink.offer(signal_batch(7))
        await until(lambda: stream.t0s() == [7], deadline_s=10)


async def test_memory_is_bounded_and_the_rest_goes_to_disk(tmp_path: Path) -> None:
    stream = ScriptedStream()
    sink = make_sink(stream, tmp_path, memory_bytes_max=10_000)
    for t in range(40):
        assert sink.offer(rtt_batch(t))
    assert sink.counts.spilled > 0
    async with running(sink):
        await until(lambda: sink.backlog_bytes == 0)
    assert sorted(stream.above_high_water()) == list(range(40))


async def test_when_the_disk_is_full_too_the_oldest_are_lost_and_counted(tmp_path: Path) -> None:
    stream = ScriptedStream()
    stream.fault = lambda _: "EndpointConnectionError"
    sink = make_sink(stream, tmp_path, memory_bytes_max=10_000, spill_bytes_max=60_000)
    async with running(sink):
        for t in range(200):
            assert sink.offer(rtt_batch(t))
            if t % 20 == 0:
                await asyncio.sleep(0.05)
            assert sink.backlog_bytes < 10_000 + 60_000 + 2 * 8_192
        sink.offer(signal_batch(1_000))
        stream.fault = lambda _: ""
        await until(lambda: sink.backlog_bytes == 0)
    arrived = stream.above_high_water()
    assert len(arrived) == len(set(arrived))
    assert len(arrived) + sink.lost == 201
    assert sink.lost > 100
    assert {1_000, 199} <= set(arrived)


async def test_what_a_broken_disk_refuses_waits_in_memory(tmp_path: Path) -> None:
    stream = ScriptedStream()
    stream.fault = lambda _: "EndpointConnectionError"
    sink = make_sink(stream, tmp_path)
    (tmp_path / "spill" / "bulk").rename(tmp_path / "spill" / "away")
    async with running(sink):
        for t in range(50):
            assert sink.offer(rtt_batch(t))
        await until(lambda: sink.counts.calls > 3)
        sink._evict(sink._outlets[Urgency.BULK], [LANE])
        assert (sink.counts.spilled, sink.fresh) == (0, 50)
        stream.fault = lambda _: ""
        await until(lambda: sink.backlog_bytes == 0)
    assert stream.above_high_water() == list(range(50))
    assert sink.lost == 0


async def test_what_a_stop_leaves_behind_is_sent_by_the_next_run(tmp_path: Path) -> None:
    stream = ScriptedStream()
    stream.fault = lambda _: "EndpointConnectionError"
    async with running(make_sink(stream, tmp_path)) as sink:
        for t in range(5):
            sink.offer(rtt_batch(t))
        await sink.drain(0.1)
        assert not sink.offer(rtt_batch(99))
    stream.fault = lambda _: ""
    async with running(make_sink(stream, tmp_path)) as again:
        again.offer(rtt_batch(5))
        await until(lambda: len(stream.t0s()) == 6)
    assert sorted(stream.above_high_water()) == list(range(6))


@pytest.mark.parametrize("set_back_us", [0, 3_600_000_000])
def test_sequences_rise_across_a_restart_and_a_clock_set_back(
    tmp_path: Path, set_back_us: int
) -> None:
    now_us = 1_700_000_000_000_000
    first = Sequences(tmp_path / "sequence", now_us)
    last = [first.next(LANE) for _ in range(3)][-1]
    again = Sequences(tmp_path / "sequence", now_us + 1 - set_back_us)
    assert again.next(LANE) > last


def test_sequences_rise_when_the_data_folder_is_lost(tmp_path: Path) -> None:
    first = Sequences(tmp_path / "one", 1_700_000_000_000_000)
    last = first.next(LANE)
    assert Sequences(tmp_path / "two", 1_700_000_001_000_000).next(LANE) > last
