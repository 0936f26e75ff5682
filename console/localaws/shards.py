"""One Kinesis shard: what is known of it, its records, its limits."""

import msgspec

from console.localaws import sequence
from console.localaws.limits import ShardLimits
from console.localaws.shardlog import ShardLog

REREAD_US = 60 * sequence.SECOND_US
"""How far behind its last read a reader may start again: several windows of the aggregator."""


class ShardInfo(msgspec.Struct):
    """What is known of a shard besides its records; times are ticks."""

    index: int
    # Hash keys exceed 64 bits, which msgspec's JSON integers do not.
    hash_first: str
    hash_last: str
    created: int
    closed: int | None = None
    parents: list[str] = msgspec.field(default_factory=list)
    children: list[str] = msgspec.field(default_factory=list)


class Shard:
    """One shard: its description, its log, its limits."""

    def __init__(self, info: ShardInfo, log: ShardLog) -> None:
        self.info = info
        self.log = log
        self.limits = ShardLimits()
        self.first = int(info.hash_first)
        self.last = int(info.hash_last)
        self.read_to = 0
        """The tick up to which a reader has taken all and asked for more; 0 after a restart."""

    @property
    def id(self) -> str:
        """As `shardId-000000000003`."""
        return f"shardId-{self.info.index:012d}"

    @property
    def is_open(self) -> bool:
        """Whether it still takes records."""
        return self.info.closed is None

    def may_drop_oldest(self) -> bool:
        """Whether nobody will want the oldest segment: it was read, and not just now.

        A reader that dies starts again at its checkpoint, some seconds behind what it had read.
        """
        if not self.log.segments:
            return False
        return self.log.segments[0].ticks[-1] <= self.read_to - REREAD_US

    def sequence(self, tick: int) -> int:
        """The sequence number of a tick in this shard."""
        return sequence.encode(self.info.created, self.info.index, tick)

    def position(self, number: int) -> int:
        """The tick of a sequence number in this shard."""
        return sequence.position(number, self.info.created, self.info.index)

    @property
    def tip(self) -> int:
        """The tick that LATEST reads after."""
        return self.log.newest or self.info.created
