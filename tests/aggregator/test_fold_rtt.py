"""The fold of RTT against a slow obvious twin, for samples of any shape."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator import blocks, fold_rtt, packing
from aggregator.fold_rtt import RttFold
from aggregator.histogram import BUCKET_MAX, FIRST_US, LOST, bucket_of
from aggregator.partials import Origin, RttPartial
from popsteer.names import SourceId
from popsteer.samples import RTT_US_MAX, Header, Method, RttBatch, newest_ms

WINDOW_MS = 10_000
T0_MS = 1_700_000_000_000
ORIGIN = Origin("popsteer-bulk", "s", T0_MS, WINDOW_MS, 0, 1, 1, 1, 0, {}, False, (), {})
SUBJECTS = ("fra1", "ams1", "nowhere", "syd1")

Row = tuple[int, str, int, int, int, int]


def batch(rows: list[tuple[int, int, int, int, int, int, int]]) -> RttBatch:
    """Rows of (dt, net, plen, subject, RTT, method, lost)."""
    dt_ms, net, plen, subject, rtt_us, method, lost = zip(*rows, strict=True) if rows else [()] * 7
    return RttBatch(
        Header(SourceId("s"), 0, T0_MS - 3, SUBJECTS),
        np.array(dt_ms, np.uint32),
        np.array(net, np.uint64),
        np.array(plen, np.uint8),
        np.array(subject, np.uint16),
        np.array(rtt_us, np.uint32),
        np.array(method, np.uint8),
        np.array(lost, np.uint8),
    )


def folded(fold: RttFold, batches: list[RttBatch]) -> RttPartial:
    for one in batches:
        fold.add(one, newest_ms(one))
    rows = fold.close()
    assert not rows.refused
    return RttPartial(ORIGIN, rows.pops, **rows.columns)


def rows_of(partial: RttPartial) -> list[tuple[Row, tuple[int, int]]]:
    """As they stand: what a row is about, and its count and highest RTT."""
    columns = (
        partial.event_window_ms.tolist(),
        [partial.pops[pop] for pop in partial.pop.tolist()],
        partial.net.tolist(),
        partial.plen.tolist(),
        partial.method.tolist(),
        partial.bucket.tolist(),
    )
    keys = zip(*columns, strict=True)
    values = zip(partial.count.tolist(), partial.max_us.tolist(), strict=True)
    return list(zip(keys, values, strict=True))


def twin(batches: list[RttBatch]) -> list[tuple[Row, tuple[int, int]]]:
    waits: dict[Row, list[int]] = defaultdict(list)
    for one in batches:
        for i in range(len(one.dt_ms)):
            at_ms = one.header.t0_ms + int(one.dt_ms[i])
            rtt_us = int(one.rtt_us[i])
            bucket = LOST if one.lost[i] else int(bucket_of(np.array([rtt_us], np.uint32))[0])
            row = (
                at_ms // WINDOW_MS * WINDOW_MS,
                SUBJECTS[one.subject[i]],
                int(one.net[i]),
                int(one.plen[i]),
                int(one.method[i]),
                bucket,
            )
            waits[row].append(rtt_us)
    return [(row, (len(waits[row]), max(waits[row]))) for row in sorted(waits)]


@st.composite
def batches_given(draw: st.DrawFn) -> list[RttBatch]:
    """Columns of any width, so that keys fit easily, just so, or not at all."""
    nets = draw(
        st.lists(
            st.one_of(
                st.integers(0, 2**24 - 1).map(lambda n: n << 40),
                st.integers(0, 2**64 - 1),
                st.integers(2**63 - 3, 2**63 + 3),
            ),
            min_size=1,
            max_size=6,
        )
    )
    dt_ms_max = draw(st.sampled_from([2, 3, 25_000, 2**32 - 1]))
    rtt_us_max = draw(st.sampled_from([0, 1, 100, RTT_US_MAX]))
    plens = draw(st.lists(st.integers(0, 255), min_size=1, max_size=3))
    row = st.tuples(
        st.integers(0, dt_ms_max),
        st.sampled_from(nets),
        st.sampled_from(plens),
        st.integers(0, 3),
        st.integers(0, rtt_us_max),
        st.integers(0, len(Method) - 1),
        st.integers(0, 1),
    )
    return [batch(draw(st.lists(row, max_size=20))) for _ in range(draw(st.integers(0, 4)))]


@contextmanager
def limits(block_rows: int, part_bits_max: int, pairs_max: int = 65_536) -> Iterator[None]:
    """Small blocks, nets numbered and places sorted as soon as asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ROWS", block_rows)
        patch.setattr(packing, "PART_BITS_MAX", part_bits_max)
        patch.setattr(fold_rtt, "PAIRS_MAX", pairs_max)
        yield


@given(
    st.lists(batches_given(), min_size=1, max_size=3),
    st.sampled_from([20, 64, 1 << 17]),
    st.sampled_from([0, 13]),
    st.sampled_from([0, 65_536]),
)
@example([[batch([(0, 0, 0, 0, 0, 0, 1)])]], 20, 13, 65_536)
def test_rows_are_those_of_the_twin(
    cuts: list[list[RttBatch]], block_rows: int, part_bits_max: int, pairs_max: int
) -> None:
    """Cut after cut through the same memory."""
    fold = RttFold(WINDOW_MS)
    with limits(block_rows, part_bits_max, pairs_max):
        for batches in cuts:
            assert rows_of(folded(fold, batches)) == twin(batches)


def test_a_partial_stays_as_it_is_when_the_next_cut_is_folded() -> None:
    fold = RttFold(WINDOW_MS)
    first = folded(fold, [batch([(0, 1 << 40, 24, 0, 5_000, 1, 0)])])
    before = rows_of(first)

    folded(fold, [batch([(0, 2 << 40, 24, 1, 7_000, 2, 1)] * 3)])

    assert rows_of(first) == before


@pytest.mark.parametrize("slowest_us", [RTT_US_MAX, 10_000])
def test_buckets_change_at_their_edges(slowest_us: int) -> None:
    """At every edge, on both sides of it."""
    edges = FIRST_US[2 : BUCKET_MAX + 2].astype(np.int64)
    rtts_us = np.unique(np.concatenate([edges - 1, edges, edges + 1]))
    rtts_us = rtts_us[rtts_us <= slowest_us]

    partial = folded(
        RttFold(WINDOW_MS), [batch([(0, 0, 0, 0, rtt_us, 0, 0) for rtt_us in rtts_us.tolist()])]
    )

    buckets, counts = np.unique(bucket_of(rtts_us.astype(np.uint32)), return_counts=True)
    assert partial.bucket.tolist() == buckets.tolist()
    assert partial.count.tolist() == counts.tolist()


def test_blocks_are_filled_again_and_no_more_are_kept_than_a_cut_took() -> None:
    held, one = blocks.Blocks(), batch([(0, 1 << 40, 24, 0, 5_000, 1, 0)] * 10)
    place = np.zeros(10, np.uint32)
    with limits(20, 13):
        for records, kept in ((10, 5), (9, 5), (2, 1), (3, 2)):
            for _ in range(records):
                held.add(one, place)
            assert len(held) == records * 10
            held.clear()
            assert len(held.blocks) == kept
