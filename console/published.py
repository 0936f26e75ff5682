"""What the planner published, as the console reads it: pointer, table, state, evidence, orders.

It reads the same signed bytes as a DNS node and believes them under the same keys; with
`table.path`, the file alone, as a DNS node does. The one thing it writes is a rollback: old
answers under a new generation, by the same compare-and-swap.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import msgspec

from popsteer import evidence as evidences
from popsteer import orders as order_book
from popsteer import overview as overviews
from popsteer import state as states
from popsteer import table as tables
from popsteer import table_log
from popsteer.config import Config
from popsteer.errors import ConflictError, PopsteerError, TableError, TrustError
from popsteer.evidence import Evidence
from popsteer.orders import Orders
from popsteer.overview import Overview
from popsteer.signing import Signer, Verifier
from popsteer.state import State
from popsteer.store import ObjectStore
from popsteer.table import CURRENT_KEY, Pointer, Table, TableMeta
from popsteer.table_log import Outcome
from resolver.geography import with_stand_ins

_TABLES = "tables/0"
"""Generations have twelve digits; the log and what was refused stand elsewhere below `tables/`."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class View:
    """Everything at one time; None where it was never published."""

    table: Table | None = None
    state: State | None = None
    overview: Overview | None = None
    evidence: Evidence | None = None
    orders: Orders = field(default_factory=Orders)
    further_evidence: tuple[Evidence | None, ...] = ()
    """Of the table's further sets of answers."""

    def of_service(self, service: str) -> "View":
        """As if the set of answers for a service, by its DNS name, stood alone."""
        number = self.table.meta.set_of(service) if self.table else 0
        return self.sets[number]

    @property
    def sets(self) -> "tuple[View, ...]":
        """Of each set of answers, the first one first."""
        if self.table is None or not self.table.further:
            return (self,)
        known = (*self.further_evidence, *(None for _ in self.table.further))
        further = (
            replace(self, table=own, evidence=evidence, further_evidence=())
            for own, evidence in zip(self.table.further, known, strict=False)
        )
        return (self, *further)


class Reader:
    """Reads again only what changed; keeps the last good view while the store is away."""

    def __init__(self, config: Config, store: ObjectStore, verifier: Verifier | None) -> None:
        self._config = config
        self._store = store
        self._verifier = verifier
        self._etags: dict[str, str] = {}
        self.view = View()

    def refresh(self) -> View:
        """The view now.

        Raises:
            StoreError: the store is away; `view` keeps what was read last.
            PopsteerError: what was read cannot be believed or understood.
        """
        if self._config.table.path:
            self._refresh_file()
            return self.view
        if body := self._changed(CURRENT_KEY):
            self._swap(_pointer(body))
        self._find_evidence()
        if body := self._changed(states.KEY):
            self.view = replace(self.view, state=states.decode(body, self._verifier))
        if body := self._changed(overviews.KEY):
            self.view = replace(self.view, overview=overviews.decode(body))
        if body := self._changed(order_book.KEY):
            self.view = replace(self.view, orders=order_book.decode(body))
        return self.view

    def _changed(self, key: str) -> bytes | None:
        stored = self._store.read(key, self._etags.get(key, ""))
        if stored is None:
            return None
        self._etags[key] = stored.etag
        return stored.body

    def _refresh_file(self) -> None:
        path = self._config.path(self._config.table.path)
        try:
            stamp = str(path.stat().st_mtime_ns)
            if self._etags.get(str(path)) != stamp:
                table = tables.decode(path.read_bytes())  # its owner is trusted, as by DNS nodes
                self._etags[str(path)] = stamp
                self.view = replace(self.view, table=with_stand_ins(table, self._config))
        except OSError as error:
            raise TableError(f"{path}: {error.strerror}") from None

    def _swap(self, new: Pointer) -> None:
        try:
            table = read_table(self._store, new.key, self._verifier)
        except PopsteerError:
            self._etags.pop(CURRENT_KEY)  # so that the next refresh tries again
            raise
        # As DNS nodes have it, so that what is explained is what they answer.
        table = with_stand_ins(table, self._config)
        self.view = replace(self.view, table=table, evidence=None, further_evidence=())

    def _find_evidence(self) -> None:
        """It may be written a moment after its table."""
        table = self.view.table
        if table is None or None not in (self.view.evidence, *self.view.further_evidence):
            return
        first, *further = (
            read_evidence(self._store, table.meta, number) for number in range(len(table.sets))
        )
        self.view = replace(self.view, evidence=first, further_evidence=tuple(further))


def read_table(store: ObjectStore, key: str, verifier: Verifier | None) -> Table:
    """The table in an object.

    Raises:
        TableError: there is none, or it is broken.
        TrustError: it cannot be believed.
        StoreError: the store is away.
    """
    stored = store.read(key)
    if stored is None:
        raise TableError(f"{key} is not in the store; see: popsteer table list")
    try:
        return tables.decode(stored.body, verifier)
    except (TableError, TrustError) as error:
        raise type(error)(f"{key}: {error}") from None


def read_evidence(store: ObjectStore, meta: TableMeta, number: int = 0) -> Evidence | None:
    """The evidence of one of a table's sets of answers, or of the table whose answers it repeats.

    None where it is gone.
    """
    for generation in (meta.generation, meta.parent):
        stored = store.read(evidences.key(generation, number)) if generation else None
        if stored is not None:
            try:
                return evidences.decode(stored.body)
            except TableError:
                return None  # people miss a reason; no answer rests on it
    return None


def pointer(store: ObjectStore) -> Pointer | None:
    """Which table is in force.

    Raises:
        TableError: it cannot be read.
    """
    stored = store.read(CURRENT_KEY)
    return _pointer(stored.body) if stored else None


def _pointer(body: bytes) -> Pointer:
    try:
        return msgspec.json.decode(body, type=Pointer)
    except ValueError as error:
        raise TableError(f"{CURRENT_KEY}: {error}") from None


def generations(store: ObjectStore) -> list[int]:
    """All tables in the store, oldest first."""
    stems = (PurePosixPath(key).stem for key in store.list(_TABLES))
    return sorted(int(stem) for stem in stems if stem.isdigit())


def rollback(
    store: ObjectStore,
    generation: int,
    signer: Signer,
    verifier: Verifier | None,
    now_ms: int,
    reason: str,
) -> Table:
    """Publish the answers of an older table as a new generation; `reason` goes into the log.

    Raises:
        TableError: no such table, or it cannot be believed.
        ConflictError: others kept publishing meanwhile.
        StoreError: the store is away.
    """
    old = read_table(store, tables.key(generation), verifier)
    for _ in range(_TRIES):
        stored = store.read(CURRENT_KEY)
        newest = max([*generations(store), _pointer(stored.body).generation if stored else 0])
        new = tables.renumber(old, newest + 1, now_ms, f"rollback to {generation}")
        body = tables.encode(new, signer)
        key = tables.key(newest + 1)
        if not store.create(key, body):
            continue
        sha256 = hashlib.sha256(body).hexdigest()
        moved = Pointer(generation=newest + 1, key=key, sha256=sha256, created_ms=now_ms)
        try:
            store.swap(CURRENT_KEY, msgspec.json.encode(moved), stored.etag if stored else "")
        except ConflictError:
            continue
        entry = table_log.entry_of(new, Outcome.ROLLED_BACK, now_ms, reason=reason)
        table_log.write(store, entry)
        return new
    raise ConflictError(
        "the planner published meanwhile, several times; stop it first with: popsteer freeze"
    )
