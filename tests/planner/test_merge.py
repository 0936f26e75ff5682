"""Which partials are read, and their sums against a slow obvious twin."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.histogram import LOST, bucket_of, bucket_value_us
from aggregator.merge import KEYS_PER_READ_MAX, Inbox, rtt_windows
from aggregator.partials import RttPartial, encode
from aggregator.prefixes import UNKNOWN, Prefixes
from benchmarks.cut import origin
from benchmarks.scene import LOST_US, T0_MS, WINDOW_MS, rtt_partial
from popsteer.names import Prefix, prefix_arrays
from popsteer.samples import Kind
from popsteer.store import MemoryStore

POPS = ("a", "b", "c")
PREFIXES = [Prefix.parse(t) for t in ("10.0.0.0/24", "10.0.0.0/16", "2001:db8::/48", "10.9.0.0/24")]
NET, PLEN = prefix_arrays(PREFIXES)


def put(store: MemoryStore, start_ms: int, shard: str = "shard-0") -> str:
    partial = rtt_partial(start_ms, NET, PLEN, POPS, np.full((4, 3), 9_000.0), shard)
    key = partial.origin.key(Kind.RTT)
    store.create(key, encode(partial))
    return key


def test_each_partial_is_read_once_whenever_it_comes() -> None:
    store = MemoryStore()
    inbox = Inbox(store, Kind.RTT, 60_000)
    put(store, T0_MS)
    put(store, T0_MS + 2 * WINDOW_MS)
    assert len(inbox.read()) == 2
    assert inbox.read() == []

    put(store, T0_MS + WINDOW_MS)
    put(store, T0_MS + WINDOW_MS, "shard-1")

    assert len(inbox.read()) == 2
    assert inbox.read() == []


def test_partials_behind_the_horizon_are_left_alone() -> None:
    store = MemoryStore()
    inbox = Inbox(store, Kind.RTT, 60_000)
    put(store, T0_MS)
    put(store, T0_MS + 600_000)

    starts = [partial.origin.window_start_ms for partial in inbox.read()]

    assert starts == [T0_MS + 600_000]


def test_a_long_history_is_read_in_bounded_bites() -> None:
    store = MemoryStore()
    inbox = Inbox(store, Kind.RTT, 10**9)
    for i in range(KEYS_PER_READ_MAX + 5):
        put(store, T0_MS + i * WINDOW_MS)

    assert len(inbox.read()) == KEYS_PER_READ_MAX
    assert len(inbox.read()) == 5


def test_a_broken_partial_is_skipped_and_costs_no_other() -> None:
    store = MemoryStore()
    inbox = Inbox(store, Kind.RTT, 60_000)
    store.create(put(store, T0_MS).replace("shard-0", "shard-x"), b"no parquet")

    assert len(inbox.read()) == 1
    assert inbox.read() == []


samples = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 3),
        st.integers(0, 2),
        st.one_of(st.just(LOST_US), st.floats(200, 900_000)),
    ),
    min_size=1,
    max_size=60,
)


def partial_of(rows: list[tuple[int, int, int, float]]) -> RttPartial:
    window, prefix, pop, rtt = (np.array(column) for column in zip(*rows, strict=True))
    lost = rtt == LOST_US
    shown = np.where(lost, 1_000_000, rtt).astype(np.uint32)
    return RttPartial(
        origin("popsteer-bulk", T0_MS + WINDOW_MS, WINDOW_MS),
        POPS,
        T0_MS + window * WINDOW_MS,
        NET[prefix],
        PLEN[prefix],
        pop.astype(np.uint16),
        np.zeros(len(rows), np.uint8),
        np.where(lost, LOST, bucket_of(shown)).astype(np.int16),
        np.ones(len(rows), np.uint32),
        shown,
    )


@given(samples, st.integers(1, 59))
@settings(max_examples=200)
def test_windows_are_medians_of_all_samples_wherever_they_were_folded(
    rows: list[tuple[int, int, int, float]], cut: int
) -> None:
    halves = [partial_of(part) for part in (rows[:cut], rows[cut:]) if part]
    prefixes = Prefixes()

    windows = rtt_windows(halves, prefixes, POPS)

    assert [w.end_ms for w in windows] == sorted({T0_MS + (row[0] + 1) * WINDOW_MS for row in rows})
    for window in windows:
        assert (np.diff(window.key) > 0).all()
        for i, key in enumerate(window.key.tolist()):
            row, pop = divmod(key, len(POPS))
            here = sorted(
                np.inf if rtt == LOST_US else rtt
                for w, prefix, p, rtt in rows
                if T0_MS + (w + 1) * WINDOW_MS == window.end_ms
                and p == pop
                and prefixes.net[row] == NET[prefix]
                and prefixes.plen[row] == PLEN[prefix]
            )
            assert window.answered[i] + window.lost[i] == len(here)
            assert window.lost[i] == here.count(np.inf)
            median = here[(len(here) - 1) // 2]
            if np.isinf(median):
                assert np.isnan(window.median_us[i])
                assert window.wait_us[i] == 1_000_000
            else:
                shown = np.array([int(median)], np.uint32)
                assert window.median_us[i] == bucket_value_us(bucket_of(shown))[0]


def test_a_clock_that_runs_ahead_is_cut_to_the_arrival() -> None:
    partial = rtt_partial(T0_MS, NET, PLEN, POPS, np.full((4, 3), 9_000.0))
    partial.event_window_ms[:] += 3_600_000

    (window,) = rtt_windows([partial], Prefixes(), POPS)

    assert window.end_ms == T0_MS + WINDOW_MS


def test_pops_that_are_not_configured_are_left_out() -> None:
    partial = rtt_partial(T0_MS, NET, PLEN, POPS, np.full((4, 3), 9_000.0))

    (window,) = rtt_windows([partial], Prefixes(), ("b",))

    assert len(window.key) == 4


def test_prefixes_keep_their_rows_and_find_their_covers() -> None:
    prefixes = Prefixes(rows_max=4)

    rows = prefixes.add(NET, PLEN)
    again = prefixes.add(NET[::-1], PLEN[::-1])[::-1]
    refused = prefixes.add(*prefix_arrays([Prefix.parse("10.7.0.0/24")]))

    assert np.array_equal(rows, again)
    assert refused[0] == UNKNOWN
    assert prefixes.refused == 1
    covers = prefixes.covering()[rows].tolist()
    assert covers == [rows[1], UNKNOWN, UNKNOWN, UNKNOWN]
