"""The log of tables, `tables/log/`: what became of each, for people; nothing rests on it.

One small object for each table that was put in force, rolled back to, or refused. Tables themselves
go after a while, what became of them stays.
"""

from enum import StrEnum

import msgspec

from popsteer.clock import HOUR_MS
from popsteer.errors import TableError
from popsteer.store import ObjectStore
from popsteer.table import Table

PREFIX = "tables/log/"
_REACH_MS = (HOUR_MS, 24 * HOUR_MS, 30 * 24 * HOUR_MS)
"""How far back is listed at first: most people ask for the newest of very many."""


class Outcome(StrEnum):
    """What became of a table."""

    PUBLISHED = "published"
    REFUSED = "refused"
    SHADOW = "shadow"
    """Judged good and kept, and no DNS node loads it."""
    ROLLED_BACK = "rolled back"
    """Published by an operator, with the answers of an older one."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One table."""

    at_ms: int
    generation: int
    parent: int
    outcome: Outcome
    rule: str = ""
    """Of the guard, when it refused."""
    reason: str = ""
    """Why it was refused, or by whom and why it was rolled back."""
    policy: str = ""
    note: str = ""
    rows: int = 0
    window_last_ms: int = 0
    """End of the newest measurements behind it."""


def entry_of(table: Table, outcome: Outcome, at_ms: int, rule: str = "", reason: str = "") -> Entry:
    """What became of a table."""
    meta = table.meta
    return Entry(
        at_ms=at_ms,
        generation=meta.generation,
        parent=meta.parent,
        outcome=outcome,
        rule=rule,
        reason=reason,
        policy=meta.policy,
        note=meta.note,
        rows=len(table),
        window_last_ms=meta.window_last_ms,
    )


def write(store: ObjectStore, entry: Entry) -> None:
    """Add a line; the same one twice is one.

    Raises:
        StoreError: the store cannot be reached.
    """
    key = f"{PREFIX}{entry.at_ms:013d}-{entry.generation:012d}-{entry.outcome.split()[0]}.json"
    store.create(key, msgspec.json.encode(entry))


def newest(store: ObjectStore, lines: int, now_ms: int) -> list[Entry]:
    """The newest lines, oldest first; all of them when `lines` is 0.

    Raises:
        TableError: a line is none of ours.
        StoreError: the store cannot be reached.
    """
    keys: list[str] = []
    for reach_ms in (*_REACH_MS, now_ms):
        keys = store.list(PREFIX, f"{PREFIX}{max(now_ms - reach_ms, 0):013d}" if lines else "")
        if len(keys) >= lines > 0 or not lines:
            break
    return [_read(store, key) for key in keys[-lines:]]


def _read(store: ObjectStore, key: str) -> Entry:
    stored = store.read(key)
    try:
        return msgspec.json.decode(stored.body if stored else b"", type=Entry)
    except ValueError as error:
        raise TableError(f"{key}: {error}") from None
