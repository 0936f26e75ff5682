"""A recorded stream through the same fold, merge and planner, under a virtual clock.

The same recording gives the same bytes on every run. How the sources are spread over shards
changes which partials there are, but neither what they say together nor the table: partials are
sums, and a window is shown to the planner when it is closed on every shard.

Owns the virtual clock and a store in memory; the decisions are those of `window` and `planner`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from aggregator import partials as partial_format
from aggregator import recording, settings
from aggregator.planner import Planner
from aggregator.recording import Recorded
from aggregator.settings import ConsumerSettings
from aggregator.sums import merged_digest
from aggregator.window import Cut, Record, Resume, ShardFold
from popsteer import orders as orders_format
from popsteer import routes as routes_format
from popsteer import table as table_format
from popsteer import targets as targets_format
from popsteer.clock import HOUR_MS, SECOND_MS
from popsteer.config import Config
from popsteer.config_file import load
from popsteer.store import MemoryStore, ObjectStore
from popsteer.table import Table

STEP_MS = SECOND_MS
KEPT_MS = HOUR_MS
"""Partials older than this are forgotten here, as nothing reads them any more."""
HASH_KEYS = 2**128

Progress = Callable[[float], None]
"""Is told the share of the recording that is done."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found; digests are SHA-256 in hex."""

    shards: int
    records: int
    samples: int
    duplicates: int
    quarantined: dict[str, int]
    partials: int
    partials_sha256: str
    """Of every partial's key and bytes: the same for the same number of shards."""
    sums_sha256: str
    """Of what all partials of each window say together: the same for any number of shards."""
    tables: int
    """Tables put in force."""
    refused: str
    rows: int
    table_sha256: str
    """Of the last table, without which shards it came from: the same for any number of shards."""


@dataclass(slots=True)
class _Tally:
    """The running digests and counts."""

    counts: Counter[str] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)
    partials: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    sums: "hashlib._Hash" = field(default_factory=hashlib.sha256)


