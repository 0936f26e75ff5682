"""The recent past of every POP's RTT and loss, in bounded memory: one ring for all POPs."""

from collections import deque
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from console.dashboard.health import PopRow

STEP_S = 5.0
POINTS = 360
"""Half an hour."""
TABLES_MAX = 200
"""Table changes that are remembered."""


class Past(TypedDict):
    """One POP's past, oldest first; None is no data."""

    step_s: float
    time_ms: list[int]
    rtt_p50_ms: list[float | None]
    rtt_p95_ms: list[float | None]
    loss: list[float | None]
    tables: list[tuple[int, int]]
    """(time, generation) of every table change."""


class History:
    """Written by one owner, a few times a minute."""

    def __init__(self, pops: Sequence[str]) -> None:
        self._index = {pop: i for i, pop in enumerate(pops)}
        # [point, pop, (p50, p95, loss)]; a point is overwritten after POINTS steps.
        self._ring: NDArray[np.float32] = np.full((POINTS, len(pops), 3), np.nan, np.float32)
        self._time_ms: deque[int] = deque(maxlen=POINTS)
        self._tables: deque[tuple[int, int]] = deque(maxlen=TABLES_MAX)
        self._written = 0

    def add(self, rows: Sequence[PopRow], generation: int | None, now_ms: int) -> bool:
        """Keep what is seen now, unless the last point is younger than a step."""
        if generation is not None and (not self._tables or self._tables[-1][1] != generation):
            self._tables.append((now_ms, generation))
        if self._time_ms and now_ms - self._time_ms[-1] < STEP_S * 1_000:
            return False
        point = self._ring[self._written % POINTS]
        point[:] = np.nan
        for row in rows:
            values = (row.rtt_p50_ms, row.rtt_p95_ms, row.loss)
            point[self._index[row.id]] = [np.nan if v is None else v for v in values]
        self._time_ms.append(now_ms)
        self._written += 1
        return True

    def past(self, pop: str) -> Past:
        """What is known of one POP.

        Raises:
            KeyError: no such POP.
        """
        column = self._ring[:, self._index[pop]]
        begin = self._written % POINTS if self._written > POINTS else 0
        ordered = np.roll(column, -begin, axis=0)[: len(self._time_ms)]
        p50, p95, loss = (
            [None if np.isnan(v) else round(float(v), 4) for v in ordered[:, i]] for i in range(3)
        )
        return Past(
            step_s=STEP_S,
            time_ms=list(self._time_ms),
            rtt_p50_ms=p50,
            rtt_p95_ms=p95,
            loss=loss,
            tables=list(self._tables),
        )
