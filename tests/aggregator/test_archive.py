"""Compaction loses nothing but resolution, and deletes nothing that is not kept elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from aggregator import settings as consumer
from aggregator.archive import DAY, DAY_MS, HOUR, PARTIALS_KEPT_MS, compact, recall
from aggregator.partials import encode, kind_prefix, window_of_key
from aggregator.sums import EVENT
from benchmarks.scene import rtt_partial, signal_partial
from popsteer.aws import s3
from popsteer.clock import HOUR_MS, MINUTE_MS, now_ms
from popsteer.config import Aws, Config
from popsteer.names import Prefix, prefix_arrays
from popsteer.samples import Kind, Signal
from popsteer.store import MemoryStore, s3_store

T0_MS = 1_700_000_000_000 // DAY_MS * DAY_MS
POPS = ("ams1", "fra1")
NET, PLEN = prefix_arrays(Prefix.parse(text) for text in ("10.0.0.0/24", "2001:db8::/48"))


def put(store: MemoryStore, start_ms: int, rtt_ms: float = 20.0, shard: str = "shard-0") -> None:
    rtt_us = np.full((2, 2), rtt_ms * 1e3)
    partial = rtt_partial(start_ms, NET, PLEN, POPS, rtt_us, shard)
    assert store.create(partial.origin.key(Kind.RTT), encode(partial))


def samples(rows: pa.Table | None) -> int:
    return int(pc.sum(rows.column("count")).as_py()) if rows is not None else 0


def test_an_hour_becomes_one_file_of_minutes() -> None:
    store = MemoryStore()
    for at_ms in range(T0_MS, T0_MS + HOUR_MS, 30_000):
        put(store, at_ms)

    assert compact(store, T0_MS + HOUR_MS) == 0  # a shard may lag
    assert compact(store, T0_MS + HOUR_MS + 10 * MINUTE_MS) == 1
    assert compact(store, T0_MS + 2 * HOUR_MS) == 0

    assert HOUR.starts_ms(store, Kind.RTT) == [T0_MS]
    rows = recall(store, Kind.RTT, T0_MS, T0_MS + 10 * HOUR_MS)
    assert samples(rows) == 120 * 4
    assert rows is not None
    assert set(np.diff(np.unique(rows.column(EVENT).to_numpy()))) == {MINUTE_MS}


def test_partials_go_when_they_are_old_and_nothing_is_lost() -> None:
    store = MemoryStore()
    for hour in range(72):
        put(store, T0_MS + hour * HOUR_MS)
    end_ms = T0_MS + 72 * HOUR_MS

    compact(store, end_ms)

    kept = store.list(kind_prefix(Kind.RTT))
    assert len(kept) == PARTIALS_KEPT_MS // HOUR_MS
    assert samples(recall(store, Kind.RTT, T0_MS, end_ms)) == 72 * 4
    assert DAY.starts_ms(store, Kind.RTT) == [T0_MS, T0_MS + DAY_MS]


def test_days_stand_in_when_the_hours_are_gone() -> None:
    store = MemoryStore()
    for hour in range(24):
        put(store, T0_MS + hour * HOUR_MS)
    compact(store, T0_MS + 3 * DAY_MS)

    later_ms = T0_MS + 40 * DAY_MS
    compact(store, later_ms)

    assert HOUR.starts_ms(store, Kind.RTT) == []
    assert samples(recall(store, Kind.RTT, T0_MS, later_ms)) == 24 * 4


def test_no_minute_is_missing_where_partials_are_kept_for_two_hours() -> None:
    """As the embedded AWS does; the compactor comes every quarter of an hour."""
    store = MemoryStore()
    start_ms = T0_MS + 7 * MINUTE_MS
    for minute in range(6 * 60):
        at_ms = start_ms + minute * MINUTE_MS
        put(store, at_ms)
        if minute % 15 == 0:
            compact(store, at_ms)
        for key in store.list(kind_prefix(Kind.RTT)):
            if window_of_key(key) >= at_ms - 2 * HOUR_MS:
                break
            store.delete(key)
        if minute % 23 == 0:
            assert samples(recall(store, Kind.RTT, T0_MS, at_ms + 1)) == 4 * (minute + 1)


def test_signals_are_kept_too() -> None:
    store = MemoryStore()
    for second in range(120):
        load = {("fra1", Signal.LOAD_BPS): float(second)}
        partial = signal_partial(T0_MS + 1_000 * second, load)
        store.create(partial.origin.key(Kind.SIGNAL), encode(partial))

    compact(store, T0_MS + 2 * HOUR_MS)

    rows = recall(store, Kind.SIGNAL, T0_MS, T0_MS + 5 * HOUR_MS)
    assert rows is not None
    assert rows.num_rows == 2
    assert pc.sum(rows.column("sum")).as_py() == sum(range(120))
    assert pc.max(rows.column("max")).as_py() == 119


def test_a_broken_partial_is_left_out_and_the_rest_is_kept() -> None:
    store = MemoryStore()
    put(store, T0_MS)
    store.create(f"{kind_prefix(Kind.RTT)}window={T0_MS:013d}/broken.parquet", b"no parquet")

    compact(store, T0_MS + 2 * HOUR_MS)

    assert samples(recall(store, Kind.RTT, T0_MS, T0_MS + 5 * HOUR_MS)) == 4


def test_the_compactor_is_a_process_that_does_it_once(local_aws: Aws, tmp_path: Path) -> None:
    own = replace(local_aws, bucket="compactor")
    s3(own).create_bucket(
        Bucket=own.bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    start_ms = now_ms() // HOUR_MS * HOUR_MS - 3 * DAY_MS
    partial = rtt_partial(start_ms, NET, PLEN, POPS, np.full((2, 2), 20e3))
    s3_store(own).create(partial.origin.key(Kind.RTT), encode(partial))
    file = tmp_path / "consumer.json"
    consumer.save(consumer.bulk(Config(aws=own)), file)

    subprocess.run(
        [sys.executable, "-m", "aggregator.compactor"],
        env={**os.environ, consumer.VARIABLE: str(file)},
        check=True,
        timeout=60,
    )

    store = s3_store(own)
    assert HOUR.starts_ms(store, Kind.RTT) == [start_ms]
    assert samples(recall(store, Kind.RTT, start_ms, now_ms())) == 4
    assert store.list(kind_prefix(Kind.RTT)) == []  # older than they are kept


@settings(max_examples=40)
@given(
    starts=st.lists(st.integers(0, 80 * 360), min_size=1, max_size=30, unique=True),
    compactions=st.lists(st.integers(0, 90), max_size=4),
    since_h=st.integers(0, 80),
)
def test_recall_counts_every_sample_once_whenever_files_are_made(
    starts: list[int], compactions: list[int], since_h: int
) -> None:
    store = MemoryStore()
    for number, start in enumerate(starts):
        put(store, T0_MS + start * 10_000, shard=f"shard-{number}")
    # Every partial is there before the first compaction that could take its hour.
    for hour in sorted(compactions):
        compact(store, T0_MS + (81 + hour) * HOUR_MS)
    end_ms = T0_MS + (81 + max(compactions, default=0)) * HOUR_MS

    since_ms = T0_MS + since_h * HOUR_MS
    rows = recall(store, Kind.RTT, since_ms, end_ms)

    wanted = [start for start in starts if T0_MS + start * 10_000 >= since_ms]
    assert samples(rows) == 4 * len(wanted)
