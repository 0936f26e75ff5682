"""Heartbeats leave their time in the marks and nothing anywhere else."""

from dataclasses import fields, replace

import numpy as np

from aggregator.partials import RttPartial
from aggregator.settings import BULK_KINDS
from aggregator.window import Cut, Record, Resume, Rules, ShardFold
from popsteer.heartbeat import heartbeat
from popsteer.names import SourceId
from popsteer.samples import Batch, Header, Kind, RttBatch, encode

T0_MS = 1_700_000_000_000
RULES = Rules("popsteer-bulk", "shard", BULK_KINDS, 10_000, 500, frozenset({"fra1"}))
RTT = SourceId("fra1.rtt")


def samples(second: int) -> RttBatch:
    rng = np.random.default_rng(second)
    return RttBatch(
        Header(RTT, 0, T0_MS + second * 1_000, ("fra1",)),
        dt_ms=np.arange(50, dtype=np.uint32),
        net=rng.integers(0, 9, 50).astype(np.uint64) << np.uint64(40),
        plen=np.full(50, 24, np.uint8),
        subject=np.zeros(50, np.uint16),
        rtt_us=rng.integers(1_000, 90_000, 50).astype(np.uint32),
        method=np.zeros(50, np.uint8),
        lost=np.zeros(50, np.uint8),
    )


def folded(batches: list[tuple[int, Batch]]) -> list[Cut]:
    """The cuts of batches that arrive at these seconds; a lane numbers its records."""
    shard, cuts, number = ShardFold(RULES, Resume()), list[Cut](), dict[str, int]()
    for at, (second, batch) in enumerate(batches):
        source = batch.header.source
        number[source] = number.get(source, 0) + 1
        header = replace(batch.header, sequence=number[source])
        data = encode(replace(batch, header=header))
        cuts += shard.take(Record(at, T0_MS + second * 1_000 + 300, data))
    return cuts + shard.finish()


def rtt_of(cut: Cut) -> RttPartial:
    (partial,) = (p for p in cut.partials if isinstance(p, RttPartial))
    return partial


def test_rows_and_counts_are_those_of_the_samples_alone() -> None:
    busy: list[tuple[int, Batch]] = [(s, samples(s)) for s in (1, 2, 5, 12)]
    beats = [(s, heartbeat(RTT, Kind.RTT, T0_MS + s * 1_000)) for s in (0, 3, 4, 6, 9, 11, 14)]
    plain = folded(busy)
    mixed = folded(sorted(busy + beats, key=lambda pair: pair[0]))

    assert len(plain) == len(mixed) == 2
    for one, other in zip(plain, mixed, strict=True):
        assert one.origin.samples == other.origin.samples
        assert other.origin.quarantined == {}
        left, right = rtt_of(one), rtt_of(other)
        assert left.pops == right.pops
        for field in fields(left):
            if field.name not in ("origin", "pops"):
                np.testing.assert_array_equal(getattr(left, field.name), getattr(right, field.name))


def test_a_window_of_heartbeats_alone_is_written_and_says_when() -> None:
    (cut,) = folded([(s, heartbeat(RTT, Kind.RTT, T0_MS + s * 1_000)) for s in range(8)])

    assert (cut.origin.records, cut.origin.samples) == (8, 0)
    assert len(rtt_of(cut).net) == 0
    assert cut.origin.marks[RTT].heard_ms == T0_MS + 7_000


def test_a_clock_that_runs_ahead_hides_no_stall() -> None:
    (cut,) = folded([(1, heartbeat(RTT, Kind.RTT, T0_MS + 200_000))])

    assert cut.origin.marks[RTT].newest_ms == T0_MS + 200_000
    assert cut.origin.marks[RTT].heard_ms == T0_MS + 1_300
