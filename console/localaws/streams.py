"""A Kinesis stream: its shards, which of them takes a key, split and merge, and the byte cap.

Everything that is not a record is in `stream.json`, replaced whole on each change; records are in
one log per shard. A closed shard keeps its records until they are read or trimmed; its children
take over its hash range at once (Developer Guide, "Resharding a stream").
"""

import hashlib
import shutil
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

import msgspec

from console.localaws import files, sequence
from console.localaws import kinesis_errors as errors
from console.localaws.identity import ACCOUNT, REGION
from console.localaws.shardlog import ShardLog
from console.localaws.shards import Shard, ShardInfo

HASH_KEYS = 2**128
SEGMENT_BYTES_MAX = 4 * 2**20
SEGMENTS_MIN = 16
UNREAD_FACTOR = 64
"""Unread records may take so many times the cap of read ones; then writes are throttled."""
SHARDS_MAX = 500
RETENTION_HOURS = 24
HOUR_US = 3600 * sequence.SECOND_US


class StreamInfo(msgspec.Struct):
    """What is known of a stream besides its records."""

    name: str
    created: int
    mode: str = "PROVISIONED"
    retention_hours: int = RETENTION_HOURS
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    metrics: list[str] = msgspec.field(default_factory=list)
    key_id: str | None = None
    shards: list[ShardInfo] = msgspec.field(default_factory=list)


