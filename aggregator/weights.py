"""What a cycle works out cell by cell: costs of moving, weighted means. Rows are shared by threads.

Each is one pass over a million prefixes with their candidates; numpy would take several, each
through memory anew.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.market import Crew
from popsteer.kernel import kernel

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Columns = NDArray[Any]
"""float32 or float64."""


def moving_us(
    spread_us: Columns, present: F64, least_us: float, workers: Crew
) -> NDArray[np.float32]:
    """[n, k], what a candidate must gain: more than the doubt of it and of the present one."""
    doubt = np.empty(present.shape, np.float32)

    def work(first: int, last: int) -> None:
        _doubt(spread_us, present, least_us, doubt, first, last)

    workers.each(len(present), work)
    return doubt


@kernel
def _doubt(
    spread: Columns,
    present: F64,
    least: float,
    doubt: NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    for row in range(first, last):
        own = 0.0
        for c in range(spread.shape[1]):
            if present[row, c] > 0 and spread[row, c] > own:
                own = spread[row, c]
        for c in range(spread.shape[1]):
            mine = spread[row, c] if spread[row, c] == spread[row, c] else 0.0
            doubt[row, c] = max(np.hypot(mine, own), least)


def usable_us(cost_us: Columns, pop: NDArray[np.int64], usable: Bools, workers: Crew) -> F64:
    """[n, k], the costs; infinite where there is no POP or none that can be used."""
    cost = np.empty(pop.shape)

    def work(first: int, last: int) -> None:
        _usable(cost_us, pop, usable, cost, first, last)

    workers.each(len(pop), work)
    return cost


@kernel
def _usable(
    cost_us: Columns, pop: NDArray[np.int64], usable: Bools, cost: F64, first: int, last: int
) -> None:
    for row in range(first, last):
        for c in range(pop.shape[1]):
            able = pop[row, c] >= 0 and usable[pop[row, c]]
            cost[row, c] = cost_us[row, c] if able else np.inf


def weighted(share: F64, values: Columns) -> F64:
    """[n], the sum of values by their shares; NaN where there is no share."""
    mean = np.empty(len(share))
    _weigh(share, values, mean)
    return mean


@kernel
def _weigh(share: F64, values: Columns, mean: F64) -> None:
    for row in range(len(share)):
        total, placed = 0.0, False
        for c in range(share.shape[1]):
            if share[row, c] > 0:
                placed = True
                total += share[row, c] * values[row, c]
        mean[row] = total if placed else np.nan


def moved_us(share: F64, present: F64, move_us: Columns) -> F64:
    """[n], what the moves from present shares to others cost; nothing for a row that is new."""
    paid = np.empty(len(share))
    _pay(share, present, move_us, paid)
    return paid


@kernel
def _pay(share: F64, present: F64, move: Columns, paid: F64) -> None:
    for row in range(len(share)):
        total, held = 0.0, 0.0
        for c in range(share.shape[1]):
            held += present[row, c]
            if share[row, c] > present[row, c]:
                total += (share[row, c] - present[row, c]) * move[row, c]
        paid[row] = total if held > 0 else 0.0
