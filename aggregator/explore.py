"""Which pairs to measure more often: those whose doubt could change a decision that matters. Pure.

The worth of knowing a candidate's RTT for certain is what it would save on average: its RTT is
taken as normal about the estimate, so with z the distance to the chosen one in deviations s of
their difference, a demand d would gain d s (phi(z) - z Phi(-z)) (the expected improvement: Howard,
"Information value theory", 1966; Frazier, Powell and Dayanik, 2008). What is certain, far behind,
or carries no traffic is worth nothing.
"""

import math

import numpy as np
from numpy.typing import NDArray

from aggregator.candidates import Candidates
from aggregator.estimate import NINE_IN_TEN_SIGMAS
from aggregator.prefixes import Prefixes
from aggregator.solve import Assignment, Problem
from popsteer.clock import MINUTE_MS
from popsteer.kernel import kernel
from popsteer.names import Prefix
from popsteer.wanted import PAIRS_MAX, Wanted

LIFE_MS = 3 * MINUTE_MS
"""A plan is followed for so long when the planner writes no other."""
FAR_SIGMAS = 4.0
"""A candidate so far behind is never the best one."""

F64 = NDArray[np.float64]


def wanted_pairs(
    considered: Candidates,
    problem: Problem,
    assignment: Assignment,
    prefixes: Prefixes,
    pops: tuple[str, ...],
    now_ms: int,
) -> Wanted:
    """The plan: at most `PAIRS_MAX` pairs by their worth."""
    worth = worth_of_knowing(considered, problem, assignment).ravel()
    several = np.flatnonzero(worth > 0)
    if len(several) > PAIRS_MAX:
        several = several[np.argpartition(-worth[several], PAIRS_MAX)[:PAIRS_MAX]]
    cells = several[np.lexsort((several, -worth[several]))]
    line = cells // max(considered.pop.shape[1], 1)
    row, pop = considered.row[line], considered.pop.ravel()[cells]
    found: dict[str, list[str]] = {}
    for net, plen, number in zip(
        prefixes.net[row].tolist(), prefixes.plen[row].tolist(), pop.tolist(), strict=True
    ):
        found.setdefault(pops[number], []).append(str(Prefix(net, plen)))
    return Wanted(
        created_ms=now_ms,
        expires_ms=now_ms + LIFE_MS,
        pops={name: tuple(listed) for name, listed in found.items()},
    )


def worth_of_knowing(considered: Candidates, problem: Problem, assignment: Assignment) -> F64:
    """[n, k], what knowing each pair's RTT would save on average, demand times microseconds."""
    worth = np.zeros(considered.pop.shape)
    known = considered.cost_us + assignment.price_us[considered.pop]
    _value(
        np.where(np.isfinite(problem.cost_us), known, np.inf),
        considered.spread_us,
        assignment.share,
        problem.demand_bps,
        worth,
    )
    return worth


@kernel
def _value(cost_us: F64, spread_us: F64, share: F64, demand_bps: F64, worth: F64) -> None:
    """Costs are infinite where a candidate cannot be used; spreads NaN where there is none."""
    n, k = cost_us.shape
    for row in range(n):
        own = 0
        for c in range(1, k):
            if share[row, c] > share[row, own]:
                own = c
        if share[row, own] <= 0 or not np.isfinite(cost_us[row, own]):
            continue
        own_sigma = max(0.0, spread_us[row, own] / NINE_IN_TEN_SIGMAS)
        for c in range(k):
            if c == own or not np.isfinite(cost_us[row, c]):
                continue
            sigma = max(0.0, spread_us[row, c] / NINE_IN_TEN_SIGMAS)
            both = np.sqrt(sigma * sigma + own_sigma * own_sigma)
            behind = cost_us[row, c] - cost_us[row, own]
            if both == 0 or behind >= FAR_SIGMAS * both:
                continue
            z = behind / both
            tail = math.erfc(z / math.sqrt(2.0)) / 2
            saved = both * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * tail)
            saved *= demand_bps[row]
            # Each takes the part of the doubt that is its own; the chosen one, of its closest
            # rival.
            part = (sigma / both) ** 2
            worth[row, c] = saved * part
            worth[row, own] = max(worth[row, own], saved * (1 - part))