class Stream:
    """The shards of one stream and the rules that bind them."""

    def __init__(self, info: StreamInfo, folder: Path, bytes_max: int) -> None:
        self.info = info
        self.folder = folder
        self.bytes_max = bytes_max
        self.shards: dict[str, Shard] = {}
        for shard in info.shards:
            self._attach(shard)
        self._index()

    @classmethod
    def load(cls, folder: Path, bytes_max: int) -> "Stream":
        """A stream that an earlier process left in `folder`."""
        path = folder / "stream.json"
        return cls(files.decode(path, path.read_bytes(), StreamInfo), folder, bytes_max)

    @property
    def arn(self) -> str:
        """Its Amazon resource name."""
        return f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/{self.info.name}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all records kept."""
        return sum(shard.log.size_bytes for shard in self.shards.values())

    @property
    def newest(self) -> int:
        """The largest tick that this stream has used for anything."""
        ticks = [self.info.created]
        for shard in self.shards.values():
            ticks += [shard.info.created, shard.info.closed or 0, shard.log.newest or 0]
        return max(ticks)

    @property
    def open_shards(self) -> list[Shard]:
        """The shards that take records, by hash range."""
        return self._open

    def save(self) -> None:
        """Write the description; the records are on disk already."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files.replace(self.folder / "stream.json", msgspec.json.encode(self.info))

    def delete(self) -> None:
        """Remove everything from the disk."""
        shutil.rmtree(self.folder)

    def shard(self, shard_id: str) -> Shard:
        """A shard by its id.

        Raises:
            KinesisError: ResourceNotFoundException.
        """
        try:
            return self.shards[shard_id]
        except KeyError:
            raise errors.not_found(
                f"Could not find shard {shard_id} in stream {self.info.name} "
                f"under account {ACCOUNT}."
            ) from None

    def route(self, partition_key: str, explicit_hash_key: str | None) -> Shard:
        """The open shard that takes a record; the hash is MD5 of the key (API reference)."""
        if explicit_hash_key is None:
            digest = hashlib.md5(partition_key.encode(), usedforsecurity=False).digest()
            key = int.from_bytes(digest)
        else:
            key = int(explicit_hash_key)
        return self._open[bisect_right(self._starts, key) - 1]

    def cut(self, count: int, tick: int) -> None:
        """Make the first shards: `count` equal parts of the hash range."""
        step = HASH_KEYS // count
        starts = [i * step for i in range(count)]
        for first, after in zip(starts, [*starts[1:], HASH_KEYS], strict=True):
            self._add(first, after - 1, tick, [])
        self._index()
        self.save()

    def split(self, shard: Shard, hash_key: int, tick: int) -> None:
        """Replace an open shard by two, the second of which begins at `hash_key`.

        Raises:
            KinesisError: InvalidArgumentException.
        """
        self._check_open(shard)
        if not shard.first < hash_key <= shard.last:
            raise errors.invalid(
                f"NewStartingHashKey {hash_key} used in SplitShard() on shard {shard.id} in "
                f"stream {self.info.name} under account {ACCOUNT} is not both greater than one "
                f"plus the shard's StartingHashKey {shard.first} and less than the shard's "
                f"EndingHashKey {shard.last}."
            )
        ranges = [(shard.first, hash_key - 1), (hash_key, shard.last)]
        self._replace([shard], ranges, tick)

    def merge(self, one: Shard, other: Shard, tick: int) -> None:
        """Replace two open neighbours by one shard; `one` is the parent, `other` the adjacent.

        Raises:
            KinesisError: InvalidArgumentException.
        """
        self._check_open(one)
        self._check_open(other)
        low, high = sorted((one, other), key=lambda shard: shard.first)
        if low.last + 1 != high.first:
            raise errors.invalid(
                f"Shards {one.id} and {other.id} in stream {self.info.name} under account "
                f"{ACCOUNT} are not an adjacent pair of shards eligible for merging."
            )
        self._replace([one, other], [(low.first, high.last)], tick)

    def resize(self, count: int, ticks: Iterable[int]) -> None:
        """Reach `count` open shards: split the widest, merge the narrowest pair, one by one.

        Takes one of `ticks` for each step.
        """
        for tick in ticks:
            if len(self._open) < count:
                widest = max(self._open, key=lambda shard: shard.last - shard.first)
                self.split(widest, (widest.first + widest.last + 1) // 2, tick)
            elif len(self._open) > count:
                pairs = zip(self._open, self._open[1:], strict=False)
                self.merge(*min(pairs, key=lambda pair: pair[1].last - pair[0].first), tick)
            else:
                return

    def trim(self) -> None:
        """Drop the oldest segments, whichever shard's they are, until the cap holds.

        Only what has been read, and not lately: the rest waits on disk, however much it is.
        """
        excess = self.size_bytes - self.bytes_max
        while excess > 0:
            logs = [s.log for s in self.shards.values() if s.may_drop_oldest()]
            if not logs:
                return
            oldest = min(logs, key=lambda log: log.oldest or 0)
            excess -= oldest.segments[0].size_bytes
            oldest.drop_oldest()

    @property
    def full(self) -> bool:
        """Whether records that nobody has read leave no room for more."""
        return self.size_bytes >= self.bytes_max * UNREAD_FACTOR

    def horizon(self, now_us: int) -> int:
        """The tick before which records are out of retention at `now_us`."""
        return max(0, now_us - self.info.retention_hours * HOUR_US)

    def expire(self, now_us: int) -> None:
        """Drop the segments that hold nothing but records out of retention."""
        horizon = self.horizon(now_us)
        for shard in self.shards.values():
            while shard.log.segments and shard.log.segments[0].ticks[-1] < horizon:
                shard.log.drop_oldest()

    def _check_open(self, shard: Shard) -> None:
        if not shard.is_open:
            raise errors.invalid(
                f"Shard {shard.id} in stream {self.info.name} under account {ACCOUNT} has "
                "already been merged or split, and thus is not eligible for merging or splitting."
            )

    def _replace(self, parents: list[Shard], ranges: list[tuple[int, int]], tick: int) -> None:
        names = [parent.id for parent in parents]
        children = [self._add(first, last, tick, names) for first, last in ranges]
        for parent in parents:
            parent.info.closed = tick
            parent.info.children = [child.id for child in children]
        self._index()
        self.save()

    def _add(self, first: int, last: int, tick: int, parents: list[str]) -> Shard:
        info = ShardInfo(len(self.info.shards), str(first), str(last), tick, parents=parents)
        self.info.shards.append(info)
        return self._attach(info)

    def _attach(self, info: ShardInfo) -> Shard:
        segment_bytes = min(SEGMENT_BYTES_MAX, self.bytes_max // SEGMENTS_MIN)
        shard = Shard(info, ShardLog(self.folder / f"{info.index:012d}", segment_bytes))
        shard.log.load()
        self.shards[shard.id] = shard
        return shard

    def _index(self) -> None:
        self._open = sorted(
            (s for s in self.shards.values() if s.is_open), key=lambda shard: shard.first
        )
        self._starts = [shard.first for shard in self._open]
