"""The live table and POP state: fetched, judged, swapped whole, kept for the next start.

Owns what may be served: nothing unsigned from S3, nothing older than what is served, nothing
truncated. The last good table and state stay on disk and are what a node starts from. Polls are
blocking calls for a thread; the owner of the answers takes `Tables.view` as a value.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from popsteer import state as pop_state
from popsteer import table as tables
from popsteer.config import Config
from popsteer.errors import ConfigError, StoreError, TableError, TrustError
from popsteer.signing import Verifier, verifier
from popsteer.state import State
from popsteer.store import ObjectStore, s3_store
from popsteer.table import CURRENT_KEY, Pointer, Table
from popsteer.telemetry import OncePerKey, logger
from resolver.kept import keep, make_folder, read_kept
from resolver.snapshot import Rung

LIVE_S_MAX = 10.0
"""A source that was silent for longer is away: the table is then the last good one."""


@dataclass(frozen=True, slots=True)
class View:
    """What is served now."""

    table: Table | None = None
    state: State | None = None
    confirmed_ms: int = 0
    """When the source last said that this is the newest."""

    def rung(self, now_ms: int) -> Rung:
        """Where on the freshness ladder this stands."""
        if self.table is None:
            return Rung.STATIC
        live = now_ms - self.confirmed_ms <= LIVE_S_MAX * 1_000
        return Rung.LIVE if live else Rung.LAST_GOOD


class Source(Protocol):
    """Where tables come from; `poll` gives the newer view, or the same."""

    def start(self) -> View:
        """What to serve before the first poll."""

    def poll(self, view: View, now_ms: int) -> View:
        """Look once. Raises StoreError when the source is away."""


@dataclass(slots=True)
class Refusals:
    """Objects that were not taken: counted always, said once for each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    _once: OncePerKey = field(default_factory=OncePerKey)

    def add(self, what: str, reason: str, detail: str) -> None:
        """One refusal; `reason` is a metric label."""
        self.counts[reason] += 1
        if self._once.first(f"{what} {detail}"):
            logger().error("refused", what=what, reason=reason, detail=detail)


class S3Source:
    """The pointer, the table behind it and the POP state, each only when it changed."""

    def __init__(
        self, store: ObjectStore, keys: Verifier, folder: Path, refusals: Refusals
    ) -> None:
        self._store = store
        self._keys = keys
        self._folder = folder
        self._refusals = refusals
        self._pointer_etag = ""
        self._state_etag = ""

    def start(self) -> View:
        """The last good ones from disk, as far as they are still good."""
        table = state = None
        if (body := read_kept(self._folder / "table.arrow")) is not None:
            table = self._table(body)
        if (body := read_kept(self._folder / "pops.json")) is not None:
            state = self._state(body)
        return View(table, state)

    def poll(self, view: View, now_ms: int) -> View:
        """See `Source.poll`."""
        table = self._poll_table(view.table)
        state = self._poll_state(view.state)
        return View(table, state, now_ms)

    def _poll_table(self, served: Table | None) -> Table | None:
        stored = self._store.read(CURRENT_KEY, self._pointer_etag)
        if stored is None:
            return served
        try:
            pointer = msgspec.json.decode(stored.body, type=Pointer)
        except msgspec.DecodeError as error:
            self._refusals.add(CURRENT_KEY, "pointer", str(error))
            return served
        if served is not None and pointer.generation <= served.meta.generation:
            if pointer.generation < served.meta.generation:
                detail = f"generation {pointer.generation} after {served.meta.generation}"
                self._refusals.add(CURRENT_KEY, "older", detail)
            self._pointer_etag = stored.etag
            return served
        return self._fetch(pointer, stored.etag) or served

    def _fetch(self, pointer: Pointer, etag: str) -> Table | None:
        stored = self._store.read(pointer.key)
        if stored is None:
            self._refusals.add(pointer.key, "missing", "the pointer names it, it is not there")
            return None
        if hashlib.sha256(stored.body).hexdigest() != pointer.sha256:
            self._refusals.add(pointer.key, "sha256", "not the bytes that the pointer means")
            return None
        # Until here the next poll may find the object whole; from here on the bytes are final, and
        # a refused table is not fetched again and again.
        self._pointer_etag = etag
        table = self._table(stored.body)
        if table is None:
            return None
        if table.meta.generation != pointer.generation:
            detail = f"generation {table.meta.generation}, pointer {pointer.generation}"
            self._refusals.add(pointer.key, "generation", detail)
            return None
        self._keep("table.arrow", stored.body)
        return table

    def _table(self, body: bytes) -> Table | None:
        try:
            return tables.decode(body, self._keys)
        except TrustError as error:
            self._refusals.add("table", "signature", str(error))
        except TableError as error:
            self._refusals.add("table", "broken", str(error))
        return None

    def _poll_state(self, served: State | None) -> State | None:
        stored = self._store.read(pop_state.KEY, self._state_etag)
        if stored is None:
            return served
        self._state_etag = stored.etag
        state = self._state(stored.body)
        if state is None:
            return served
        if served is not None and state.generation <= served.generation:
            if state.generation < served.generation:
                detail = f"generation {state.generation} after {served.generation}"
                self._refusals.add(pop_state.KEY, "older", detail)
            return served
        self._keep("pops.json", stored.body)
        return state

    def _state(self, body: bytes) -> State | None:
        try:
            return pop_state.decode(body, self._keys)
        except TrustError as error:
            self._refusals.add(pop_state.KEY, "signature", str(error))
        except TableError as error:
            self._refusals.add(pop_state.KEY, "broken", str(error))
        return None

    def _keep(self, name: str, body: bytes) -> None:
        try:
            keep(self._folder / name, body)
        except OSError as error:
            # A full disk must not stop answers; only the next start would miss it.
            self._refusals.add(name, "disk", str(error))


class FileSource:
    """A local table file, read again whenever it changes; its owner is trusted."""

    def __init__(self, path: Path, refusals: Refusals) -> None:
        self._path = path
        self._refusals = refusals
        self._seen: tuple[int, ...] = ()

    def start(self) -> View:
        """The table in the file.

        Raises:
            ConfigError: there is none.
        """
        self._seen = self._stamp()
        try:
            return View(tables.decode(self._path.read_bytes()))
        except (OSError, TableError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"table.path = {self._path}: {reason}") from None

    def poll(self, view: View, now_ms: int) -> View:
        """See `Source.poll`; a bad file leaves the table as it is."""
        stamp = self._stamp()
        if stamp == self._seen:
            return View(view.table, view.state, now_ms)
        try:
            table = tables.decode(self._path.read_bytes())
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror}") from error
        except TableError as error:
            self._seen = stamp
            self._refusals.add(str(self._path), "broken", str(error))
            return view
        self._seen = stamp
        return View(table, view.state, now_ms)

    def _stamp(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


class NoSource:
    """Neither a file nor trusted keys: the order of the configuration is all there is."""

    def start(self) -> View:
        """Nothing."""
        return View()

    def poll(self, view: View, now_ms: int) -> View:  # noqa: ARG002 -- the seam's form
        """Nothing new, ever."""
        return view


def open_source(config: Config, refusals: Refusals) -> Source:
    """The source that a configuration asks for.

    Raises:
        ConfigError: a key that is none.
        SetupError: the data folder cannot be made.
    """
    if config.table.path:
        return FileSource(config.path(config.table.path), refusals)
    if config.trust.public_keys:
        folder = make_folder(config.data_dir / "resolver")
        return S3Source(s3_store(config.aws), verifier(config.trust.public_keys), folder, refusals)
    return NoSource()
