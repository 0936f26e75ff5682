"""Which partials to read next, and what they say together: sums by window, prefix and POP.

The stream half writes partials at its own pace: shards lag, a restarted worker catches up, and
supplementary objects come after the window they belong to. So "newer than the last one read" is
not enough: every key within a horizon behind the newest window is looked at until it was read.
The sums are the reducer of the fold: reading partials in another order changes nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.histogram import LOST, bucket_value_us
from aggregator.partials import (
    DemandPartial,
    Partial,
    RttPartial,
    decode,
    kind_prefix,
    window_of_key,
    window_prefix,
)
from aggregator.prefixes import UNKNOWN, Prefixes, Rows
from popsteer.errors import StoreError
from popsteer.samples import Kind
from popsteer.store import ObjectStore
from popsteer.telemetry import logger

KEYS_PER_READ_MAX = 256
"""Objects read in one go; the rest waits for the next, so that memory stays bounded."""
_RANK_BITS = 13
_LOST_RANK = (1 << _RANK_BITS) - 1
"""Where lost probes sort: behind every RTT, for they took longer than was waited."""


class Inbox:
    """Reads each partial of one kind once. Owns the set of keys read within the horizon."""

    def __init__(self, store: ObjectStore, kind: Kind, horizon_ms: int) -> None:
        self._store = store
        self._kind = kind
        self._horizon_ms = horizon_ms
        self._seen: set[str] = set()
        self.newest_ms = 0
        """Start of the newest arrival window seen."""

    def read(self) -> list[Partial]:
        """Partials not given before, oldest window first, at most `KEYS_PER_READ_MAX`.

        Raises:
            StoreError: the store cannot be reached; what was given stays given.
        """
        after = window_prefix(self._kind, max(0, self.newest_ms - self._horizon_ms))
        keys = self._store.list(kind_prefix(self._kind), after if self.newest_ms else "")
        keys = [key for key in keys if key.endswith(".parquet")]
        if not keys:
            return []
        newest_ms = max(self.newest_ms, window_of_key(keys[-1]))
        first = window_prefix(self._kind, max(0, newest_ms - self._horizon_ms))
        fresh = [key for key in keys if key >= first and key not in self._seen]
        self._seen = {key for key in self._seen if key >= first}
        given = []
        for key in fresh[:KEYS_PER_READ_MAX]:
            stored = self._store.read(key)
            self._seen.add(key)
            if stored is not None:
                given += _decoded(key, stored.body)
        self.newest_ms = newest_ms
        return given


def _decoded(key: str, body: bytes) -> list[Partial]:
    """The partial, or nothing when the object is none: it is logged and never read again."""
    try:
        return [decode(body)]
    except StoreError as error:
        logger().warning("partial refused", key=key, reason=str(error))
        return []


@dataclass(frozen=True, slots=True)
class RttWindow:
    """What one event window says of n pairs, sorted by key."""

    end_ms: int
    key: NDArray[np.int64]
    """row * pops + pop"""
    median_us: NDArray[np.float64]
    """The lower median of all probes, lost ones taken as longer than any; NaN when it is lost."""
    wait_us: NDArray[np.float64]
    """The longest wait for a lost probe; 0 where none was lost."""
    answered: NDArray[np.float64]
    lost: NDArray[np.float64]


def rtt_windows(
    partials: Iterable[RttPartial], prefixes: Prefixes, pops: Sequence[str]
) -> list[RttWindow]:
    """The windows of event time in the partials, oldest first.

    Prefixes are added; rows of POPs that are not among `pops` are left out. Which partial says
    what changes nothing, so neither does the number of shards.
    """
    listed = list(partials)
    columns: list[list[NDArray[np.int64]]] = []
    for partial, row in zip(listed, rows_of_all(listed, prefixes), strict=True):
        pop = _pop_numbers(partial.pops, pops)[partial.pop]
        keep = (pop != UNKNOWN) & (row != UNKNOWN)
        rank = np.where(partial.bucket == LOST, _LOST_RANK, partial.bucket).astype(np.int64)
        end_ms = event_end_ms(partial)
        parts = (end_ms, row * len(pops) + pop, rank, partial.count, partial.max_us)
        columns.append([part[keep].astype(np.int64) for part in parts])
    if not columns:
        return []
    end, key, rank, count, high = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return [
        _rtt_window(int(one), key[here], rank[here], count[here], high[here])
        for one in np.unique(end)
        for here in [end == one]
    ]


def rows_of_all(
    partials: Sequence[RttPartial] | Sequence[DemandPartial], prefixes: Prefixes
) -> list[Rows]:
    """The row of each prefix of each partial; new ones are added together, in one order."""
    if not partials:
        return []
    net, plen = (np.concatenate([getattr(p, name) for p in partials]) for name in ("net", "plen"))
    return np.split(prefixes.add(net, plen), np.cumsum([len(p.net) for p in partials])[:-1])


def event_end_ms(partial: RttPartial | DemandPartial) -> NDArray[np.int64]:
    """End of the event window of each row; never later than the arrival, whatever a clock says."""
    arrived_ms = partial.origin.window_start_ms + partial.origin.window_ms
    end_ms: NDArray[np.int64] = np.minimum(
        partial.event_window_ms + partial.origin.window_ms, arrived_ms
    )
    return end_ms


def _pop_numbers(names: Sequence[str], pops: Sequence[str]) -> NDArray[np.int64]:
    place = {pop: number for number, pop in enumerate(pops)}
    return np.array([place.get(name, UNKNOWN) for name in names], np.int64)


def _rtt_window(
    end_ms: int,
    key: NDArray[np.int64],
    rank: NDArray[np.int64],
    count: NDArray[np.int64],
    high_us: NDArray[np.int64],
) -> RttWindow:
    """Medians of all pairs by one sort and one running sum."""
    order = np.argsort((key << _RANK_BITS) | rank, kind="stable")
    key, rank, count, high_us = key[order], rank[order], count[order], high_us[order]
    start = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else key[:0]
    pair = np.cumsum(np.append(True, key[1:] != key[:-1])) - 1 if len(key) else key[:0]
    lost_rows = rank == _LOST_RANK
    n = len(start)
    lost = np.bincount(pair, np.where(lost_rows, count, 0), n)
    answered = np.bincount(pair, count, n) - lost
    wait = np.zeros(n)
    np.maximum.at(wait, pair[lost_rows], high_us[lost_rows].astype(np.float64))
    running = np.cumsum(count) - count
    before = running - running[start][pair] if n else running
    total = (answered + lost)[pair]
    # The row in which the running count passes half of the total: the lower median.
    holds = (2 * before < total) & (2 * (before + count) >= total)
    median_rank = np.zeros(n, np.int64)
    first = np.flatnonzero(holds)[::-1]
    median_rank[pair[first]] = rank[first]
    bucket = np.where(median_rank == _LOST_RANK, LOST, median_rank).astype(np.int16)
    return RttWindow(
        end_ms,
        key[start],
        bucket_value_us(bucket),
        wait,
        answered.astype(np.float64),
        lost.astype(np.float64),
    )
