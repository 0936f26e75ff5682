"""Clear a market: prices, a choice for every row, and the bound that says how good it is.

A large market is first cleared coarsely on a sample of its rows; then on all rows, pruned to what
those prices leave open, at falling temperatures; then rounded and repaired. From the prices of a
similar market, as the last cycle's are, only the last part is needed, and a glance at a sample to
see where it will be tight. All rows are looked at once a round, when they are pruned. Where that is
not good enough, the exact linear programme ends it if few candidates are open, and finer stages do
if many are.
`aggregator/newton.py` has the method, `aggregator/pruning.py` and `aggregator/rounding.py` what
stands around it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from aggregator import exact
from aggregator.market import F64, Crew, Ints, Market
from aggregator.newton import PRICE_US_MAX, Ascent, level, overflow_cost, paid, supply
from aggregator.pruning import BOX, prune
from aggregator.rounding import FULL, Rounded, choose, choose_open, expense, repair, weighed, worth

HAIRCUT = 2e-4
"""Share of each capacity that prices are sought without, so that rounding has room to work in."""
HELD_SHARE_MAX = 0.02
"""Of the contested resources, how many prices at the border of their box are not worth another
round."""
HELD_FAR = 0.2
"""From so many on, the next round's box is twice as wide."""
BESIDE_MAX = 1.5e-3
"""Of all cost, how much load beside the prices, times these, is not worth another round."""
FORGOTTEN_MAX = 1e-4
"""The same, of all demand, for load above capacities that had no price."""
GLANCE_ROWS = 100_000
"""Rows of the sample that tells where it is tight at the prices to begin with."""
CROWDED = 0.8
"""Load over capacity from which a resource counts as contested."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the way down to the final temperature."""

    temperature_us: float
    window_us: float
    """Candidates that are dearer than this are pruned; prices move by `BOX` of it."""
    tolerance: float
    """Of all demand, how much load may lie beyond where prices want it."""
    sample_rows: int = 0
    """Rows that stand for all; 0 is all. A market of less than twice as many is not sampled."""
    rounds_max: int = 1
    """How often it is pruned anew, because prices left their box or a resource filled up; the
    next stage does that, too."""
    steps_max: int = 8
    """Newton steps of one round."""


COLD = (
    Stage(64_000.0, np.inf, 2e-2, 30_000),
    Stage(16_000.0, np.inf, 2e-2, 30_000),
    Stage(4_000.0, np.inf, 1e-2, 30_000),
    Stage(1_500.0, np.inf, 1e-2, 30_000),
    Stage(500.0, np.inf, 1e-2, 30_000),
    Stage(300.0, np.inf, 5e-3, 100_000),
    Stage(150.0, np.inf, 4e-3, 100_000),
    Stage(80.0, 2_000.0, 2e-3, rounds_max=3, steps_max=16),
)
WARM = (Stage(150.0, 2_000.0, 5e-3, rounds_max=3),)
SHORT = (
    Stage(64_000.0, np.inf, 2e-2, 30_000, steps_max=20),
    Stage(16_000.0, np.inf, 2e-2, 30_000, steps_max=20),
    Stage(4_000.0, np.inf, 2e-2, 30_000, steps_max=20),
    Stage(1_000.0, np.inf, 1e-2, 100_000, steps_max=20),
    Stage(300.0, np.inf, 5e-3, steps_max=12),
)
"""When not all demand fits, nearly every resource has a price, far above what paths differ by."""
FINER = (
    Stage(60.0, 2_000.0, 3e-4, rounds_max=2, steps_max=20),
    Stage(40.0, 2_000.0, 1e-4, rounds_max=2, steps_max=20),
    Stage(25.0, 2_000.0, 1e-4, rounds_max=2, steps_max=20),
    Stage(15.0, 2_000.0, 1e-4, rounds_max=2, steps_max=20),
)
"""What follows, one by one, while the certificate does not say that it is good enough. After the
first, the exact programme ends it where it can."""
GAIN_MIN = 2e-4
"""Of the expense: a finer stage that saves less is the last one, where the gap is no large one."""
SHIFT = 2.0
"""Times what is too much at a resource, prices are sought for so much less room there."""
LOST_MIN = 2e-3
"""A gap from which on the old prices are no good start."""
GAP_MAX, WARM_GAP_MAX, LARGE_GAP = 1e-3, 1.25e-3, 1.4e-3
"""Of the bound, how much more a solution may cost that is good enough; and what is too much."""
COLUMNS_MAX = 150_000
"""Open candidates of which the exact programme still takes no longer than finer stages."""
WHOLE = 1 - 1e-9
"""A larger share is the whole row."""


