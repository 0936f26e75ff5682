"""The archive: partials of the past, merged into hourly and daily files, and read again.

    history/kind=<kind>/hour=<start, 13 digits of ms>.parquet   by the minute, kept for weeks
    history/kind=<kind>/day=<start>.parquet                     by the hour, kept for a year

A file holds what the partials of its arrival hours say together. It is written once
(`If-None-Match: *`), so several compactors do no harm; partials are deleted long after.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from aggregator import sums
from aggregator.partials import kind_prefix, window_of_key, window_prefix
from popsteer.clock import HOUR_MS, MINUTE_MS
from popsteer.errors import StoreError
from popsteer.samples import Kind
from popsteer.store import ObjectStore, Stored
from popsteer.telemetry import logger

DAY_MS = 24 * HOUR_MS
LATE_MS = 10 * MINUTE_MS
"""An hour is merged so long after its end: a shard that lagged has caught up by then."""
HOUR_RESOLUTION_MS = MINUTE_MS
DAY_RESOLUTION_MS = HOUR_MS
PARTIALS_KEPT_MS = 2 * DAY_MS
"""Twice as long as Kinesis keeps a record: a worker takes up where its newest partial ends."""
HOURS_KEPT_MS = 35 * DAY_MS
DAYS_KEPT_MS = 400 * DAY_MS
FRESH_MS = HOUR_MS
"""What is younger is read from the partials themselves, by the window. No longer: partials may be
kept for two hours alone, as `popsteer up` does, and an hour of them is thousands of objects."""
MERGED_AT_ONCE = 64
"""Partials held in memory together."""
READERS = 8
"""Objects on their way at once: an hour of the urgent stream has thousands."""


@dataclass(frozen=True, slots=True)
class Span:
    """A size of file: how long, how fine, and how long it is kept."""

    name: str
    length_ms: int
    resolution_ms: int
    kept_ms: int

    def prefix(self, kind: Kind) -> str:
        """Where its files are."""
        return f"history/kind={kind.value}/{self.name}="

    def key(self, kind: Kind, start_ms: int) -> str:
        """The file that begins at a time."""
        return f"{self.prefix(kind)}{start_ms:013d}.parquet"

    def starts_ms(self, store: ObjectStore, kind: Kind) -> list[int]:
        """Of the files that are there, in order."""
        stem = len(self.prefix(kind))
        return [int(key[stem : stem + 13]) for key in store.list(self.prefix(kind))]


HOUR = Span("hour", HOUR_MS, HOUR_RESOLUTION_MS, HOURS_KEPT_MS)
DAY = Span("day", DAY_MS, DAY_RESOLUTION_MS, DAYS_KEPT_MS)


def compact(store: ObjectStore, now_ms: int) -> int:
    """Write every file whose time has come, delete what is too old; gives how many were written.

    Raises:
        StoreError: the store is away; what was written stays written.
    """
    written = 0
    for kind in Kind:
        written += _write_hours(store, kind, now_ms)
        written += _write_days(store, kind, now_ms)
        _sweep(store, kind, now_ms)
    return written


def _write_hours(store: ObjectStore, kind: Kind, now_ms: int) -> int:
    keys = [key for key in store.list(kind_prefix(kind)) if key.endswith(".parquet")]
    there = set(HOUR.starts_ms(store, kind))
    hours: dict[int, list[str]] = {}
    for key in keys:
        start_ms = window_of_key(key) // HOUR_MS * HOUR_MS
        if start_ms not in there and start_ms + HOUR_MS + LATE_MS <= now_ms:
            hours.setdefault(start_ms, []).append(key)
    for start_ms, parts in sorted(hours.items()):
        _write(store, HOUR, kind, start_ms, parts)
    return len(hours)


def _write_days(store: ObjectStore, kind: Kind, now_ms: int) -> int:
    there = set(DAY.starts_ms(store, kind))
    days: dict[int, list[str]] = {}
    for hour_ms in HOUR.starts_ms(store, kind):
        start_ms = hour_ms // DAY_MS * DAY_MS
        if start_ms not in there and start_ms + DAY_MS + 2 * LATE_MS <= now_ms:
            days.setdefault(start_ms, []).append(HOUR.key(kind, hour_ms))
    for start_ms, parts in sorted(days.items()):
        _write(store, DAY, kind, start_ms, parts)
    return len(days)


def _write(store: ObjectStore, span: Span, kind: Kind, start_ms: int, keys: list[str]) -> None:
    whole = _merged(store, keys, span.resolution_ms)
    if whole is not None:
        store.create(span.key(kind, start_ms), sums.write(whole))


def _sweep(store: ObjectStore, kind: Kind, now_ms: int) -> None:
    for key in store.list(kind_prefix(kind)):
        if window_of_key(key) >= now_ms - PARTIALS_KEPT_MS:
            break
        store.delete(key)
    for span in (HOUR, DAY):
        for start_ms in span.starts_ms(store, kind):
            if start_ms < now_ms - span.kept_ms:
                store.delete(span.key(kind, start_ms))


def _merged(store: ObjectStore, keys: list[str], resolution_ms: int = 1) -> pa.Table | None:
    """What all of them say together; None where nothing is left of them."""
    tables: list[pa.Table] = []
    for table in _tables(store, keys):
        tables.append(table)
        if len(tables) >= MERGED_AT_ONCE:
            tables = [sums.merged(tables, resolution_ms)]
    return sums.merged(tables, resolution_ms) if tables else None


def _tables(store: ObjectStore, keys: list[str]) -> Iterator[pa.Table]:
    for key, stored in _objects(store, keys):
        if stored is None:
            continue  # swept meanwhile
        try:
            yield sums.read(stored.body)
        except StoreError as error:
            logger().warning("left out of the archive", key=key, reason=str(error))


def _objects(store: ObjectStore, keys: list[str]) -> Iterator[tuple[str, Stored | None]]:
    """Each key with its object, in order."""
    with ThreadPoolExecutor(READERS) as readers:
        for first in range(0, len(keys), MERGED_AT_ONCE):
            some = keys[first : first + MERGED_AT_ONCE]
            yield from zip(some, readers.map(store.read, some), strict=True)


def recall(store: ObjectStore, kind: Kind, since_ms: int, now_ms: int) -> pa.Table | None:
    """What was measured from `since_ms` on, from the finest files that are whole.

    Gives None where there is nothing.

    Raises:
        StoreError: the store is away.
    """
    whole = _merged(store, _keys_since(store, kind, since_ms, now_ms))
    if whole is None:
        return None
    return whole.filter(pc.greater_equal(whole.column(sums.EVENT), since_ms))


def _keys_since(store: ObjectStore, kind: Kind, since_ms: int, now_ms: int) -> list[str]:
    """Days while hours are being deleted, hours while partials may be, partials for the rest."""
    days = _from(DAY.starts_ms(store, kind), since_ms, now_ms - HOURS_KEPT_MS + DAY_MS, DAY)
    by_day_ms = days[-1] + DAY_MS if days else 0
    hours = [
        start_ms
        for start_ms in _from(HOUR.starts_ms(store, kind), since_ms, now_ms - FRESH_MS, HOUR)
        if start_ms >= by_day_ms
    ]
    by_hour_ms = hours[-1] + HOUR_MS if hours else by_day_ms
    first_ms = max(since_ms // MINUTE_MS * MINUTE_MS, by_hour_ms)
    partials = [
        key
        for key in store.list(kind_prefix(kind), window_prefix(kind, first_ms))
        if key.endswith(".parquet") and window_of_key(key) < now_ms
    ]
    files = [DAY.key(kind, at) for at in days] + [HOUR.key(kind, at) for at in hours]
    return files + partials


def _from(starts_ms: list[int], since_ms: int, until_ms: int, span: Span) -> list[int]:
    return [at for at in starts_ms if at + span.length_ms > since_ms and at < until_ms]
