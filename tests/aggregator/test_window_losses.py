"""Records that never come are told, late ones are not; a source has a share of a cut, no more."""

from collections import Counter

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from aggregator import window
from aggregator.gauges import Gauges
from aggregator.lines import Line
from aggregator.settings import BULK_KINDS
from aggregator.window import Cut, Record, Resume, Rules, ShardFold
from popsteer.heartbeat import Stage
from popsteer.names import SourceId
from popsteer.samples import Header, RttBatch, encode

T0_MS = 1_700_000_000_000
WINDOW_MS = 10_000
RULES = Rules("popsteer-bulk", "shard", BULK_KINDS, WINDOW_MS, 500, frozenset())
FIRST = 10**15
"""Of a source: the wall clock in microseconds."""


def record(at: int, number: int, source: str = "fra1.rtt", rows: int = 5) -> Record:
    """A record that arrives `at` seconds after the start; also its place in the shard."""
    arrival_ms = T0_MS + at * 1_000
    batch = RttBatch(
        Header(SourceId(source), FIRST + number, arrival_ms - 900, ("fra1",)),
        np.zeros(rows, np.uint32),
        np.arange(rows, dtype=np.uint64) << np.uint64(40),
        np.full(rows, 24, np.uint8),
        np.zeros(rows, np.uint16),
        np.full(rows, 20_000, np.uint32),
        np.ones(rows, np.uint8),
        np.zeros(rows, np.uint8),
    )
    return Record(at * 1_000 + number % 1_000, arrival_ms, encode(batch))


def fold(shard: ShardFold, *records: Record) -> list[Cut]:
    """Cuts of records in order."""
    return [cut for one in records for cut in shard.take(one)]


def lost(shard: ShardFold) -> Counter[str]:
    """What was found lost, by source."""
    found: Counter[str] = Counter()
    for loss in shard.losses:
        found[loss.source] += loss.records
    return found


def test_a_gap_that_a_whole_cut_did_not_fill_is_lost_and_told_once() -> None:
    shard = ShardFold(RULES, Resume())

    fold(shard, record(1, 0), record(2, 4), record(11, 5))
    assert not lost(shard)
    fold(shard, record(21, 6), record(31, 7), record(41, 8))

    assert lost(shard) == {"fra1.rtt": 3}


def test_a_retry_that_comes_late_is_no_loss() -> None:
    shard = ShardFold(RULES, Resume())

    fold(shard, record(1, 0), record(2, 2), record(11, 1), record(21, 3), record(31, 4))

    assert not lost(shard)


def test_what_follows_a_told_loss_is_told_too() -> None:
    shard = ShardFold(RULES, Resume())

    fold(shard, *(record(1 + 10 * i, 2 * i) for i in range(8)))

    # One record in ten seconds fails to come; the newest gap may still be filled.
    assert lost(shard) == {"fra1.rtt": 5}


def test_neither_a_first_sight_nor_a_restart_is_a_loss() -> None:
    shard = ShardFold(RULES, Resume())
    restarted = 3_600 * 1_000_000

    fold(shard, record(1, 7), *(record(11 + 10 * i, restarted + i) for i in range(4)))

    assert not lost(shard)


def test_a_successor_does_not_tell_again_what_is_known() -> None:
    first = ShardFold(RULES, Resume())
    cuts = fold(first, record(1, 0), record(2, 4), record(11, 5), record(21, 6))
    assert lost(first) == {"fra1.rtt": 3}
    marks = cuts[-1].origin.marks

    second = ShardFold(RULES, Resume(marks=marks))
    # The open cut of the first is read again.
    fold(second, *(record(21 + 10 * i, 6 + i) for i in range(5)))

    assert not lost(second)


def test_a_source_over_its_share_of_a_cut_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window, "SOURCE_SAMPLES_MAX", 12)
    shard = ShardFold(RULES, Resume())

    flood = [record(1, number) for number in range(4)]
    (cut,) = fold(shard, *flood, record(2, 50, "ams1.rtt"), record(11, 51))

    assert cut.origin.quarantined == {"cap": 2}
    assert cut.origin.samples == 15


def test_losses_and_freshness_are_metrics() -> None:
    registry = CollectorRegistry()
    gauges = Gauges(registry)
    where = {"stream": "popsteer-bulk", "shard": "s1"}
    counts = {"records": 1, "samples": 5, "duplicates": 0, "quarantined": {}}
    times = {"window_ms": T0_MS, "age_ms": 11_000, "heard_ms": T0_MS + 9_000}

    gauges.observe(Line("cut", fields={**where, **counts, **times}))
    gauges.observe(Line("lost", fields={**where, "source": "fra1.rtt", "records": 3}))

    of_stream = {"stream": "popsteer-bulk"}
    assert registry.get_sample_value("popsteer_aggregator_lost_total", of_stream) == 3
    assert gauges.newest() == {(Stage.PARTIAL, "popsteer-bulk"): T0_MS + 9_000}
