"""Sequence numbers of Kinesis: 56 decimal digits that grow within a shard and across a reshard.

The layout is that of AWS's version 2, as the KCL's SequenceNumberValidator reads it: from the
lowest bits, version (4), shard index (32), second of arrival (36), zero (8), position (64), low
nibble of the shard index (4), second of the shard's creation (36), version (4).

The position is a tick: the microsecond of arrival, moved up where needed so that it never repeats
and never runs back, not even when the clock does. Nothing else orders records.
"""

VERSION = 2
TICK_BITS = 64
TICK_MAX = (1 << TICK_BITS) - 1
DIGITS = 56
SECOND_US = 1_000_000

_SHARD_OFFSET = 4
_SECOND_OFFSET = 36
_TICK_OFFSET = 80
_NIBBLE_OFFSET = 144
_CREATED_OFFSET = 148
_VERSION_OFFSET = 184


class Ticker:
    """Gives ticks; the one owner of the order of records in this process."""

    def __init__(self) -> None:
        self.last = 0

    def next(self, now_us: int) -> int:
        """The tick of something that happens at `now_us`."""
        self.last = max(self.last + 1, now_us)
        return self.last

    def seen(self, tick: int) -> None:
        """A tick found on disk: later ones must be larger."""
        self.last = max(self.last, tick)


def encode(created_us: int, shard_index: int, tick: int) -> int:
    """The sequence number of position `tick` in the shard that was created at `created_us`."""
    return (
        VERSION << _VERSION_OFFSET
        | (created_us // SECOND_US) << _CREATED_OFFSET
        | (shard_index & 0xF) << _NIBBLE_OFFSET
        | tick << _TICK_OFFSET
        | (tick // SECOND_US) << _SECOND_OFFSET
        | shard_index << _SHARD_OFFSET
        | VERSION
    )


def position(sequence: int, created_us: int, shard_index: int) -> int:
    """The tick of a sequence number in this shard; foreign numbers give the nearest position."""
    if sequence < encode(created_us, shard_index, 0):
        return 0
    if sequence > encode(created_us, shard_index, TICK_MAX):
        return TICK_MAX
    return sequence >> _TICK_OFFSET & TICK_MAX


def tick_of(sequence: int) -> int:
    """The tick within a sequence number of ours."""
    return sequence >> _TICK_OFFSET & TICK_MAX
