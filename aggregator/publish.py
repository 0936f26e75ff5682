"""Publishing: tables, evidence, POP state and overview into S3, by conditional writes alone.

A table is written once under its generation, then the pointer is moved by compare-and-swap. Two
planners may race: whoever's pointer lands first wins, the other reads it and goes on from there,
so that an older table never overwrites a newer. It owns the keys, never what stands in a table.
"""

import hashlib
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec

from popsteer import evidence as evidence_format
from popsteer import overview as overview_format
from popsteer import state as state_format
from popsteer import table as table_format
from popsteer import table_log
from popsteer import wanted as wanted_format
from popsteer.clock import SECOND_MS
from popsteer.errors import ConflictError, TableError, TrustError
from popsteer.evidence import Evidence
from popsteer.overview import Overview
from popsteer.signing import Signer, Verifier
from popsteer.state import State
from popsteer.store import ObjectStore, Stored
from popsteer.table import CURRENT_KEY, Pointer, Table
from popsteer.table import key as table_key
from popsteer.table_log import Outcome
from popsteer.telemetry import logger
from popsteer.wanted import Wanted

TABLES_KEPT = 200
EVIDENCE_KEPT = 50
REFUSED_KEPT = 50
TABLE_PREFIX = "tables/0"
"""Generations have twelve digits, so that this finds tables and nothing else below `tables/`."""
EVIDENCE_PREFIX = "evidence/"
REFUSED_PREFIX = "tables/refused/"
_TRIES = 5


