"""The batcher against a list of rows."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer import samples
from popsteer.batch import Batcher, halves
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind, RttBatch, SignalBatch

Row = tuple[int, int, int, int, int, int, int]
ROWS = st.tuples(
    st.integers(0, 10_000),
    st.integers(0, 2**24 - 1).map(lambda n: n << 40),
    st.just(24),
    st.integers(0, 2),
    st.integers(0, 60_000_000),
    st.integers(0, 4),
    st.integers(0, 1),
)
COLUMNS = ("net", "plen", "subject", "rtt_us", "method", "lost")


def make(rows_max: int, age_ms_max: int = 1_000) -> Batcher:
    source = SourceId("a.rtt")
    return Batcher(Kind.RTT, source, ["x", "y", "z"], rows_max=rows_max, age_ms_max=age_ms_max)


def rows_of(batches: list[Batch]) -> list[Row]:
    found: list[Row] = []
    for batch in batches:
        assert isinstance(batch, RttBatch)
        times = (batch.header.t0_ms + batch.dt_ms.astype(np.int64)).tolist()
        columns = [getattr(batch, name).tolist() for name in COLUMNS]
        found += zip(times, *columns, strict=True)
    return found


@given(rows=st.lists(ROWS, max_size=60), rows_max=st.integers(1, 9), whole=st.booleans())
@settings(max_examples=80)
def test_rows_come_out_as_they_went_in(rows: list[Row], rows_max: int, *, whole: bool) -> None:
    batcher = make(rows_max)
    if whole and rows:
        time_ms, *columns = (np.array(column) for column in zip(*rows, strict=True))
        batcher.extend(time_ms, *columns)
    else:
        for row in rows:
            batcher.append(*row)
    batches = batcher.take(0, flush=True)
    assert rows_of(batches) == rows
    assert all(samples.rows(batch) <= rows_max for batch in batches)
    decoded = [samples.decode(samples.encode(batch)) for batch in batches]
    assert rows_of(decoded) == rows


def test_a_batch_is_cut_by_age() -> None:
    batcher = make(100, age_ms_max=1_000)
    batcher.append(5_000, 0, 24, 0, 1, 0, 0)
    batcher.append(5_900, 0, 24, 0, 2, 0, 0)
    assert batcher.take(5_999) == []
    assert [samples.rows(batch) for batch in batcher.take(6_000)] == [2]
    assert batcher.take(9_000) == []


def test_a_full_batch_does_not_wait() -> None:
    batcher = make(2)
    for time_ms in (1, 2, 3):
        batcher.append(time_ms, 0, 24, 0, 1, 0, 0)
    assert [samples.rows(batch) for batch in batcher.take(3)] == [2]


def test_a_batch_is_not_changed_by_what_comes_after() -> None:
    batcher = make(10)
    batcher.append(1, 0, 24, 0, 111, 0, 0)
    first = batcher.take(0, flush=True)
    batcher.append(2, 0, 24, 0, 222, 0, 0)
    assert rows_of(first)[0][4] == 111


def test_other_kinds_have_their_own_columns() -> None:
    batcher = Batcher(Kind.SIGNAL, SourceId("a.signal"), ["fra1", "fra1/decix"])
    batcher.append(7, 1, samples.Signal.TX_BPS, 2.5e9)
    (batch,) = batcher.take(0, flush=True)
    assert isinstance(batch, SignalBatch)
    assert batch.value.tolist() == [2.5e9]
    assert batch.subject.tolist() == [1]


@given(rows=st.lists(ROWS, min_size=2, max_size=30))
@settings(max_examples=30)
def test_halves_are_the_whole(rows: list[Row]) -> None:
    batcher = make(100)
    for row in rows:
        batcher.append(*row)
    first, second = halves(batcher.take(0, flush=True)[0])
    assert rows_of([first, second]) == rows
