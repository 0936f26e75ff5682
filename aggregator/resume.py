"""Where a worker takes a shard up: at the end of the newest cut that is written.

Not at the checkpoint: that is only where Kinesis starts to read again.

The first partial of a cut decides where the cut ends (its write is conditional, so it is decided
once, whoever wins). If a predecessor died before it wrote the cut's other partials, the cut is
folded again from the state before it and must end at the same record.

A shard that nobody has read continues its parents' marks: a retry may arrive in the child of the
shard that took the first attempt.
"""

from collections.abc import Callable

from aggregator.partials import (
    Origin,
    decode_origin,
    kind_prefix,
    window_of_key,
    window_prefix,
)
from aggregator.seen import Mark, union
from aggregator.window import Resume
from popsteer.clock import HOUR_MS, MINUTE_MS
from popsteer.errors import StoreError
from popsteer.samples import Kind
from popsteer.store import ObjectStore

LOOKBACKS_MS = (2 * MINUTE_MS, HOUR_MS, 24 * HOUR_MS)
"""How far back partials are listed, in steps: a living shard's newest is minutes old."""

Parents = Callable[[str], tuple[str, ...]]
"""The shards that a shard was split or merged from; none where they are forgotten."""


def resume(
    store: ObjectStore,
    stream: str,
    shard: str,
    kinds: tuple[Kind, ...],
    parents: Parents,
    now_ms: int,
) -> Resume:
    """The state after the newest written cut of a shard, or of its parents.

    Raises:
        StoreError: the store cannot be read.
    """
    key = newest_key(store, stream, shard, kinds[0], now_ms)
    if key is None:
        return _of_parents(store, stream, shard, kinds, parents, now_ms)
    origin = _origin(store, key)
    if all(store.list(origin.key(kind)) for kind in kinds[1:]):
        return Resume(origin.last_sequence, origin.window_start_ms, origin.marks, (key,))
    before = [_origin(store, previous) for previous in origin.previous]
    own = [o for o in before if o.shard == shard]
    return Resume(
        after=own[0].last_sequence if own else -1,
        window_start_ms=own[0].window_start_ms if own else -1,
        marks=_union([o.marks for o in before]),
        previous=origin.previous,
        cut_at=origin.last_sequence,
    )


def newest_key(store: ObjectStore, stream: str, shard: str, kind: Kind, now_ms: int) -> str | None:
    """The key of the newest partial of a shard; None where there is none."""
    starts = [window_prefix(kind, max(0, now_ms - back)) for back in LOOKBACKS_MS]
    for after in (*starts, ""):
        keys = store.list(kind_prefix(kind), after=after)
        ranked = [(rank, key) for key in keys if (rank := _rank(key, stream, shard)) is not None]
        if ranked:
            return max(ranked)[1]
    return None


def _rank(key: str, stream: str, shard: str) -> tuple[int, int] | None:
    """Cuts of a shard in order: by window, the supplements behind the first. None: of others."""
    name = key.rpartition("/")[2].removesuffix(".parquet")
    base = f"{stream}-{shard}"
    if name == base:
        return window_of_key(key), -1
    sequence = name.removeprefix(f"{base}-")
    return (window_of_key(key), int(sequence)) if sequence.isdigit() else None


def _of_parents(
    store: ObjectStore,
    stream: str,
    shard: str,
    kinds: tuple[Kind, ...],
    parents: Parents,
    now_ms: int,
) -> Resume:
    # Parents are complete: the KCL starts a child when its parents are checkpointed at their end.
    # A parent without partials of its own still hands on what it had from its own parents.
    states = [resume(store, stream, p, kinds, parents, now_ms) for p in parents(shard)]
    return Resume(
        marks=_union([state.marks for state in states]),
        previous=tuple(sorted({key for state in states for key in state.previous})),
    )


def _origin(store: ObjectStore, key: str) -> Origin:
    stored = store.read(key)
    if stored is None:
        raise StoreError(f"{key}: was removed while it was read")
    return decode_origin(stored.body)


def _union(marks: list[dict[str, Mark]]) -> dict[str, Mark]:
    merged: dict[str, Mark] = {}
    for one in marks:
        merged = union(merged, one)
    return merged
