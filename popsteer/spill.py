"""Records that wait on disk while the stream is away: append-only, checksummed, bounded.

Two queues, urgent and bulk, each a folder of numbered segments of about 1 MB. A frame is a
marker, the payload's length, its CRC-32, and the payload (source and record). What was appended
survives a kill -9 of the process (the kernel holds it) and, once its segment is full, a loss of
power. A frame that is torn or damaged is passed over: reading goes on at the next marker whose
checksum holds, and the frames around it come out whole and in order.

When the bound is reached the oldest bulk segment is dropped, and only when there is no bulk left
the oldest urgent one: every dropped record is counted. A segment that is being read stays.
"""

import fcntl
import os
import struct
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from io import FileIO
from pathlib import Path

from popsteer.errors import SetupError
from popsteer.names import SourceId

SEGMENT_BYTES = 1024 * 1024
AGE_S_MAX = 6 * 3600.0
"""Older records are dropped: they would only repaint history."""

_MARKER = b"\xf0PS1"
_HEAD = struct.Struct("<4sII")
_NAME = struct.Struct("<H")
_PAYLOAD_BYTES_MAX = 1024 * 1024


class Urgency(StrEnum):
    """Which of the two queues."""

    URGENT = "urgent"
    BULK = "bulk"


@dataclass(slots=True, eq=False)
class Segment:
    """A file of one queue."""

    urgency: Urgency
    number: int
    path: Path
    bytes: int = 0
    written_s: float = 0.0
    """Wall clock of its first record, in seconds; its age counts from there."""
    sources: Counter[SourceId] = field(default_factory=Counter)
    """How many records of each source it holds."""
    reading: bool = False
    """Somebody sends its records at the moment: it is not dropped."""


