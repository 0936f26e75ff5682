"""The records of one shard, on disk: an append-only log in segments, oldest dropped first.

A segment is a file of lines, and a line is a record exactly as GetRecords shows it, so reading is
one `pread` and no record is ever decoded or encoded again. Memory holds 16 bytes a record. There
is no fsync: the kernel keeps what was written when this process is killed, and a line torn by a
crash of the machine is cut off at the next start.
"""

import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from console.localaws import sequence

LINE_PREFIX = b'{"SequenceNumber":"'
_DIGITS_END = len(LINE_PREFIX) + sequence.DIGITS


@dataclass(frozen=True, slots=True)
class Chunk:
    """A run of records: `lines` end in a newline each; `last` is the tick to read on after."""

    lines: bytes
    count: int
    last: int
    next_tick: int | None
    """The tick of the first record after this run, None at the tip."""


class Segment:
    """One file of records and its index."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ticks = array("Q")
        self.ends = array("Q")
        """Offset in the file where each record ends."""

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return self.ends[-1] if self.ends else 0

    def append(self, ticks: Sequence[int], lines: Sequence[bytes]) -> None:
        """Write records at the end, all or none.

        Raises:
            OSError: the disk refused; the segment is as before.
        """
        start = end = self.size_bytes
        with self.path.open("ab", buffering=0) as file:
            try:
                _write_all(file.fileno(), b"".join(lines))
            except OSError:
                file.truncate(start)
                raise
        for tick, line in zip(ticks, lines, strict=True):
            end += len(line)
            self.ticks.append(tick)
            self.ends.append(end)

    def read(self, first: int, stop: int) -> bytes:
        """The lines of records `first` to `stop`, exclusive."""
        start = self.ends[first - 1] if first else 0
        with self.path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), self.ends[stop - 1] - start, start)

    def load(self) -> None:
        """Index the file; whatever follows the last whole line is cut off."""
        end = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            digits = line[len(LINE_PREFIX) : _DIGITS_END]
            whole = line.startswith(LINE_PREFIX) and line.endswith(b"}\n") and digits.isdigit()
            if not whole:
                break
            end += len(line)
            self.ticks.append(sequence.tick_of(int(digits)))
            self.ends.append(end)
        os.truncate(self.path, end)


class ShardLog:
    """The segments of one shard, oldest first; only the last one is written to."""

    def __init__(self, folder: Path, segment_bytes_max: int) -> None:
        self.folder = folder
        self.segment_bytes_max = segment_bytes_max
        self.segments: list[Segment] = []
        self.size_bytes = 0

    def load(self) -> None:
        """Take up what an earlier process left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*.jsonl")):
            segment = Segment(path)
            segment.load()
            if segment.ticks:
                self.segments.append(segment)
                self.size_bytes += segment.size_bytes
            else:
                path.unlink()

    @property
    def oldest(self) -> int | None:
        """The tick of the oldest record."""
        return self.segments[0].ticks[0] if self.segments else None

    @property
    def newest(self) -> int | None:
        """The tick of the newest record."""
        return self.segments[-1].ticks[-1] if self.segments else None

    def append(self, ticks: Sequence[int], lines: Sequence[bytes]) -> None:
        """Write records whose ticks grow and are above all earlier ones."""
        if not self.segments or self.segments[-1].size_bytes >= self.segment_bytes_max:
            # Names sort as ticks do: 20 digits hold any 64-bit number.
            self.segments.append(Segment(self.folder / f"{ticks[0]:020d}.jsonl"))
        tail = self.segments[-1]
        try:
            tail.append(ticks, lines)
        except OSError:
            if not tail.ticks:
                self.segments.pop()
            raise
        self.size_bytes += sum(map(len, lines))

    def drop_oldest(self) -> None:
        """Forget the oldest segment and its file."""
        segment = self.segments.pop(0)
        self.size_bytes -= segment.size_bytes
        segment.path.unlink(missing_ok=True)

    def read(self, after: int, count_max: int, bytes_max: int) -> Chunk:
        """Records with ticks above `after`: at least one if there is any, within both limits."""
        runs: list[bytes] = []
        count = size = 0
        last = after
        at = max(0, bisect_right(self.segments, after, key=lambda s: s.ticks[0]) - 1)
        for segment in self.segments[at:]:
            first = bisect_right(segment.ticks, after)
            if first == len(segment.ticks):
                continue
            start = segment.ends[first - 1] if first else 0
            fits = bisect_right(segment.ends, start + bytes_max - size, lo=first)
            stop = min(fits, first + count_max - count)
            if stop == first and count == 0 and count_max > 0:
                stop = first + 1
            if stop > first:
                runs.append(segment.read(first, stop))
                count += stop - first
                size += len(runs[-1])
                last = segment.ticks[stop - 1]
            if stop < len(segment.ticks):
                return Chunk(b"".join(runs), count, last, segment.ticks[stop])
        return Chunk(b"".join(runs), count, last, None)

    def before(self, tick: int) -> int:
        """The tick to read after, so that the first record read is at or above `tick`."""
        for segment in self.segments:
            if segment.ticks[-1] >= tick:
                return segment.ticks[bisect_left(segment.ticks, tick)] - 1
        return self.newest or 0


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
