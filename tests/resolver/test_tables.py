"""Which tables and states are taken, which are refused, what survives a restart."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from popsteer import state as pop_state
from popsteer.errors import ConfigError, StoreError
from popsteer.names import Prefix
from popsteer.signing import Signer, verifier
from popsteer.state import PopState, State
from popsteer.store import MemoryStore, Stored
from popsteer.table import (
    CANDIDATES_MAX,
    CURRENT_KEY,
    NO_POP,
    Pointer,
    TableMeta,
    build,
    decode,
    encode,
)
from resolver.snapshot import Rung
from resolver.tables import FileSource, NoSource, Refusals, S3Source, View

SIGNER = Signer(Ed25519PrivateKey.generate())
STRANGER = Signer(Ed25519PrivateKey.generate())


def table_bytes(generation: int, signer: Signer | None = SIGNER) -> bytes:
    prefix = Prefix.parse("198.51.100.0/24")
    pop = np.full((1, CANDIDATES_MAX), NO_POP, np.uint16)
    pop[0, 0] = 0
    share = np.zeros((1, CANDIDATES_MAX), np.uint8)
    share[0, 0] = 255
    net, plen = np.array([prefix.net], np.uint64), np.array([prefix.plen], np.uint8)
    meta = TableMeta(generation=generation)
    return encode(build(meta, ("fra1",), net, plen, pop, share, pop), signer)


def publish(
    store: MemoryStore, generation: int, body: bytes | None = None, sha256: str = ""
) -> None:
    """As the planner does: the object, then the pointer."""
    body = table_bytes(generation) if body is None else body
    key = f"tables/{generation}-{len(store.objects)}.arrow"
    store.objects[key] = body
    digest = sha256 or hashlib.sha256(body).hexdigest()
    store.objects[CURRENT_KEY] = msgspec.json.encode(
        Pointer(generation=generation, key=key, sha256=digest, created_ms=0)
    )


def tell(store: MemoryStore, generation: int, signer: Signer | None = SIGNER) -> None:
    said = State(
        generation=generation, created_ms=0, expires_ms=10, pops={"fra1": PopState(up=False)}
    )
    store.objects[pop_state.KEY] = pop_state.encode(said, signer)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def refusals() -> Refusals:
    return Refusals()


@pytest.fixture
def source(store: MemoryStore, refusals: Refusals, tmp_path: Path) -> S3Source:
    return S3Source(store, verifier((SIGNER.public_hex,)), tmp_path, refusals)


def generations(view: View) -> tuple[int, int]:
    return (
        view.table.meta.generation if view.table else 0,
        view.state.generation if view.state else 0,
    )


def test_a_signed_table_and_state_are_taken_and_newer_ones_replace_them(
    store: MemoryStore, source: S3Source, refusals: Refusals
) -> None:
    publish(store, 1)
    tell(store, 5)
    view = source.poll(source.start(), 100)
    assert (generations(view), view.confirmed_ms) == ((1, 5), 100)
    unchanged = source.poll(view, 200)
    assert unchanged.table is view.table
    assert unchanged.confirmed_ms == 200
    publish(store, 2)
    tell(store, 6)
    assert generations(source.poll(view, 300)) == (2, 6)
    assert not refusals.counts


@pytest.mark.parametrize(
    ("generation", "body", "sha256", "reason"),
    [
        (2, table_bytes(2, None), "", "signature"),
        (2, table_bytes(2, STRANGER), "", "signature"),
        (2, table_bytes(2)[:-1], "", "signature"),
        (2, table_bytes(2), "0" * 64, "sha256"),
        (3, table_bytes(2), "", "generation"),
        (0, table_bytes(0), "", "older"),
    ],
    ids=["unsigned", "by a stranger", "cut off", "other bytes", "of another number", "older"],
)
def test_a_bad_table_is_refused_and_the_last_good_one_stays(
    store: MemoryStore,
    source: S3Source,
    refusals: Refusals,
    generation: int,
    body: bytes,
    sha256: str,
    reason: str,
) -> None:
    publish(store, 1)
    good = source.poll(source.start(), 0)
    publish(store, generation, body, sha256)
    assert source.poll(good, 1).table is good.table
    assert refusals.counts == {reason: 1}
    # Only what may become whole is fetched again.
    assert source.poll(good, 2).table is good.table
    assert refusals.counts == {reason: 2 if reason == "sha256" else 1}


def test_a_pointer_ahead_of_its_object_is_asked_for_again(
    store: MemoryStore, source: S3Source, refusals: Refusals
) -> None:
    publish(store, 1)
    key = next(key for key in store.objects if key.endswith(".arrow"))
    body = store.objects.pop(key)
    view = source.poll(source.start(), 0)
    assert (view.table, refusals.counts) == (None, {"missing": 1})
    store.objects[key] = body
    assert generations(source.poll(view, 1)) == (1, 0)


def test_a_bad_or_older_state_is_refused(
    store: MemoryStore, source: S3Source, refusals: Refusals
) -> None:
    tell(store, 5)
    view = source.poll(source.start(), 0)
    tell(store, 6, STRANGER)
    view = source.poll(view, 1)
    tell(store, 4)
    view = source.poll(view, 2)
    store.objects[pop_state.KEY] = b"{"
    view = source.poll(view, 3)
    assert generations(view) == (0, 5)
    assert refusals.counts == {"signature": 1, "older": 1, "broken": 1}


def test_a_restart_begins_with_the_last_good_ones(
    store: MemoryStore, source: S3Source, refusals: Refusals, tmp_path: Path
) -> None:
    publish(store, 3)
    tell(store, 5)
    source.poll(source.start(), 0)
    again = S3Source(MemoryStore(), verifier((SIGNER.public_hex,)), tmp_path, refusals)
    view = again.start()
    assert generations(view) == (3, 5)
    assert view.rung(1_000_000) is Rung.LAST_GOOD
    # A table that is older than the one on disk is no progress.
    stale = MemoryStore()
    publish(stale, 2)
    late = S3Source(stale, verifier((SIGNER.public_hex,)), tmp_path, refusals)
    assert generations(late.poll(late.start(), 0)) == (3, 5)


def test_what_lies_on_disk_is_believed_only_with_its_seal(
    source: S3Source, refusals: Refusals, tmp_path: Path
) -> None:
    (tmp_path / "table.arrow").write_bytes(table_bytes(9, STRANGER))
    (tmp_path / "pops.json").write_bytes(b"torn")
    assert generations(source.start()) == (0, 0)
    assert refusals.counts == {"signature": 1, "broken": 1}


def test_the_rung_falls_when_the_source_is_silent() -> None:
    view = View(decode(table_bytes(1)), None, confirmed_ms=1_000)
    assert view.rung(11_000) is Rung.LIVE
    assert view.rung(11_001) is Rung.LAST_GOOD
    assert View().rung(0) is Rung.STATIC


def test_a_store_that_is_away_is_said_so(refusals: Refusals, tmp_path: Path) -> None:
    class Away(MemoryStore):
        def read(self, key: str, unless_etag: str = "") -> Stored | None:
            raise StoreError(f"{key}{unless_etag}: away")

    source = S3Source(Away(), verifier((SIGNER.public_hex,)), tmp_path, refusals)
    with pytest.raises(StoreError):
        source.poll(View(), 0)


def test_a_local_file_is_read_again_when_it_changes_and_a_bad_one_is_not_taken(
    tmp_path: Path, refusals: Refusals
) -> None:
    path = tmp_path / "table.arrow"
    path.write_bytes(table_bytes(1, None))
    source = FileSource(path, refusals)
    first = source.start()
    assert source.poll(first, 7).table is first.table
    path.write_bytes(table_bytes(1, None)[:40])
    broken = source.poll(first, 8)
    assert broken.table is first.table
    fresh = tmp_path / "fresh"
    fresh.write_bytes(table_bytes(4, None))
    fresh.replace(path)
    assert generations(source.poll(first, 9)) == (4, 0)


def test_a_local_file_must_be_there_at_the_start(tmp_path: Path, refusals: Refusals) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        FileSource(tmp_path / "none", refusals).start()
    (tmp_path / "bad").write_bytes(b"bad")
    with pytest.raises(ConfigError, match="not a whole table"):
        FileSource(tmp_path / "bad", refusals).start()


def test_without_a_source_nothing_changes() -> None:
    source = NoSource()
    view = source.start()
    assert source.poll(view, 5) is view
