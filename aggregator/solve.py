"""Assignment of prefixes to POPs with capacities: a greedy that leaves no blocking pair.

Heavy prefixes are cut into pieces first, which become the shares of a weighted answer. Then

1. pieces stay where they are; a POP that is too full lets those go that lose least,
2. pieces without a place, those with most to lose first, take the fastest POP with room,
3. pieces whose gain exceeds the cost of moving move to a faster POP while one has room,
4. what fits nowhere is spread so that all POPs within reach are overloaded alike.

At the end no piece could be faster (by more than its cost of moving) at a POP that still has room
for it. Everything is deterministic: ties go to the lower number. Costs are microseconds of RTT,
infinite where a POP cannot serve.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.terms import Terms
from popsteer.kernel import kernel

PIECE_SHARE = 0.1
"""A prefix is cut into pieces of this share of the smallest capacity nearby, so that small POPs
are filled too."""
NEARBY = 4
"""Candidates, cheapest first, whose capacities count for that."""
PIECES_MAX = 32
"""Pieces of one prefix; a share is at least 1/32, well above the 1/255 of a table."""
OVERFLOW_STEP = 1.03
"""By how much all capacities are stretched at a time to place what does not fit."""
OVERFLOW_STEPS_MAX = 120
"""Up to 35 times the capacity; what is left then takes the fastest."""
NOWHERE = -1

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Problem:
    """n prefixes with k candidates each, p POPs."""

    pop: Ints
    """[n, k], POP of each candidate; NOWHERE where there are fewer."""
    cost_us: F64
    """[n, k], infinite where the POP cannot be used."""
    move_us: NDArray[Any]
    """[n, k], float32 or float64, what a candidate must gain over the present one before it is
    worth a move."""
    demand_bps: F64
    """[n]"""
    capacity_bps: F64
    """[p], what may be filled; infinite is unlimited."""
    present: F64
    """[n, k], share of the demand that each candidate has now; a row of zeros is new."""
    move_share_max: float = 1.0
    """Share of all demand that may move for gain alone in this solution."""
    warm_us: F64 | None = None
    """[p], prices of the last solution, for policies that can begin from them."""
    link: Ints | None = None
    """[n, k], the egress link of each candidate; NOWHERE where it has none of its own. Only the
    optimum policy looks at links."""
    link_bps: F64 | None = None
    """[l], what links may carry; infinite is unlimited."""
    warm_link_us: F64 | None = None
    """[l], like `warm_us`."""
    terms: Terms | None = None
    """Weights, prices and places, for policies that go by them; None: all POPs are alike."""

    @property
    def resource_bps(self) -> F64:
        """[p + l + 1]: POPs, links, and what candidates without a link use, which has no limit."""
        links = np.zeros(0) if self.link_bps is None else self.link_bps
        return np.concatenate([self.capacity_bps, links, [np.inf]])


@dataclass(frozen=True, slots=True)
class Assignment:
    """The answer to a problem."""

    share: F64
    """[n, k], rows add up to 1, or to 0 where a row has no usable candidate."""
    load_bps: F64
    """[p]"""
    price_us: F64
    """[p], what a little more of a POP's capacity would save, per demand; 0 where it has room."""
    bound_us: float
    """No assignment that overloads as little can have a lower demand-weighted mean cost; NaN when
    no bound is known."""
    link_price_us: F64 = field(default_factory=lambda: np.zeros(0))
    """[l], like `price_us`."""
    moving_bound_us: float = np.nan
    """The bound for mean cost and what moving costs, which is what is minimised: how far from it
    an assignment is, is its optimality gap."""


def greedy(problem: Problem) -> Assignment:
    """The assignment described at the top of this file."""
    pieces = _Pieces.of(problem)
    pieces.stay()
    homeless = np.flatnonzero(pieces.at == NOWHERE)
    pieces.place(homeless[np.argsort(-pieces.regret_us[homeless], kind="stable")])
    bounded = problem.move_share_max < 1
    pieces.improve(problem.move_share_max * problem.demand_bps.sum() if bounded else np.inf)
    pieces.overflow()
    share = pieces.shares()
    return Assignment(share, pieces.load, _prices(problem, share), np.nan)


@kernel
def _place(
    queue: Ints,
    order: Ints,
    pop: Ints,
    cost: F64,
    demand: F64,
    room: F64,
    at: Ints,
    load: F64,
) -> NDArray[np.bool_]:
    """Give the pieces of a queue their cheapest POP with room; tells which found none.

    Changes `room`, `at` and `load`.
    """
    left = np.zeros(len(queue), np.bool_)
    for number in range(len(queue)):
        piece, found = queue[number], False
        for rank in range(order.shape[1]):
            k = order[piece, rank]
            if cost[piece, k] == np.inf:
                break
            p = pop[piece, k]
            if demand[piece] <= room[p]:
                if at[piece] != NOWHERE:
                    load[pop[piece, at[piece]]] -= demand[piece]
                room[p] -= demand[piece]
                load[p] += demand[piece]
                at[piece] = k
                found = True
                break
        left[number] = not found
    return left


