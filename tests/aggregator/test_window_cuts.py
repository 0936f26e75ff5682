"""Where cuts fall, and what a processor does when a write or a checkpoint is refused."""

from contextlib import suppress

import pytest

from aggregator import consumer
from aggregator.partials import kind_prefix
from popsteer.samples import Kind
from popsteer.store import MemoryStore
from tests.aggregator.shard_scene import (
    GRACE_MS,
    SHARD,
    T0_MS,
    WINDOW_MS,
    Checkpoints,
    FragileStore,
    Killed,
    Put,
    end,
    expected,
    give,
    origins,
    rtt_put,
    run_to_the_end,
    started,
    written,
)

pytestmark = pytest.mark.usefixtures("exits_raise")


def test_a_quiet_shard_closes_its_window_after_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    store, checkpoints = MemoryStore(), Checkpoints()
    processor = started(store)
    put = rtt_put(10**55, T0_MS + 10, "fra1.rtt", 0, 1)
    give(processor, [put], checkpoints)

    for now_ms, cut in ((T0_MS + WINDOW_MS + GRACE_MS - 1, False), (T0_MS + 10_500, True)):
        monkeypatch.setattr(consumer, "now_ms", lambda now=now_ms: now)
        give(processor, [], checkpoints, behind_ms=0)
        assert bool(store.objects) is cut

    assert checkpoints.at == put.sequence


def test_a_late_record_is_a_supplement_and_overwrites_nothing() -> None:
    store, checkpoints = MemoryStore(), Checkpoints()
    processor = started(store)
    puts = [rtt_put(10**55 + i, T0_MS + i, "fra1.rtt", i, 3 + i) for i in range(2)]
    give(processor, puts[:1], checkpoints)
    give(processor, [], checkpoints, behind_ms=0)  # long after the window, by the real clock
    first = dict(store.objects)

    give(processor, puts[1:], checkpoints)
    end(processor, checkpoints)

    assert first.items() < store.objects.items()
    assert [o.supplement for o in origins(store)] == [False, True]
    assert written(store) == expected(puts)


def test_a_throttled_checkpoint_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.consumer.time.sleep", lambda _: None)
    store, checkpoints = MemoryStore(), Checkpoints(errors=["ThrottlingException"] * 3)
    puts = [rtt_put(10**55 + i, T0_MS + i * WINDOW_MS, "fra1.rtt", i, i) for i in range(2)]
    processor = started(store)

    give(processor, puts, checkpoints)

    assert checkpoints.at == puts[0].sequence


def test_a_lost_lease_at_a_checkpoint_is_not_an_error() -> None:
    checkpoints = Checkpoints(errors=["ShutdownException"])
    puts = [rtt_put(10**55 + i, T0_MS + i * WINDOW_MS, "fra1.rtt", i, i) for i in range(2)]

    give(started(MemoryStore()), puts, checkpoints)

    assert checkpoints.at == -1


def test_an_unforeseen_error_ends_the_process() -> None:
    checkpoints = Checkpoints(errors=["InvalidStateException"])
    puts = [rtt_put(10**55 + i, T0_MS + i * WINDOW_MS, "fra1.rtt", i, i) for i in range(2)]

    with pytest.raises(SystemExit):
        give(started(MemoryStore()), puts, checkpoints)


def test_other_bytes_of_the_same_stretch_are_told_and_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    puts = [rtt_put(10**55, T0_MS, "fra1.rtt", 0, 1)]
    store = MemoryStore()
    run_to_the_end(store, puts, Checkpoints())
    key = store.list(kind_prefix(Kind.RTT))[0]
    theirs = store.objects[key] = store.objects[key] + b" "
    del store.objects[store.list(kind_prefix(Kind.DEMAND))[0]]

    run_to_the_end(store, puts, Checkpoints())

    assert store.objects[key] == theirs
    assert '"event": "conflict"' in capsys.readouterr().err


def test_a_retry_that_arrives_in_a_child_is_dropped_there() -> None:
    store, child = MemoryStore(), "shardId-000000000007"
    first = rtt_put(10**55, T0_MS, "fra1.rtt", 0, 1)
    again = Put(10**55 + 9, T0_MS + WINDOW_MS, first.data, first.source, first.number, first.rows)
    run_to_the_end(store, [first], Checkpoints())

    processor, checkpoints = started(store, (SHARD,), child), Checkpoints()
    give(processor, [again], checkpoints)
    end(processor, checkpoints)

    assert sum(o.duplicates for o in origins(store)) == 1
    assert written(store) == expected([first, again])
    assert origins(store)[-1].previous == (origins(store)[0].key(Kind.DEMAND),)


def test_a_cut_by_the_clock_that_was_half_written_ends_where_it_ended() -> None:
    """The clock cut after the first record; the second is of the same window."""
    store, checkpoints = FragileStore(), Checkpoints()
    puts = [rtt_put(10**55 + i, T0_MS + i, "fra1.rtt", i, 3 + i) for i in range(2)]
    processor = started(store)
    give(processor, puts[:1], checkpoints)
    store.lives, store.after_write = 0, True
    with suppress(Killed):
        give(processor, [], checkpoints, behind_ms=0)
    store.lives = 10**9
    assert len(store.objects) == 1  # the demand of the cut, not its RTT

    run_to_the_end(store, puts, checkpoints)

    assert written(store) == expected(puts)
    assert [o.last_sequence for o in origins(store)] == [p.sequence for p in puts]


HOUR_MS = 3_600_000


def test_samples_that_waited_on_disk_for_hours_count() -> None:
    """Kinesis was away for three hours; the source goes on where it stood."""
    now_ms = T0_MS + 3 * HOUR_MS
    puts = [
        rtt_put(10**55, T0_MS, "fra1.rtt", 0, 1),
        rtt_put(10**55 + 1, now_ms, "fra1.rtt", 1, 3, age_ms=3 * HOUR_MS - 2_000),
        rtt_put(10**55 + 2, now_ms, "fra1.rtt", 2, 4, age_ms=2 * HOUR_MS),
    ]
    store = MemoryStore()

    run_to_the_end(store, puts, Checkpoints())

    assert written(store) == expected(puts)
    assert sum(sum(o.quarantined.values()) for o in origins(store)) == 0


def test_a_clock_set_back_by_an_hour_is_quarantined_and_forgiven_when_right_again() -> None:
    ages_ms = (900, HOUR_MS + 900, HOUR_MS + 900, 900)
    puts = [
        rtt_put(10**55 + i, T0_MS + i * 1_000, "fra1.rtt", i, 3 + i, age_ms=age_ms)
        for i, age_ms in enumerate(ages_ms)
    ]
    store = MemoryStore()

    run_to_the_end(store, puts, Checkpoints())

    assert written(store) == expected([puts[0], puts[3]])
    assert [o.quarantined for o in origins(store)] == [{"clock": 2}]
