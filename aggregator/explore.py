"""Which pairs to measure more often: those whose doubt could change a decision that matters. Pure.

The worth of knowing a candidate's RTT for certain is what it would save on average: its RTT is
taken as normal about the estimate, so with z the distance to the chosen one in deviations s of
their difference, a demand d would gain d s (phi(z) - z Phi(-z)) (the expected improvement: Howard,
"Information value theory", 1966; Frazier, Powell and Dayanik, 2008). What is certain, far behind,
or carries no traffic is worth nothing.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from aggregator.candidates import Candidates
from aggregator.estimate import NINE_IN_TEN_SIGMAS
from aggregator.prefixes import Prefixes
from aggregator.solve import Assignment, Problem
from popsteer.clock import MINUTE_MS
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
    usable = np.isfinite(problem.cost_us)
    cost = np.where(usable, considered.cost_us + assignment.price_us[considered.pop], np.inf)
    sigma = np.where(usable, np.nan_to_num(considered.spread_us), 0.0) / NINE_IN_TEN_SIGMAS
    line = np.arange(len(cost))
    chosen = assignment.share.argmax(axis=1) if cost.size else line
    placed = (assignment.share > 0).any(axis=1) & usable[line, chosen]
    own_cost = np.where(placed, cost[line, chosen], np.inf)[:, None]
    own_sigma = sigma[line, chosen][:, None]
    both = np.hypot(sigma, own_sigma)
    open_ = usable & placed[:, None] & (both > 0) & (cost - own_cost < FAR_SIGMAS * both)
    open_[line, chosen] = False
    at = np.nonzero(open_)
    s = both[at]
    z = (cost[at] - own_cost[at[0], 0]) / s
    saved = s * (np.exp(-z * z / 2) / np.sqrt(2 * np.pi) - z * ndtr(-z))
    saved *= problem.demand_bps[at[0]]
    # Each takes the part of the doubt that is its own; the chosen one, of its closest rival.
    part = (sigma[at] / s) ** 2
    worth = np.zeros(cost.shape)
    worth[at] = saved * part
    rest = np.zeros(len(cost))
    np.maximum.at(rest, at[0], saved * (1 - part))
    worth[line, chosen] = rest
    return worth