class _Pieces:
    """m pieces of prefixes on their way to a place. `at` is a column of the candidates."""

    def __init__(self, problem: Problem, row: Ints, demand: F64, present: Ints) -> None:
        self.problem = problem
        self.row = row
        self.demand = demand
        self.load = np.zeros(len(problem.capacity_bps))
        self.pop = problem.pop[row]
        # What moving costs is a cost like any other, so every step below is sticky by itself.
        stays = present[:, None] == np.arange(self.pop.shape[1])
        new = (present == NOWHERE)[:, None]
        self.cost = problem.cost_us[row] + np.where(stays | new, 0.0, problem.move_us[row])
        self.order = np.argsort(self.cost, axis=1, kind="stable")
        self.at = np.full(len(row), NOWHERE, np.int64)
        usable = np.isfinite(self._cost_at(present)) & (present != NOWHERE)
        self.present = np.where(usable, present, NOWHERE)
        self.regret_us = self._regret()

    @classmethod
    def of(cls, problem: Problem) -> "_Pieces":
        """Cut heavy rows; pieces are handed to the present POPs in proportion to their shares."""
        count = piece_counts(problem)
        row = np.repeat(np.arange(len(count)), count)
        number = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        # The middle of a piece's interval falls into the share of one present candidate.
        middle = (number + 0.5) / count[row]
        edges = np.cumsum(problem.present, axis=1)[row]
        present = (edges <= middle[:, None]).sum(axis=1)
        present[present == problem.pop.shape[1]] = NOWHERE
        return cls(problem, row, (problem.demand_bps / count)[row], present)

    def _cost_at(self, at: Ints) -> F64:
        cost: F64 = self.cost[np.arange(len(at)), at]
        return cost

    def _regret(self) -> F64:
        """What a piece loses when it does not get its best: second best less best."""
        if self.cost.shape[1] < 2:
            return np.full(len(self.row), np.inf)
        two = np.partition(self.cost, 1, axis=1)[:, :2]
        with np.errstate(invalid="ignore"):
            regret: F64 = np.nan_to_num(two[:, 1] - two[:, 0], nan=0.0, posinf=np.inf)
        return regret

    def stay(self) -> None:
        """Step 1. Pieces keep their POP as long as those with more to lose leave room."""
        here = np.flatnonzero(self.present != NOWHERE)
        if not len(here):
            return
        others = self.cost[here].copy()
        others[np.arange(len(here)), self.present[here]] = np.inf
        loss = others.min(axis=1) - self._cost_at(self.present)[here]
        pop = self.pop[here, self.present[here]]
        order = np.lexsort((-loss, pop))
        here, pop = here[order], pop[order]
        demand = self.demand[here]
        running = np.cumsum(demand)
        start = np.searchsorted(pop, pop)
        filled = running - (running[start] - demand[start])
        fits = filled <= self.problem.capacity_bps[pop] * (1 + 1e-12)
        self._settle(here[fits], self.present[here[fits]])

    def _settle(self, pieces: Ints, at: Ints) -> None:
        self.at[pieces] = at
        self.load += np.bincount(self.pop[pieces, at], self.demand[pieces], len(self.load))

    def place(self, queue: Ints, stretch: float = 1.0) -> Ints:
        """Step 2. Each takes the cheapest POP with room; gives the pieces that found none."""
        room = self.problem.capacity_bps * stretch - self.load
        left: Ints = queue[
            _place(queue, self.order, self.pop, self.cost, self.demand, room, self.at, self.load)
        ]
        return left

    def _put(self, piece: int, at: int) -> None:
        old = self.at[piece]
        if old != NOWHERE:
            self.load[self.pop[piece, old]] -= self.demand[piece]
        self.at[piece] = at
        self.load[self.pop[piece, at]] += self.demand[piece]

    def improve(self, budget_bps: float) -> None:
        """Step 3. Moves for gain, largest first, until none is left or the budget is used.

        Every move lowers the cost of one piece and raises none, so this ends.
        """
        while budget_bps > 0:
            movers = self._movers()
            if not len(movers):
                return
            moved = 0
            for piece in movers.tolist():
                if self.demand[piece] > budget_bps:
                    continue
                best = self._best_with_room(piece)
                if best != NOWHERE:
                    self._put(piece, best)
                    budget_bps -= self.demand[piece]
                    moved += 1
            if not moved:
                return

    def _movers(self) -> Ints:
        """Placed pieces for which a cheaper POP has room, largest gain first."""
        placed = np.flatnonzero(self.at != NOWHERE)
        room = self.problem.capacity_bps - self.load
        own = self._cost_at(self.at)[placed]
        fits = self.demand[placed, None] <= room[self.pop[placed]]
        cost = np.where(fits, self.cost[placed], np.inf)
        gain = own - cost.min(axis=1, initial=np.inf)
        better = gain > 0
        order = np.argsort(-gain[better], kind="stable")
        movers: Ints = placed[better][order]
        return movers

    def _best_with_room(self, piece: int) -> int:
        own = self.cost[piece, self.at[piece]]
        room = self.problem.capacity_bps - self.load
        for k in self.order[piece].tolist():
            if self.cost[piece, k] >= own:
                return NOWHERE
            if self.demand[piece] <= room[self.pop[piece, k]]:
                return int(k)
        return NOWHERE

    def overflow(self) -> None:
        """Step 4. Stretch all capacities alike until everything usable has a place."""
        usable = np.isfinite(self.cost).any(axis=1)
        left = np.flatnonzero((self.at == NOWHERE) & usable)
        left = left[np.argsort(-self.regret_us[left], kind="stable")]
        # Nothing below the ratio of demand to reachable capacity can hold everybody, so that is
        # where it begins: an overload must not make planning slow.
        reachable = reached_pops(self.problem)
        capacity = float(self.problem.capacity_bps[reachable].sum())
        wanted = float(self.load[reachable].sum() + self.demand[left].sum())
        stretch = max(1.0, wanted / capacity) if capacity > 0 else 1.0
        for _ in range(OVERFLOW_STEPS_MAX):
            if not len(left):
                return
            left = self.place(left, stretch)
            stretch *= OVERFLOW_STEP
        self._settle(left, self.order[left, 0])

    def shares(self) -> F64:
        """[n, k]: the part of each row's pieces at each candidate."""
        n, k = self.problem.pop.shape
        placed = self.at != NOWHERE
        where = self.row[placed] * k + self.at[placed]
        count = np.bincount(self.row, minlength=n).astype(np.float64)
        share: F64 = np.bincount(where, minlength=n * k).reshape(n, k) / count[:, None]
        return share