@dataclass(frozen=True, slots=True)
class Cleared:
    """A cleared market."""

    price_us: F64
    """[r]"""
    at: Ints
    """[n], the chosen candidate of each row; of a split row, the one with most of it."""
    split: Ints
    """[s], rows that are split."""
    part: F64
    """[s, k], their shares."""
    load: F64
    """[r]"""
    bound: float
    """Demand times cost that no assignment can go below, overflow included."""

    def share(self, columns: int) -> F64:
        """[n, k], what of each row goes to each candidate."""
        share = np.zeros((len(self.at), columns))
        share[np.arange(len(share)), self.at] = 1.0
        share[self.split] = self.part
        return share


def clear(market: Market, crew: Crew, warm_us: F64 | None = None) -> Cleared:
    """The market's prices and an assignment; `warm_us` are those of a similar market."""
    short = bool(level(_cut(market)).any())
    first = _rounded(market, *seek(market, crew, warm_us), crew)
    if warm_us is not None and not short and first.gap > LOST_MIN:
        first = _better(first, _rounded(market, *seek(market, crew), crew))
    gap_max = GAP_MAX if warm_us is None else WARM_GAP_MAX
    best = first if short else _finer(market, first, FINER[:1], gap_max, crew)
    if short or best.good(market, gap_max):
        return best.cleared
    ended = None if best.good(market, LARGE_GAP) else _exact(market, best, crew)
    return (_finer(market, best, FINER[1:], gap_max, crew) if ended is None else ended).cleared


@dataclass(frozen=True, slots=True)
class _Solution:
    """An assignment and its expense: demand times cost, with what overflows."""

    cleared: Cleared
    spent: float

    @property
    def gap(self) -> float:
        """Of the bound, how much more it costs."""
        return (self.spent - self.cleared.bound) / max(self.cleared.bound, 1.0)

    def good(self, market: Market, gap_max: float) -> bool:
        """Whether it costs little more than the bound, and nothing is too full."""
        return self.gap <= gap_max and not (self.cleared.load > market.capacity * FULL).any()


def _better(one: _Solution, other: _Solution) -> _Solution:
    """The cheaper one, with the better bound: each holds for both."""
    best = other if other.spent < one.spent else one
    bound = max(one.cleared.bound, other.cleared.bound)
    return replace(best, cleared=replace(best.cleared, bound=bound))


def _exact(market: Market, start: _Solution, crew: Crew) -> _Solution | None:
    """The optimum, few rows of which are split; None where that would take too long."""
    found = exact.solve(market, start.cleared.price_us, COLUMNS_MAX)
    if found is None:
        return None
    share, price = found.share, found.price_us
    at = share.argmax(axis=1).astype(np.int16)
    split = np.flatnonzero(share[np.arange(len(at)), at] < WHOLE)
    bound = worth(market, price, crew) - paid(market.capacity, price)
    load, spent = weighed(market, share)
    cleared = Cleared(price, at, split, share[split], load, bound)
    return _better(_Solution(cleared, spent + overflow_cost(market.capacity, load)), start)


