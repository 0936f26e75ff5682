"""One contract, two stores: the one in memory promises exactly what S3 does."""

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest

from popsteer.config import Aws
from popsteer.errors import ConflictError, StoreError
from popsteer.store import MemoryStore, ObjectStore, s3_store


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    return s3_store(request.getfixturevalue("local_aws"))


@pytest.fixture
def key() -> str:
    """A key of this test alone; the bucket is shared."""
    return f"store-test/{uuid4().hex}"


def test_what_is_not_there_reads_as_none(store: ObjectStore, key: str) -> None:
    assert store.read(key) is None
    store.delete(key)


def test_what_is_written_is_read(store: ObjectStore, key: str) -> None:
    assert store.create(key, b"\x00one")
    stored = store.read(key)
    assert stored is not None
    assert stored.body == b"\x00one"
    assert store.read(key, stored.etag) is None
    again = store.read(key, '"another"')
    assert again == stored


def test_create_writes_once(store: ObjectStore, key: str) -> None:
    assert store.create(key, b"one")
    assert not store.create(key, b"two")
    stored = store.read(key)
    assert stored is not None
    assert stored.body == b"one"


def test_swap_replaces_exactly_one_version(store: ObjectStore, key: str) -> None:
    first = store.swap(key, b"one", "")
    second = store.swap(key, b"two", first)
    assert first != second
    for stale in (first, ""):
        with pytest.raises(ConflictError):
            store.swap(key, b"three", stale)
    stored = store.read(key)
    assert stored is not None
    assert (stored.body, stored.etag) == (b"two", second)


def test_swap_of_what_is_gone_conflicts(store: ObjectStore, key: str) -> None:
    etag = store.swap(key, b"one", "")
    store.delete(key)
    assert store.read(key) is None
    with pytest.raises(ConflictError):
        store.swap(key, b"two", etag)


def test_list_is_sorted_and_goes_on_after(store: ObjectStore, key: str) -> None:
    names = [f"{key}/{name}" for name in ("a", "b/c", "b", "z", "ä")]
    for name in names:
        store.create(name, b"")
    store.create(f"{key}-beside", b"")
    assert store.list(f"{key}/") == sorted(names, key=lambda name: name.encode())
    assert store.list(f"{key}/", f"{key}/b") == [f"{key}/b/c", f"{key}/z", f"{key}/ä"]
    assert store.list(f"{key}/none") == []


def test_of_many_who_write_at_once_one_wins(local_aws: Aws, key: str) -> None:
    store = s3_store(local_aws)
    etag = store.swap(key, b"start", "")

    def swap(number: int) -> bool:
        try:
            store.swap(key, str(number).encode(), etag)
        except ConflictError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(swap, range(16))) == 1
        assert sum(pool.map(lambda i: store.create(f"{key}/new", bytes([i])), range(16))) == 1


def test_a_missing_bucket_is_no_missing_object(local_aws: Aws) -> None:
    store = s3_store(Aws(endpoint=local_aws.endpoint, bucket="no-such-bucket"))
    with pytest.raises(StoreError, match="s3://no-such-bucket/a"):
        store.create("a", b"")
    with pytest.raises(StoreError, match="s3://no-such-bucket/a"):
        store.read("a")
    with pytest.raises(StoreError, match="s3://no-such-bucket/a"):
        store.list("a")


def test_a_store_that_is_away_is_one_kind_of_error() -> None:
    # Port 9 of loopback: nothing listens there.
    store = s3_store(Aws(endpoint="http://127.0.0.1:9"))
    for call in (
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: store.swap("a", b"", ""),
        lambda: store.list("a"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(StoreError, match="s3://popsteer/a"):
            call()