class Spill:
    """The two queues of one process; the folder belongs to it alone."""

    def __init__(
        self,
        folder: Path,
        bytes_max: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        age_s_max: float = AGE_S_MAX,
    ) -> None:
        """Open the folder and count what an earlier run left there.

        Raises:
            SetupError: the folder cannot be written, or another process has it.
        """
        self._folder = folder
        self._bytes_max = bytes_max
        self._segment_bytes = segment_bytes
        self._age_s_max = age_s_max
        self._segments: dict[Urgency, list[Segment]] = {u: [] for u in Urgency}
        self._writer: dict[Urgency, FileIO] = {}
        self._waiting: Counter[SourceId] = Counter()
        self.bytes = 0
        self.dropped = 0
        """Records that were dropped to keep the bounds, since the start."""
        try:
            self._lock = _locked(folder)
            for urgency in Urgency:
                (folder / urgency).mkdir(exist_ok=True)
                self._adopt(urgency)
        except OSError as error:
            raise SetupError(f"{folder}: {error.strerror}; popsteer must write there") from None
        self._next = 1 + max((s.number for q in self._segments.values() for s in q), default=0)

    def _adopt(self, urgency: Urgency) -> None:
        for path in sorted((self._folder / urgency).glob("*.seg")):
            body = path.read_bytes()
            sources = Counter(source for source, _ in parse(body))
            written_s = path.stat().st_mtime
            segment = Segment(urgency, int(path.stem), path, len(body), written_s, sources)
            if not sources:
                path.unlink()
                continue
            self._segments[urgency].append(segment)
            self._waiting += sources
            self.bytes += len(body)

    def waits(self, source: SourceId) -> bool:
        """Whether records of a source wait here."""
        return self._waiting[source] > 0

    def append(self, urgency: Urgency, source: SourceId, record: bytes) -> bool:
        """Add one record behind all others; False when the disk refuses it."""
        frame = frame_of(source, record)
        self._make_room(len(frame))
        try:
            file = self._open_writer(urgency)
            if file.write(frame) != len(frame):
                # A torn frame is passed over by readers; what follows starts a new segment.
                self._end_segment(urgency)
                return False
        except OSError:
            self._end_segment(urgency)
            return False
        segment = self._segments[urgency][-1]
        segment.bytes += len(frame)
        segment.sources[source] += 1
        self._waiting[source] += 1
        self.bytes += len(frame)
        if segment.bytes >= self._segment_bytes:
            self._close_writer(urgency)
        return True

    def _open_writer(self, urgency: Urgency) -> FileIO:
        if urgency not in self._writer:
            path = self._folder / urgency / f"{self._next:020}.seg"
            file = FileIO(path, "x")
            segment = Segment(urgency, self._next, path, written_s=time.time())
            self._segments[urgency].append(segment)
            self._writer[urgency] = file
            self._next += 1
        return self._writer[urgency]

    def _end_segment(self, urgency: Urgency) -> None:
        """The disk refused a frame; a segment that holds none must not stay behind."""
        self._close_writer(urgency)
        queue = self._segments[urgency]
        if queue and not queue[-1].sources:
            self.remove(queue[-1])

    def _close_writer(self, urgency: Urgency) -> None:
        file = self._writer.pop(urgency, None)
        if file is None:
            return
        try:
            os.fsync(file.fileno())
        except OSError:
            pass  # the checksums tell later what reached the disk
        finally:
            file.close()

    def _make_room(self, wanted: int) -> None:
        oldest_s = time.time() - self._age_s_max
        for urgency in Urgency:
            for segment in self._idle(urgency):
                if segment.written_s < oldest_s:
                    self._drop(segment)
        for urgency in (Urgency.BULK, Urgency.URGENT):
            for segment in self._idle(urgency):
                if self.bytes + wanted > self._bytes_max:
                    self._drop(segment)

    def _idle(self, urgency: Urgency) -> list[Segment]:
        return [segment for segment in self._segments[urgency] if not segment.reading]

    def _drop(self, segment: Segment) -> None:
        self.dropped += segment.sources.total()
        self.remove(segment)

    def oldest(self, urgency: Urgency) -> Segment | None:
        """The first segment of a queue, complete, for reading; give it back by `remove`."""
        queue = self._segments[urgency]
        if not queue:
            return None
        if len(queue) == 1:
            self._close_writer(urgency)
        queue[0].reading = True
        return queue[0]

    def remove(self, segment: Segment) -> None:
        """Forget a segment; nothing happens when it is already forgotten."""
        queue = self._segments[segment.urgency]
        if segment not in queue:
            return
        if segment is queue[-1]:
            self._close_writer(segment.urgency)
        queue.remove(segment)
        self._waiting -= segment.sources
        self.bytes -= segment.bytes
        segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Everything to disk; the folder is free for another process."""
        for urgency in Urgency:
            self._close_writer(urgency)
        self._lock.close()


def _locked(folder: Path) -> FileIO:
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileIO(folder / "lock", "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise SetupError(
            f"{folder} is in use by another process: give each process its own data folder"
        ) from None
    return lock


def frame_of(source: SourceId, record: bytes) -> bytes:
    """The bytes that stand for one record in a segment."""
    name = source.encode()
    payload = _NAME.pack(len(name)) + name + record
    return _HEAD.pack(_MARKER, len(payload), zlib.crc32(payload)) + payload


def parse(segment: bytes) -> list[tuple[SourceId, bytes]]:
    """The whole records of a segment, in order, past torn and damaged frames."""
    found: list[tuple[SourceId, bytes]] = []
    at = segment.find(_MARKER)
    while at >= 0:
        end = _frame_end(segment, at)
        if end:
            found.append(_record(segment[at + _HEAD.size : end]))
        at = segment.find(_MARKER, end or at + 1)
    return found


def _frame_end(segment: bytes, at: int) -> int:
    """Where the frame at `at` ends; 0 when there is no whole one."""
    if at + _HEAD.size > len(segment):
        return 0
    _, length, checksum = _HEAD.unpack_from(segment, at)
    end = at + _HEAD.size + length
    if not _NAME.size < length <= _PAYLOAD_BYTES_MAX or end > len(segment):
        return 0
    return end if zlib.crc32(segment[at + _HEAD.size : end]) == checksum else 0


def _record(payload: bytes) -> tuple[SourceId, bytes]:
    (length,) = _NAME.unpack_from(payload)
    name = payload[_NAME.size : _NAME.size + length]
    return SourceId(name.decode()), payload[_NAME.size + length :]
