"""Rows in, batches out: the columns of one lane while they fill.

Pure: the time comes in with every row and every question. A batch is cut when it holds
`rows_max` rows or when its oldest row is `age_ms_max` old. The header of a cut batch carries
the lane's name and sequence 0; the sink numbers it (`popsteer.sink`), because only the sink
knows under which source a lane writes at the moment.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from popsteer.names import SourceId
from popsteer.samples import Batch, DemandBatch, Header, Kind, RttBatch, SignalBatch

AGE_MS_MAX = 1_000
ROWS_MAX_OF = {Kind.RTT: 3_200, Kind.DEMAND: 2_000, Kind.SIGNAL: 1_500}
"""Rows that usually make 15 to 23 KB; the sink halves the rare batch that comes out larger."""

_COLUMNS: dict[Kind, tuple[tuple[str, type[np.generic]], ...]] = {
    Kind.RTT: (
        ("net", np.uint64),
        ("plen", np.uint8),
        ("subject", np.uint16),
        ("rtt_us", np.uint32),
        ("method", np.uint8),
        ("lost", np.uint8),
    ),
    Kind.DEMAND: (
        ("net", np.uint64),
        ("plen", np.uint8),
        ("subject", np.uint16),
        ("queries", np.uint32),
        ("bits", np.float32),
    ),
    Kind.SIGNAL: (
        ("subject", np.uint16),
        ("signal", np.uint8),
        ("value", np.float64),
    ),
}
_TYPES: dict[Kind, type[RttBatch] | type[DemandBatch] | type[SignalBatch]] = {
    Kind.RTT: RttBatch,
    Kind.DEMAND: DemandBatch,
    Kind.SIGNAL: SignalBatch,
}


class Batcher:
    """The filling columns of one lane: one kind, one source, one list of subjects."""

    def __init__(
        self,
        kind: Kind,
        source: SourceId,
        subjects: Sequence[str],
        *,
        rows_max: int = 0,
        age_ms_max: int = AGE_MS_MAX,
    ) -> None:
        self._kind = kind
        self._source = source
        self._subjects = tuple(subjects)
        self._rows_max = rows_max or ROWS_MAX_OF[kind]
        self._age_ms_max = age_ms_max
        self._full: list[Batch] = []
        self._open()

    def _open(self) -> None:
        self._filled = 0
        self._time_ms = np.empty(self._rows_max, np.int64)
        self._columns = [np.empty(self._rows_max, kind) for _, kind in _COLUMNS[self._kind]]

    def append(self, time_ms: int, *row: float) -> None:
        """One row; values in the order of the batch's columns after `dt_ms`."""
        at = self._filled
        self._time_ms[at] = time_ms
        for column, value in zip(self._columns, row, strict=True):
            column[at] = value
        self._filled = at + 1
        if self._filled == self._rows_max:
            self._cut()

    def extend(self, time_ms: NDArray[np.int64], *columns: NDArray[Any]) -> None:
        """Many rows: arrays of equal length, in the order of the batch's columns."""
        done, total = 0, len(time_ms)
        while done < total:
            take = min(total - done, self._rows_max - self._filled)
            here = slice(self._filled, self._filled + take)
            rows = slice(done, done + take)
            self._time_ms[here] = time_ms[rows]
            for column, values in zip(self._columns, columns, strict=True):
                column[here] = values[rows]
            self._filled += take
            done += take
            if self._filled == self._rows_max:
                self._cut()

    def take(self, now_ms: int, *, flush: bool = False) -> list[Batch]:
        """The batches that are ready: full, or old enough, or all of them with `flush`."""
        if self._filled and (flush or now_ms - self._oldest_ms() >= self._age_ms_max):
            self._cut()
        ready, self._full = self._full, []
        return ready

    def _oldest_ms(self) -> int:
        return int(self._time_ms[: self._filled].min())

    def _cut(self) -> None:
        """Give the columns away as a batch; fresh ones take their place, so nothing is copied."""
        t0_ms = self._oldest_ms()
        dt_ms = (self._time_ms[: self._filled] - t0_ms).astype(np.uint32)
        names = [name for name, _ in _COLUMNS[self._kind]]
        cut = {n: c[: self._filled] for n, c in zip(names, self._columns, strict=True)}
        header = Header(self._source, 0, t0_ms, self._subjects)
        self._full.append(_TYPES[self._kind](header, dt_ms=dt_ms, **cut))
        self._open()


def empty(kind: Kind, source: SourceId, t0_ms: int) -> Batch:
    """A batch without samples, of a lane and a time."""
    columns = {name: np.empty(0, dtype) for name, dtype in _COLUMNS[kind]}
    return _TYPES[kind](Header(source, 0, t0_ms, ()), dt_ms=np.empty(0, np.uint32), **columns)


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """A batch in two: the rows of the first half and of the second."""
    middle = len(batch.dt_ms) // 2
    return _rows(batch, slice(None, middle)), _rows(batch, slice(middle, None))


def _rows(batch: Batch, rows: slice) -> Batch:
    names = ["dt_ms", *(name for name, _ in _COLUMNS[batch.kind])]
    return type(batch)(batch.header, **{name: getattr(batch, name)[rows] for name in names})
