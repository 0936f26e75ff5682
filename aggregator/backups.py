"""The backup of every prefix: who takes it over when its main POP sheds or dies.

Prefixes are spread over the capacity that is left in proportion, so that what one POP gives up
does not fall on one other. Those with most to lose choose first; what finds no room makes all of
it a little larger, until everybody has a backup.
"""

import numpy as np
from numpy.typing import NDArray

from aggregator.market import Crew
from aggregator.solve import NOWHERE, Assignment, Problem, reached_pops
from popsteer.kernel import kernel

SLACK = 1.3
"""How much more room than demand the backups share, so that near ones are mostly had."""
FLOOR = 0.02
"""Share of its capacity that even a full POP can back up with."""
STRETCH, STRETCHES_MAX = 1.03, 120
"""By how much all room grows at a time; what is left at last takes the fastest."""
REGRET_STEP_US = 100.0
"""Regrets that differ by less are equal: those rows choose in their order."""
REGRET_STEPS = 2**16 - 1

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


def backups(problem: Problem, solved: Assignment, workers: Crew) -> NDArray[np.int16]:
    """[n], the candidate; NOWHERE where there is no second one."""
    n, cost, pop = len(problem.demand_bps), problem.cost_us, problem.pop
    main, calm = np.empty(n, np.int16), np.empty(n, np.uint16)

    def compare(first: int, last: int) -> None:
        _compare(cost, solved.share, main, calm, first, last)

    workers.each(n, compare)
    # Numbers of sixteen bits are sorted by their digits: far faster than by comparing.
    queue = np.argsort(calm, kind="stable")
    size = _room(problem, solved)
    found, used = np.full(n, NOWHERE, np.int16), np.zeros(len(size))
    queue = _place(queue, pop, cost, problem.demand_bps, main, size, used, found)
    reached = reached_pops(problem)
    whole = float(size[reached].sum())
    wanted = float(used[reached].sum() + problem.demand_bps[queue].sum())
    stretch = max(1.0, wanted / whole) if whole > 0 else 1.0
    for _ in range(STRETCHES_MAX):
        if not len(queue):
            return found
        queue = _place(queue, pop, cost, problem.demand_bps, main, size * stretch, used, found)
        stretch *= STRETCH
    _place(queue, pop, cost, problem.demand_bps, main, np.full(len(size), np.inf), used, found)
    return found


def _room(problem: Problem, solved: Assignment) -> F64:
    """[p], what is left of each POP, stretched to hold everybody: the proportions count.

    Not all POPs fail at once.
    """
    capacity, finite = problem.capacity_bps, np.isfinite(problem.capacity_bps)
    spare = np.maximum(capacity - solved.load_bps, 0.0) + FLOOR * np.where(finite, capacity, 0.0)
    total = float(spare[finite & reached_pops(problem)].sum())
    stretch = SLACK * max(float(problem.demand_bps.sum()) / total, 1.0) if total else 1.0
    return np.where(finite, spare * stretch, np.inf)


@kernel
def _compare(
    cost: F64,
    share: F64,
    main: NDArray[np.int16],
    calm: NDArray[np.uint16],
    first: int,
    last: int,
) -> None:
    """The main candidate of each row, and how little it loses when it misses its best backup."""
    for i in range(first, last):
        own = 0
        for c in range(1, cost.shape[1]):
            if share[i, c] > share[i, own]:
                own = c
        best = second = np.inf
        for c in range(cost.shape[1]):
            if c == own:
                continue
            if cost[i, c] < best:
                second = best
                best = cost[i, c]
            elif cost[i, c] < second:
                second = cost[i, c]
        main[i] = own
        calm[i] = 0
        if second < np.inf:
            calm[i] = max(REGRET_STEPS - int((second - best) / REGRET_STEP_US), 1)


@kernel
def _place(
    queue: Ints,
    pop: Ints,
    cost: F64,
    demand: F64,
    main: NDArray[np.int16],
    size: F64,
    used: F64,
    found: NDArray[np.int16],
) -> Ints:
    """Give each its cheapest candidate with room but for the main one; those that found none."""
    left = np.empty(len(queue), np.int64)
    waiting = 0
    for i in queue:
        best, cheapest, others = np.inf, NOWHERE, False
        for c in range(cost.shape[1]):
            if c == main[i] or cost[i, c] == np.inf:
                continue
            others = True
            p = pop[i, c]
            if cost[i, c] < best and used[p] + demand[i] <= size[p]:
                best = cost[i, c]
                cheapest = c
        if cheapest != NOWHERE:
            found[i] = cheapest
            used[pop[i, cheapest]] += demand[i]
        elif others:
            left[waiting] = i
            waiting += 1
    return left[:waiting].copy()