def piece_counts(problem: Problem) -> Ints:
    """[n], into how many equal pieces each prefix is cut."""
    counts = np.ones(len(problem.demand_bps), np.int64)
    # Most prefixes are light for every POP; sorting the candidates is for the others.
    given = problem.capacity_bps[problem.capacity_bps > 0]
    floor = PIECE_SHARE * float(given.min(initial=np.inf))
    heavy = np.flatnonzero(problem.demand_bps > floor)
    cost, pop = problem.cost_us[heavy], problem.pop[heavy]
    cheapest = np.argsort(cost, axis=1, kind="stable")[:, :NEARBY]
    usable = np.isfinite(np.take_along_axis(cost, cheapest, 1))
    capacity = problem.capacity_bps[np.take_along_axis(pop, cheapest, 1)]
    smallest = np.where(usable & (capacity > 0), capacity, np.inf).min(axis=1, initial=np.inf)
    wanted = problem.demand_bps[heavy] / (PIECE_SHARE * smallest)
    counts[heavy] = np.clip(np.ceil(wanted), 1, PIECES_MAX).astype(np.int64)
    return counts


def reached_pops(problem: Problem) -> NDArray[np.bool_]:
    """[p], POPs that some prefix can be sent to."""
    reached = np.zeros(len(problem.capacity_bps), bool)
    reached[problem.pop[np.isfinite(problem.cost_us)]] = True
    return reached


def _prices(problem: Problem, share: F64) -> F64:
    """The gain that full POPs deny: of those that wait for one, the largest."""
    load = np.zeros(len(problem.capacity_bps))
    np.add.at(load, problem.pop, share * problem.demand_bps[:, None])
    cost = problem.cost_us
    own = np.where(share > 0, np.where(np.isfinite(cost), cost, 0.0) * share, 0.0).sum(axis=1)
    with np.errstate(invalid="ignore"):
        gain = np.where((share == 0) & np.isfinite(cost), own[:, None] - cost, 0.0)
    price = np.zeros(len(load))
    np.maximum.at(price, problem.pop, np.maximum(gain - problem.move_us, 0.0))
    full = load >= 0.98 * problem.capacity_bps
    return np.where(full, price, 0.0)
