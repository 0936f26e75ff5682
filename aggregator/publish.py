"""Publishing: tables, evidence, POP state and overview into S3, by conditional writes alone.

A table is written once under its generation, then the pointer is moved by compare-and-swap. Two
planners may race: whoever's pointer lands first wins, the other reads it and goes on from there,
so that an older table never overwrites a newer. It owns the keys, never what stands in a table.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from popsteer import evidence as evidence_format
from popsteer import overview as overview_format
from popsteer import state as state_format
from popsteer import table as table_format
from popsteer import wanted as wanted_format
from popsteer.errors import ConflictError, TableError, TrustError
from popsteer.evidence import Evidence
from popsteer.overview import Overview
from popsteer.signing import Signer, Verifier
from popsteer.state import State
from popsteer.store import ObjectStore, Stored
from popsteer.table import CURRENT_KEY, Pointer, Table
from popsteer.table import key as table_key
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


def refused_key(generation: int) -> str:
    """Where the reason of a refusal is kept; the table stands beside it as `.arrow`."""
    return f"{REFUSED_PREFIX}{generation:012d}.json"


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
    etag: str
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
        self._overview_etag = ""
        self._wanted_etag = ""
        self.in_force: InForce | None = None

    def refresh(self) -> bool:
        """Read the pointer and, when it moved, its table; whether it moved.

        A table that is missing, broken or not signed by us stays out: the last good one remains.

        Raises:
            StoreError: the store cannot be reached.
        """
        known = self.in_force.etag if self.in_force else ""
        stored = self._store.read(CURRENT_KEY, known)
        if stored is None:
            return False
        try:
            pointer = msgspec.json.decode(stored.body, type=Pointer)
            body = self._store.read(pointer.key)
            if body is None or hashlib.sha256(body.body).hexdigest() != pointer.sha256:
                raise TableError(f"{pointer.key} is missing or not what the pointer says")
            table = table_format.decode(body.body, self._verifier)
        except (TableError, TrustError, msgspec.DecodeError) as error:
            logger().error("the table in force is unreadable", reason=str(error))
            return False
        self.in_force = InForce(pointer, stored.etag, table)
        return True

    @property
    def next_generation(self) -> int:
        """What the next table should be called."""
        return self.in_force.pointer.generation + 1 if self.in_force else 1

    def publish(self, table: Table) -> Table | None:
        """Put a table in force; gives it with its generation, or None when another planner won.

        Raises:
            StoreError: the store cannot be reached; the pointer then still names the old table.
        """
        for _ in range(_TRIES):
            generation = max(table.meta.generation, self.next_generation)
            table = _renamed(table, generation, self.next_generation - 1)
            body = table_format.encode(table, self._signer)
            if not self._store.create(table_key(generation), body):
                # Another planner has taken this number: one that races with us, or one that died.
                if self.refresh():
                    return None
                table = _renamed(table, generation + 1, self.next_generation - 1)
                continue
            return self._point(table, body)
        raise ConflictError(f"{_TRIES} generations in a row were taken by others")

    def witness(self, evidence: Evidence, number: int = 0) -> None:
        """Write why a published table says what it says, of one of its sets of answers.

        Raises:
            StoreError: the store cannot be reached; the table stays in force without it.
        """
        self._store.create(
            evidence_format.key(evidence.generation, number), evidence_format.encode(evidence)
        )

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
        old = self.in_force.etag if self.in_force else ""
        try:
            etag = self._store.swap(CURRENT_KEY, msgspec.json.encode(pointer), old)
        except ConflictError:
            self.refresh()
            return None
        self.in_force = InForce(pointer, etag, table)
        return table

    def refuse(self, table: Table, rule: str, reason: str) -> None:
        """Keep a refused table and why, for people."""
        generation = table.meta.generation
        refusal = Refusal(
            generation=generation, created_ms=table.meta.created_ms, rule=rule, reason=reason
        )
        key = refused_key(generation)
        body = msgspec.json.encode(refusal)
        # The same generation may be refused again and again: the newest reason counts.
        self._replace(key, body)
        self._replace(key.removesuffix("json") + "arrow", table_format.encode(table, self._signer))

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

        Gives None, and writes nothing, when another planner wrote within `yield_ms`: of two
        active planners one speaks, the other takes over when it falls silent.
        """
        for _ in range(_TRIES):
            stored = self._store.read(state_format.KEY, self._state_etag)
            if stored is not None:
                other = self._read_state(stored)
                if other is not None and 0 <= state.created_ms - other.created_ms < yield_ms:
                    return None
                self._state_etag = stored.etag
                if other is not None:
                    self._state_generation = max(self._state_generation, other.generation)
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