def _finer(
    market: Market, best: _Solution, stages: Sequence[Stage], gap_max: float, crew: Crew
) -> _Solution:
    """Solved on at lower temperatures, as long as the certificate is not good enough."""
    cut = _cut(market)
    for stage in stages:
        load = best.cleared.load
        over = np.where(market.limited, load - market.capacity * FULL, 0.0)
        if best.good(market, gap_max):
            break
        # What rounding cannot empty asks for a higher price.
        cut = replace(cut, capacity=np.maximum(cut.capacity - SHIFT * np.maximum(over, 0.0), 0.0))
        found = _rounds(cut, best.cleared.price_us, stage, load, crew)
        again = _rounded(market, *found, crew)
        gained = best.spent - again.spent
        best = _better(best, again)
        if gained < GAIN_MIN * best.spent and best.gap < LARGE_GAP:
            break
    return best


def _rounded(market: Market, price: F64, chosen: Rounded, crew: Crew) -> _Solution:
    """A whole assignment."""
    bound = chosen.value - paid(market.capacity, price)
    repair(market, chosen, price, crew)
    spent = expense(market, chosen.at, crew) + overflow_cost(market.capacity, chosen.load)
    none = np.zeros(0, np.int64), np.zeros((0, market.cost_us.shape[1]))
    return _Solution(Cleared(price, chosen.at, *none, chosen.load, bound), spent)


def _cut(market: Market) -> Market:
    return replace(market, capacity=market.capacity * (1 - HAIRCUT))


def seek(market: Market, crew: Crew, warm_us: F64 | None = None) -> tuple[F64, Rounded]:
    """[r], prices near the top of the dual, from 0 to `PRICE_US_MAX`; what rows choose at them."""
    cut = _cut(market)
    price = level(cut)
    stages: tuple[Stage, ...] = SHORT if price.any() else COLD
    if warm_us is not None:
        stages = SHORT[-1:] if price.any() else WARM
        price = np.where(market.limited, np.clip(warm_us, 0.0, PRICE_US_MAX), 0.0)
    glance = cut.sampled(GLANCE_ROWS) if len(cut) > 2 * GLANCE_ROWS else cut
    seen = choose(glance, price, stages[0].temperature_us, crew)
    for rows, same in groupby(stages, lambda stage: stage.sample_rows):
        part = cut.sampled(rows) if 0 < 2 * rows < len(cut) else cut
        for stage in same:
            price, seen = _rounds(part, price, stage, seen.load, crew)
    return price, seen


def _rounds(market: Market, price: F64, stage: Stage, load: F64, crew: Crew) -> tuple[F64, Rounded]:
    """Newton's method on ever newly pruned markets, until a pruning had left out nothing."""
    window = stage.window_us
    contested = _contested(market, price, load)
    for _ in range(stage.rounds_max):
        pruned = prune(market, price, contested, window, crew)
        found = Ascent(market, pruned, crew).climb(
            price, stage.temperature_us, stage.steps_max, stage.tolerance, BOX * window
        )
        price = found.price_us
        seen = choose_open(market, pruned, price, stage.temperature_us, crew)
        held = found.held > HELD_SHARE_MAX * contested.sum()
        forgotten = ~contested & (seen.load > market.capacity)
        if not (held or forgotten.any()) or _settled(market, price, seen, forgotten):
            break
        contested |= _contested(market, price, seen.load)
        window *= 2 if found.held > HELD_FAR * contested.sum() else 1
    return price, seen


def _settled(market: Market, price: F64, seen: Rounded, forgotten: NDArray[np.bool_]) -> bool:
    """Whether the repair has little left to do: prices are where load meets capacity.

    Load beside a price is what the certificate will lack, for paid room that is empty is a loss.
    """
    offered = supply(market.capacity, price)
    beside = np.where(market.limited, np.abs(seen.load - offered), 0.0)
    whole = float(market.demand.sum(dtype=np.float64))
    few = float(beside[forgotten].sum()) < FORGOTTEN_MAX * whole
    return few and float(price @ beside) < BESIDE_MAX * seen.value


def _contested(market: Market, price: F64, load: F64) -> NDArray[np.bool_]:
    full = load > CROWDED * market.capacity
    contested: NDArray[np.bool_] = market.limited & ((price > 0) | full)
    return contested