def refused_key(generation: int, created_ms: int) -> str:
    """Where the reason of a refusal is kept; the table stands beside it as `.arrow`.

    While tables are refused the generation stays, so the time goes with it.
    """
    return f"{REFUSED_PREFIX}{generation:012d}-{created_ms:013d}.json"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why the guard refused a table."""

    generation: int
    created_ms: int
    rule: str
    reason: str


@dataclass(frozen=True, slots=True)
class InForce:
    """The table that the pointer names."""

    pointer: Pointer
    table: Table


class Publisher:
    """Writes for one planner. Owns the tags of what it last wrote or read."""

    def __init__(
        self, store: ObjectStore, signer: Signer | None, verifier: Verifier | None
    ) -> None:
        self._store = store
        self._signer = signer
        self._verifier = verifier
        self._state_etag = ""
        self._state_generation = 0
        self._theirs_ms: int | None = None
        """When, by our clock, another planner's state was last found new; None is never."""
        self._overview_etag = ""
        self._wanted_etag = ""
        self._pointer_etag = ""
        """Of the pointer as it stands, whatever is to be thought of it."""
        self.in_force: InForce | None = None

    def refresh(self) -> bool:
        """Read the pointer and, when it moved, its table; whether it moved.

        A table that is missing, broken, not signed by us or older than the one in force stays out:
        the last good one remains, and the next table replaces the pointer.

        Raises:
            StoreError: the store cannot be reached.
        """
        stored = self._store.read(CURRENT_KEY, self._pointer_etag)
        if stored is None:
            return False
        try:
            pointer, table = self._named(stored)
        except (TableError, TrustError) as error:
            logger().error("the table in force is not taken", reason=str(error))
            self._pointer_etag = stored.etag
            return False
        self._pointer_etag = stored.etag
        self.in_force = InForce(pointer, table)
        return True

    def _named(self, stored: Stored) -> tuple[Pointer, Table]:
        """What a pointer names.

        Raises:
            TableError: the pointer or the table is broken, missing, or older than the last.
            TrustError: the table is not signed by us.
            StoreError: the store cannot be reached.
        """
        try:
            pointer = msgspec.json.decode(stored.body, type=Pointer)
        except msgspec.DecodeError as error:
            raise TableError(f"{CURRENT_KEY}: {error}") from None
        if self.in_force and pointer.generation < self.in_force.pointer.generation:
            raise TableError(
                f"{CURRENT_KEY} went back to generation {pointer.generation} "
                f"from {self.in_force.pointer.generation}"
            )
        body = self._store.read(pointer.key)
        if body is None or hashlib.sha256(body.body).hexdigest() != pointer.sha256:
            raise TableError(f"{pointer.key} is missing or not what the pointer says")
        return pointer, table_format.decode(body.body, self._verifier)

    @property
    def next_generation(self) -> int:
        """What the next table should be called."""
        return self.in_force.pointer.generation + 1 if self.in_force else 1

    def publish(self, table: Table) -> Table | None:
        """Put a table in force; gives it with its generation, or None when another planner won.

        Raises:
            StoreError: the store cannot be reached; the pointer then still names the old table.
        """
        generation = max(table.meta.generation, self.next_generation)
        if self.in_force is None:
            # A pointer that is lost or not believed must not make the numbers begin again: DNS
            # nodes refuse what is older than what they serve.
            generation = max(generation, self._newest_stored() + 1)
        for _ in range(_TRIES):
            table = _renamed(table, generation, self.next_generation - 1)
            body = table_format.encode(table, self._signer)
            if self._store.create(table_key(generation), body):
                return self._point(table, body)
            # Another planner has taken this number: one that races with us, or one that died.
            if self.refresh():
                return None
            generation = max(generation, self._newest_stored()) + 1
        raise ConflictError(f"{_TRIES} generations in a row were taken by others")

    def _newest_stored(self) -> int:
        """The highest generation of which there is a table, in force or not."""
        keys = self._store.list(TABLE_PREFIX)
        return int(PurePosixPath(keys[-1]).stem) if keys else 0

    def note(self, table: Table) -> None:
        """Log that a table is in force.

        Raises:
            StoreError: the store cannot be reached; the table stays in force without it.
        """
        entry = table_log.entry_of(table, Outcome.PUBLISHED, table.meta.created_ms)
        table_log.write(self._store, entry)

    def witness(self, evidence: Evidence, number: int = 0) -> None:
        """Write why a published table says what it says, of one of its sets of answers.

        Raises:
            StoreError: the store cannot be reached; the table stays in force without it.
        """
        self._store.create(
            evidence_format.key(evidence.generation, number), evidence_format.encode(evidence)
        )

    def evidence(self) -> Evidence | None:
        """Why the table in force says what it says; None where that is gone.

        Raises:
            StoreError: the store cannot be reached.
        """
        generation = self.in_force.pointer.generation if self.in_force else 0
        stored = self._store.read(evidence_format.key(generation))
        try:
            return evidence_format.decode(stored.body) if stored else None
        except TableError:
            return None

    def want(self, wanted: Wanted) -> None:
        """Write the measurement plan; of two planners the later word stands."""
        body = wanted_format.encode(wanted)
        try:
            self._wanted_etag = self._store.swap(wanted_format.KEY, body, self._wanted_etag)
        except ConflictError:
            self._wanted_etag = self._replace(wanted_format.KEY, body)

    def _point(self, table: Table, body: bytes) -> Table | None:
        pointer = Pointer(
            generation=table.meta.generation,
            key=table_key(table.meta.generation),
            sha256=hashlib.sha256(body).hexdigest(),
            created_ms=table.meta.created_ms,
        )
        try:
            etag = self._store.swap(CURRENT_KEY, msgspec.json.encode(pointer), self._pointer_etag)
        except ConflictError:
            self.refresh()
            return None
        self._pointer_etag = etag
        self.in_force = InForce(pointer, table)
        return table

    def refuse(self, table: Table, rule: str, reason: str) -> None:
        """Keep a refused table and why, for people."""
        meta = table.meta
        key = refused_key(meta.generation, meta.created_ms)
        refusal = Refusal(
            generation=meta.generation, created_ms=meta.created_ms, rule=rule, reason=reason
        )
        outcome = Outcome.SHADOW if rule == Outcome.SHADOW else Outcome.REFUSED
        table_log.write(
            self._store, table_log.entry_of(table, outcome, meta.created_ms, rule, reason)
        )
        self._store.create(key, msgspec.json.encode(refusal))
        self._store.create(
            key.removesuffix("json") + "arrow", table_format.encode(table, self._signer)
        )

    def _replace(self, key: str, body: bytes) -> str:
        for _ in range(_TRIES):
            stored = self._store.read(key)
            try:
                return self._store.swap(key, body, stored.etag if stored else "")
            except ConflictError:
                continue
        raise ConflictError(f"{key}: changed by others {_TRIES} times in a row")

    def state(self, state: State, yield_ms: int) -> State | None:
        """Write the POP state under the next generation.

        Gives None, and writes nothing, when another planner was heard within `yield_ms`: of two
        active planners one speaks, the other takes over when it falls silent. Silence is measured
        by our own clock, for theirs may be wrong, and we may have been asleep.
        """
        for _ in range(_TRIES):
            stored = self._store.read(state_format.KEY, self._state_etag)
            if stored is not None:
                self._state_etag = stored.etag
                self._hear(self._read_state(stored), state.created_ms)
            if self._theirs_ms is not None and state.created_ms - self._theirs_ms < yield_ms:
                return None
            if not self._state_generation:
                # Lost or not believed: readers refuse to go back, so go on above what they know.
                self._state_generation = state.created_ms // SECOND_MS
            mine = msgspec.structs.replace(state, generation=self._state_generation + 1)
            body = state_format.encode(mine, self._signer)
            try:
                self._state_etag = self._store.swap(state_format.KEY, body, self._state_etag)
            except ConflictError:
                self._state_etag = ""
                continue
            self._state_generation = mine.generation
            return mine
        return None

    def _hear(self, theirs: State | None, now_ms: int) -> None:
        if theirs is not None:
            self._theirs_ms = min(theirs.created_ms, now_ms)
            self._state_generation = max(self._state_generation, theirs.generation)

    def _read_state(self, stored: Stored) -> State | None:
        try:
            return state_format.decode(stored.body, self._verifier)
        except (TableError, TrustError) as error:
            logger().warning("the POP state is unreadable and will be replaced", reason=str(error))
            return None

    def overview(self, overview: Overview) -> None:
        """Write what people see; of two planners the later word stands."""
        body = msgspec.json.encode(overview)
        try:
            self._overview_etag = self._store.swap(overview_format.KEY, body, self._overview_etag)
        except ConflictError:
            self._overview_etag = self._replace(overview_format.KEY, body)

    def sweep(self) -> None:
        """Delete old tables, evidence and refusals beyond the bounds."""
        kept = {TABLE_PREFIX: TABLES_KEPT, EVIDENCE_PREFIX: EVIDENCE_KEPT}
        for prefix, bound in (kept | {REFUSED_PREFIX: 2 * REFUSED_KEPT}).items():
            for key in self._store.list(prefix)[:-bound]:
                self._store.delete(key)


def _renamed(table: Table, generation: int, parent: int) -> Table:
    meta = msgspec.structs.replace(table.meta, generation=generation, parent=parent)
    return table.with_meta(meta)