class Shards:
    """The shards of one stream: takes records, gives the cuts of windows that are over."""

    def __init__(self, own: ConsumerSettings, count: int) -> None:
        self.closes_after_ms = own.window_ms + own.grace_ms
        self._width = -(-HASH_KEYS // count)
        self._folds = [
            ShardFold(settings.rules(own, f"shardId-{number:012d}"), Resume())
            for number in range(count)
        ]
        self._taken = 0
        self._held: list[Cut] = []

    def take(self, record: Recorded) -> None:
        """Fold a record on the shard that its key belongs to (MD5, as Kinesis has it)."""
        digest = hashlib.md5(record.key.encode(), usedforsecurity=False).digest()
        fold = self._folds[int.from_bytes(digest) // self._width]
        # The order of the recording is the order of the shard.
        self._held += fold.take(Record(self._taken, record.arrival_ms, record.data))
        self._taken += 1
        fold.refusals.clear()

    def over(self, now_ms: int) -> list[Cut]:
        """The cuts of windows that are closed on every shard, by window and shard."""
        for fold in self._folds:
            self._held += fold.tick(now_ms)
        done = [c for c in self._held if c.origin.window_start_ms + self.closes_after_ms <= now_ms]
        self._held = [c for c in self._held if c not in done]
        return sorted(done, key=lambda c: (c.origin.window_start_ms, c.origin.shard))


def replay(
    folder: Path, shards: int, progress: Progress, store: ObjectStore | None = None
) -> Outcome:
    """Replay a recording over so many shards; `store` keeps everything that is written.

    Raises:
        ConfigError: the folder is no recording, or its configuration cannot be used.
    """
    about = recording.read_about(folder)
    config = load(folder / recording.CONFIG)
    return _Replay(folder, config, shards, store or MemoryStore()).run(
        about.first_ms, about.last_ms, recording.read(folder), progress
    )


class _Replay:
    """One replay."""

    def __init__(self, folder: Path, config: Config, shards: int, store: ObjectStore) -> None:
        self._store = store
        self._shards = shards
        known = folder / recording.LOCATIONS
        bulk = msgspec.structs.replace(
            settings.bulk(config), locations=str(known) if known.exists() else ""
        )
        self._streams = {own.stream: Shards(own, shards) for own in (bulk, settings.urgent(config))}
        named = folder / recording.TARGETS
        targets = targets_format.load(named) if named.exists() else None
        for path in sorted((folder / recording.ROUTES).glob("*.csv")):
            store.create(routes_format.key(path.stem), path.read_bytes())
        self._planner = Planner(config, store, None, None, targets)
        self._orders = sorted(
            (int(path.stem), path.read_bytes())
            for path in (folder / recording.ORDERS).glob("*.json")
        )
        self._tally = _Tally()

    def run(
        self, first_ms: int, last_ms: int, records: Iterable[Recorded], progress: Progress
    ) -> Outcome:
        """All of it, second by second."""
        waiting = iter(records)
        record = next(waiting, None)
        start_ms = first_ms // STEP_MS * STEP_MS
        end_ms = last_ms + self._patience_ms()
        for now_ms in range(start_ms + STEP_MS, end_ms + STEP_MS, STEP_MS):
            while record is not None and record.arrival_ms < now_ms:
                self._take(record)
                record = next(waiting, None)
            self._give_orders(now_ms)
            for shards in self._streams.values():
                self._write(shards.over(now_ms))
            self._planner.step(now_ms)
            self._forget(now_ms)
            progress((now_ms - start_ms) / (end_ms - start_ms))
        return self._outcome()

    def _patience_ms(self) -> int:
        """Until the last window is closed and planned with."""
        return max(s.closes_after_ms for s in self._streams.values()) + 2 * STEP_MS

    def _take(self, record: Recorded) -> None:
        shards = self._streams.get(record.stream)
        if shards is not None:
            self._tally.counts["records"] += 1
            shards.take(record)

    def _give_orders(self, now_ms: int) -> None:
        while self._orders and self._orders[0][0] <= now_ms:
            body = self._orders.pop(0)[1]
            stored = self._store.read(orders_format.KEY)
            self._store.swap(orders_format.KEY, body, stored.etag if stored else "")

    def _write(self, cuts: list[Cut]) -> None:
        windows: dict[tuple[str, int], list[bytes]] = {}
        for cut in cuts:
            origin = cut.origin
            self._tally.counts["samples"] += origin.samples
            self._tally.counts["duplicates"] += origin.duplicates
            self._tally.quarantined.update(origin.quarantined)
            for partial in cut.partials:
                key, body = origin.key(partial.kind), partial_format.encode(partial)
                self._store.create(key, body)
                self._tally.counts["partials"] += 1
                self._tally.partials.update(key.encode() + b"\0" + body)
                window = partial.kind.value, origin.window_start_ms
                windows.setdefault(window, []).append(body)
        for (kind, start_ms), bodies in sorted(windows.items()):
            self._tally.sums.update(f"{kind} {start_ms}\0".encode() + merged_digest(bodies))

    def _forget(self, now_ms: int) -> None:
        if now_ms % KEPT_MS < STEP_MS and isinstance(self._store, MemoryStore):
            for key in self._store.list("partials/"):
                if partial_format.window_of_key(key) < now_ms - KEPT_MS:
                    self._store.delete(key)

    def _outcome(self) -> Outcome:
        in_force, tally = self._planner.publisher.in_force, self._tally
        return Outcome(
            shards=self._shards,
            records=tally.counts["records"],
            samples=tally.counts["samples"],
            duplicates=tally.counts["duplicates"],
            quarantined=dict(sorted(tally.quarantined.items())),
            partials=tally.counts["partials"],
            partials_sha256=tally.partials.hexdigest(),
            sums_sha256=tally.sums.hexdigest(),
            tables=self._planner.published,
            refused=self._planner.refused,
            rows=len(in_force.table) if in_force else 0,
            table_sha256=said_sha256(in_force.table) if in_force else "",
        )


def said_sha256(table: Table) -> str:
    """Of a table's bytes without its provenance: what it says, whichever shards said it."""
    meta = msgspec.structs.replace(table.meta, inputs={})
    return hashlib.sha256(table_format.encode(replace(table, meta=meta))).hexdigest()
