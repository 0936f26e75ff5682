"""Which sequence numbers of a source have been seen, so that retries are dropped exactly once.

A mark is the highest number seen and the gaps below it. A high-water mark alone would lose data:
PutRecords may accept records 5 and 7 and refuse 6, which then arrives late, and a spill drains
behind live records. The idea is IPsec's anti-replay window (RFC 4303 section 3.4.3), with gaps in
place of bits, so that a source may jump ahead and still fill the hole later.
"""

from dataclasses import dataclass
from typing import Any

GAPS_MAX = 64
"""Gaps kept per source. A source that leaves more open loses the right to fill the oldest."""
RESTART_RECORDS = 100_000
"""A gap wider than this is no loss but a source that began anew: its numbers then go on from the
wall clock in microseconds (`popsteer.lanes`), far ahead of any number it could have reached."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What has been seen of one source: every number up to `highest`, except those in `gaps`."""

    highest: int = -1
    gaps: tuple[tuple[int, int], ...] = ()
    """Closed ranges, ascending, disjoint, all below `highest`."""
    arrival_ms: int = 0
    """When the newest record of the source arrived; idle sources are forgotten by it."""
    newest_ms: int = -1
    """The newest sample accepted; a source's own time does not go back. -1: none yet."""

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Mark":
        """The inverse of `dataclasses.asdict`, after JSON."""
        gaps = tuple((int(low), int(high)) for low, high in document["gaps"])
        return cls(
            int(document["highest"]),
            gaps,
            int(document["arrival_ms"]),
            int(document["newest_ms"]),
        )

    def has(self, sequence: int) -> bool:
        """Whether this number was seen (or its gap is forgotten)."""
        if sequence > self.highest:
            return False
        return not any(low <= sequence <= high for low, high in self.gaps)

    @property
    def heard_ms(self) -> int:
        """`newest_ms`, but never later than it arrived, whatever the source's clock says."""
        return min(self.newest_ms, self.arrival_ms)

    @property
    def missing(self) -> int:
        """Records that were numbered after the first one seen, and were not seen."""
        sizes = (high - low + 1 for low, high in self.gaps if low > 0)
        return sum(size for size in sizes if size <= RESTART_RECORDS)

    def add(self, sequence: int, arrival_ms: int) -> "Mark":
        """The mark after this number, which must not have been seen."""
        arrival_ms = max(arrival_ms, self.arrival_ms)
        if sequence == self.highest + 1:
            return Mark(sequence, self.gaps, arrival_ms, self.newest_ms)
        if sequence > self.highest:
            gaps = (*self.gaps, (self.highest + 1, sequence - 1))
            return Mark(sequence, gaps[-GAPS_MAX:], arrival_ms, self.newest_ms)
        gaps = tuple(part for gap in self.gaps for part in _without(gap, sequence))
        return Mark(self.highest, gaps[-GAPS_MAX:], arrival_ms, self.newest_ms)

    def told(self, newest_ms: int) -> "Mark":
        """The mark after samples up to this time were accepted."""
        if newest_ms <= self.newest_ms:
            return self
        return Mark(self.highest, self.gaps, self.arrival_ms, newest_ms)

    def union(self, other: "Mark") -> "Mark":
        """What either has seen: how a shard that two were merged into continues both."""
        unseen = [
            (max(a, c), min(b, d))
            for a, b in (*self.gaps, (self.highest + 1, max(self.highest, other.highest)))
            for c, d in (*other.gaps, (other.highest + 1, max(self.highest, other.highest)))
            if max(a, c) <= min(b, d)
        ]
        return Mark(
            max(self.highest, other.highest),
            tuple(sorted(unseen))[-GAPS_MAX:],
            max(self.arrival_ms, other.arrival_ms),
            max(self.newest_ms, other.newest_ms),
        )


def _without(gap: tuple[int, int], sequence: int) -> list[tuple[int, int]]:
    low, high = gap
    if not low <= sequence <= high:
        return [gap]
    return [part for part in ((low, sequence - 1), (sequence + 1, high)) if part[0] <= part[1]]


def union(left: dict[str, Mark], right: dict[str, Mark]) -> dict[str, Mark]:
    """The marks of two shards together, by source."""
    merged = dict(left)
    for source, mark in right.items():
        merged[source] = merged[source].union(mark) if source in merged else mark
    return merged
