"""Split prefixes are put together again where they are light. Pure.

A linear programme fills a full POP to the last bit by splitting a prefix, and what is split stays
split, as each part costs something to move. But each cache draws anew among the POPs of a split
answer whenever it asks, so every split makes noise in two loads: its demand times
sqrt(share * (1 - share) / caches). A prefix that is light for its POPs is therefore given whole to
one of them, each so that what the POPs get too much or too little by then stays least: the
errors of one prefix are diffused to the next (Floyd and Steinberg 1976, in one dimension).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aggregator.solve import Assignment, Problem
from popsteer.kernel import kernel

EXCESS_SHARE_MAX = 0.04
"""Of a capacity: what it may be given beyond what the solution gives it, for the sake of whole
prefixes. Less than the dead band of the load loop, or the next plan would undo it."""

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


def gathered(problem: Problem, solved: Assignment) -> Assignment:
    """The solution with light prefixes whole; the heaviest are decided first."""
    split = np.flatnonzero((solved.share > 0).sum(axis=1) > 1)
    if not len(split):
        return solved
    order = split[np.argsort(-problem.demand_bps[split], kind="stable")]
    p, capacity = len(problem.capacity_bps), problem.resource_bps
    floor = np.finfo(np.float64).tiny
    nothing = len(capacity) - 1
    pop = np.maximum(problem.pop[order], 0)
    link = np.full(pop.shape, nothing)
    if problem.link is not None:
        link = np.where(problem.link[order] >= 0, p + problem.link[order], nothing)
    whole = solved.share[order]
    _gather(pop, link, problem.demand_bps[order], np.maximum(capacity, floor), whole)
    share = solved.share.copy()
    share[order] = whole
    load = solved.load_bps.copy()
    np.add.at(load, pop, (whole - solved.share[order]) * problem.demand_bps[order, None])
    return replace(solved, share=share, load_bps=load)


@kernel
def _gather(pop: Ints, link: Ints, demand: F64, capacity: F64, share: F64) -> None:
    """Decide row by row; changes `share`."""
    n, k = share.shape
    off = np.zeros(len(capacity))
    for row in range(n):
        best, least = -1, np.inf
        for chosen in range(k):
            if share[row, chosen] <= 0:
                continue
            worst, badness = 0.0, 0.0
            for c in range(k):
                if share[row, c] <= 0:
                    continue
                more = demand[row] * ((1.0 if c == chosen else 0.0) - share[row, c])
                for resource in (pop[row, c], link[row, c]):
                    error = (off[resource] + more) / capacity[resource]
                    worst = max(worst, error)
                    badness += error * error
            if worst <= EXCESS_SHARE_MAX and badness < least:
                best, least = chosen, badness
        if best < 0:
            continue
        for c in range(k):
            if share[row, c] > 0:
                more = demand[row] * ((1.0 if c == best else 0.0) - share[row, c])
                off[pop[row, c]] += more
                off[link[row, c]] += more
                share[row, c] = 1.0 if c == best else 0.0
