"""Hash ranges: whatever is split and merged, each key has exactly one open shard."""

import hashlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.localaws.kinesis_errors import KinesisError
from console.localaws.shards import Shard
from console.localaws.streams import HASH_KEYS, Stream, StreamInfo

CREATED_US = 1_763_715_723_000_000


def new_stream(folder: Path, shard_count: int) -> Stream:
    """A stream with room for a megabyte."""
    stream = Stream(StreamInfo("s", CREATED_US), folder, 1_000_000)
    stream.cut(shard_count, CREATED_US)
    return stream


def ticks() -> Iterator[int]:
    """Ticks after the stream's creation."""
    return count(CREATED_US + 1)


def owner(stream: Stream, key: int) -> list[Shard]:
    """The obvious twin of routing: all open shards whose range holds the key."""
    return [s for s in stream.shards.values() if s.is_open and s.first <= key <= s.last]


@settings(max_examples=40)
@given(
    first=st.integers(1, 7),
    sizes=st.lists(st.integers(1, 9), max_size=4),
    names=st.lists(st.text(min_size=1), min_size=1, max_size=5),
    hash_key=st.integers(0, HASH_KEYS - 1),
)
def test_each_key_has_one_open_shard(
    tmp_path_factory: pytest.TempPathFactory,
    first: int,
    sizes: list[int],
    names: list[str],
    hash_key: int,
) -> None:
    stream = new_stream(tmp_path_factory.mktemp("s"), first)
    for size, start in zip(sizes, count(CREATED_US + 1, 1000), strict=False):
        stream.resize(size, count(start))
        assert len(stream.open_shards) == size

    for name in names:
        digest = int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16)
        assert [stream.route(name, None)] == owner(stream, digest)
    assert [stream.route("any", str(hash_key))] == owner(stream, hash_key)
    assert stream.open_shards[0].first == 0
    assert stream.open_shards[-1].last == HASH_KEYS - 1


def test_structure_is_the_same_after_reopening(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "s", 3)
    stream.resize(5, ticks())
    stream.resize(2, count(CREATED_US + 100))

    again = Stream.load(tmp_path / "s", 1_000_000)

    assert again.info == stream.info
    assert [s.id for s in again.open_shards] == [s.id for s in stream.open_shards]
    assert again.newest == stream.newest


def test_a_closed_shard_is_neither_split_nor_merged_again(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "s", 2)
    one, other = stream.open_shards
    stream.split(one, one.last // 2, CREATED_US + 1)

    with pytest.raises(KinesisError, match="already been merged or split"):
        stream.split(one, one.last // 3, CREATED_US + 2)
    with pytest.raises(KinesisError, match="already been merged or split"):
        stream.merge(other, one, CREATED_US + 3)


def test_only_neighbours_merge(tmp_path: Path) -> None:
    stream = new_stream(tmp_path / "s", 3)
    low, _, high = stream.open_shards

    with pytest.raises(KinesisError, match="not an adjacent pair"):
        stream.merge(low, high, CREATED_US + 1)


@pytest.mark.parametrize("key", [0, HASH_KEYS // 2])
def test_a_split_needs_room_on_both_sides(tmp_path: Path, key: int) -> None:
    stream = new_stream(tmp_path / "s", 2)

    with pytest.raises(KinesisError, match="NewStartingHashKey"):
        stream.split(stream.open_shards[0], key, CREATED_US + 1)
