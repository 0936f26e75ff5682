"""Who a record says it is from: its source and its sequence number.

A consumer keeps one high-water mark per source and drops what is not above it, so two things
must hold. First, the numbers of a source only rise: across restarts, a lost data folder, and a
clock that was set back. So a run starts at the larger of the wall clock in microseconds and the
mark reserved on disk, and reserves ahead in blocks. Gaps mean nothing.

Second, the records of a source arrive in order. Records that wait on disk would hold up fresh
ones of the same source, so fresh ones then go out under a spare source: `fra1.rtt` waits, and
the lane goes on as `fra1.rtt~1`. The few spare names are used again and again.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from popsteer.errors import SetupError
from popsteer.names import SourceId

SPARES_MAX = 7
"""Spare sources of a lane; when all of them wait on disk, fresh records wait there too."""
BLOCK = 1_000_000
"""Numbers reserved by one write to disk."""


class Sequences:
    """Numbers that only rise, one row of them for each source; one owner per data folder."""

    def __init__(self, path: Path, now_us: int) -> None:
        """Continue after every number that was ever given out.

        Raises:
            SetupError: the mark cannot be written.
        """
        self._path = path
        self._next: dict[SourceId, int] = {}
        self._first = max(now_us, _reserved(path))
        self._reserved = self._first
        try:
            self._reserve()
        except OSError as error:
            raise SetupError(f"{path}: {error.strerror}; popsteer must write there") from None

    def next(self, source: SourceId) -> int:
        """The next number of a source."""
        number = self._next.get(source, self._first)
        self._next[source] = number + 1
        if number + 1 >= self._reserved:
            # A disk that is full now must not stop the stream: until the next block is written
            # only a clock set back together with a restart could repeat a number.
            with contextlib.suppress(OSError):
                self._reserve()
        return number

    def _reserve(self) -> None:
        self._reserved += BLOCK
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(str(self._reserved))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)


def _reserved(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


class Lanes:
    """Under which source each lane writes at the moment."""

    def __init__(self) -> None:
        self._spare: dict[SourceId, int] = {}

    def source(self, lane: SourceId) -> SourceId:
        """The source of a lane now."""
        return _named(lane, self._spare.get(lane, 0))

    def move(self, lane: SourceId, waits: Callable[[SourceId], bool]) -> SourceId:
        """Let a lane go on under its first source that does not wait on disk.

        Gives the new source, or the present one when all of them wait.
        """
        for number in range(SPARES_MAX + 1):
            if not waits(_named(lane, number)):
                self._spare[lane] = number
                break
        return self.source(lane)


def _named(lane: SourceId, number: int) -> SourceId:
    return SourceId(f"{lane}~{number}") if number else lane
