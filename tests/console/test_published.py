from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from console.published import Reader, generations, pointer, rollback
from popsteer import signing, table_log
from popsteer import table as tables
from popsteer.config import Config, TableSource
from popsteer.errors import ConflictError, StoreError, TableError, TrustError
from popsteer.signing import Signer, Verifier
from popsteer.store import MemoryStore, Stored
from popsteer.table import CURRENT_KEY, Pointer, Table
from popsteer.table_log import Outcome


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return signing.create_signer(tmp_path / "table.key")


@pytest.fixture
def keys(signer: Signer) -> Verifier:
    return signing.verifier((signer.public_hex,))


def publish(store: MemoryStore, table: Table, generation: int, signer: Signer) -> None:
    key = tables.key(generation)
    new = tables.renumber(table, generation, 0, "")
    store.objects[key] = tables.encode(new, signer)
    moved = Pointer(generation=generation, key=key, sha256="", created_ms=0)
    store.objects[CURRENT_KEY] = msgspec.json.encode(moved)


def test_everything_that_was_published_is_read(store: MemoryStore, config: Config) -> None:
    view = Reader(config, store, None).refresh()
    assert view.table is not None
    assert view.state is not None
    assert view.overview is not None
    assert view.evidence is not None
    assert (view.table.meta.generation, view.evidence.generation) == (7, 7)


def test_an_empty_store_is_an_empty_view(config: Config) -> None:
    view = Reader(config, MemoryStore(), None).refresh()
    assert (view.table, view.state, view.overview, view.evidence) == (None, None, None, None)


def test_what_did_not_change_is_not_read_again(store: MemoryStore, config: Config) -> None:
    reader = Reader(config, store, None)
    first, second = reader.refresh(), reader.refresh()
    assert first.table is second.table
    assert first.state is second.state


def test_a_table_that_is_not_trusted_leaves_the_last_good_view(
    store: MemoryStore, table: Table, config: Config, signer: Signer, keys: Verifier
) -> None:
    del store.objects["state/pops.json"]
    publish(store, table, 8, signer)
    reader = Reader(config, store, keys)
    reader.refresh()
    store.objects[tables.key(9)] = tables.encode(tables.renumber(table, 9, 0, ""))
    unsigned = Pointer(generation=9, key=tables.key(9), sha256="", created_ms=0)
    store.objects[CURRENT_KEY] = msgspec.json.encode(unsigned)
    for _ in range(2):  # it is tried again, not taken for read
        with pytest.raises(TrustError):
            reader.refresh()
    assert reader.view.table is not None
    assert reader.view.table.meta.generation == 8


def test_evidence_that_comes_late_is_found(store: MemoryStore, config: Config) -> None:
    key = "evidence/000000000007.arrow"
    late = store.objects.pop(key)
    reader = Reader(config, store, None)
    assert reader.refresh().evidence is None
    store.objects[key] = late
    assert reader.refresh().evidence is not None


def test_a_rollback_repeats_old_answers_as_the_newest_generation(
    store: MemoryStore, table: Table, config: Config, signer: Signer, keys: Verifier
) -> None:
    store.objects.clear()
    for generation in (7, 8, 9):
        publish(store, table, generation, signer)
    new = rollback(store, 7, signer, keys, now_ms=5, reason="a test")
    assert (new.meta.generation, new.meta.parent) == (10, 7)
    assert generations(store) == [7, 8, 9, 10]
    current = pointer(store)
    assert current is not None
    assert (current.generation, current.created_ms) == (10, 5)
    read = Reader(config, store, keys).refresh().table
    assert read is not None
    assert (read.net == table.net).all()
    (logged,) = table_log.newest(store, 0, now_ms=10)
    assert (logged.generation, logged.outcome) == (10, Outcome.ROLLED_BACK)
    assert logged.reason == "a test"


def test_a_rollback_to_what_is_not_there_is_refused(store: MemoryStore, signer: Signer) -> None:
    with pytest.raises(TableError, match="table list"):
        rollback(store, 3, signer, None, now_ms=5, reason="a test")


@dataclass(slots=True)
class RacedStore(MemoryStore):
    """Somebody else always writes between our read and our swap."""

    reads: list[str] = field(default_factory=list)

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """The object as it was before the other one wrote."""
        found = MemoryStore.read(self, key, unless_etag)
        if key == CURRENT_KEY:
            generation = 100 + len(self.reads)
            self.reads.append(key)
            moved = Pointer(generation=generation, key="", sha256="", created_ms=0)
            self.objects[key] = msgspec.json.encode(moved)
        return found


def test_a_rollback_that_keeps_losing_gives_up_and_says_what_to_do(
    store: MemoryStore, table: Table, signer: Signer
) -> None:
    raced = RacedStore(store.objects)
    publish(raced, table, 7, signer)
    with pytest.raises(ConflictError, match="popsteer freeze"):
        rollback(raced, 7, signer, None, now_ms=5, reason="a test")
    current = pointer(raced)
    assert current is not None
    assert current.generation >= 100


def test_a_store_that_is_away_is_an_error_and_keeps_the_view(
    store: MemoryStore, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(config, store, None)
    reader.refresh()

    def away(_self: MemoryStore, key: str, _etag: str = "") -> None:
        raise StoreError(f"{key}: away")

    monkeypatch.setattr(MemoryStore, "read", away)
    with pytest.raises(StoreError):
        reader.refresh()
    assert reader.view.table is not None


def test_a_local_table_is_all_that_is_read(config: Config, table: Table, tmp_path: Path) -> None:
    path = tmp_path / "table.arrow"
    path.write_bytes(tables.encode(table))
    local = msgspec.structs.replace(config, table=TableSource(path=str(path)))
    reader = Reader(local, RefusingStore(), None)
    read = reader.refresh().table
    assert read is not None
    assert read.meta.generation == 7
    assert reader.refresh().table is read


class RefusingStore(MemoryStore):
    """A store that nobody may ask."""

    def read(self, key: str, unless_etag: str = "") -> Stored | None:
        """Fail."""
        raise AssertionError(f"{key} was asked for, {unless_etag}")
