"""What was necessary and what was possible: an LP that knows the truth, once a minute.

Prefixes of a metro with the same paths are one group, so the exact optimum is cheap. The optimum
of each minute starts from that of the minute before and pays for moving, so what it moves is what
had to move. No policy sees any of this.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_matrix, csr_matrix, hstack, identity

from benchmarks.simulator.caches import NO_POP, RANKS
from benchmarks.simulator.options import Options
from benchmarks.simulator.score import MISROUTED_MS
from benchmarks.simulator.setting import LINKS, Setting, enlarged, make_setting
from benchmarks.simulator.steering import Rows

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]

PERIOD_S = 60
TARGET = 0.82
"""Utilisation that the optimum fills to: as the planner does, so that both have the same room."""
OVERFLOW_MS = 400.0
"""Price of load beyond the target."""
MOVE_MS = 2.0
"""Price of moving: the gain below which nothing has to move."""


AVOIDABLE = 1e-3
"""Share of a POP's capacity; less missing than this is none."""
BUILD_SPARE = 1.1
"""Capacity is built for so many times the demand."""
BUILD_ROUNDS_MAX = 5


@dataclass(frozen=True, slots=True)
class Minute:
    """The optimum of one minute."""

    share: F64
    """[g, k], of each group's demand at its measured POPs."""
    price_ms: F64
    """[p + links], what a little more capacity would save, per demand."""
    moved: float
    """Share of all demand that had to move since the minute before."""
    mean_ms: float
    """Demand-weighted RTT."""
    overflow: F64
    """[p + links], bits/s beyond the target that no assignment avoids."""
    far: float
    """Share of demand that is farther than `MISROUTED_MS` beyond the mean of its group."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """All POPs of each group, fastest first, [g, p]."""

    pop: Ints
    rtt_ms: F64
    share: F64
    """Of the group's demand, by the optimum."""


@dataclass
class Reference:
    """Owns the optima of a setting, minute by minute; they are computed when first asked for."""

    setting: Setting
    minutes: list[Minute] = field(default_factory=list)

    def __post_init__(self) -> None:
        setting = self.setting
        factor = np.where(setting.path_pop >= 0, setting.path_factor, 1.0)
        key = np.stack([setting.world.metro.astype(np.float64), factor])
        _, first, group = np.unique(key, axis=1, return_index=True, return_inverse=True)
        self.group: Ints = group.ravel()
        self._first: Ints = first
        self._pop = setting.measured[first]
        self._link_part = self._link_parts()

    def at(self, t_s: float) -> Minute:
        """The optimum in force at a time."""
        while len(self.minutes) <= t_s // PERIOD_S:
            before = self.minutes[-1].share if self.minutes else None
            self.minutes.append(self._solve(len(self.minutes) * PERIOD_S, before))
        return self.minutes[int(t_s // PERIOD_S)]

    def missing(self) -> F64:
        """[p], share of its capacity that each POP lacks when demand or room is worst."""
        setting = self.setting
        line, p = setting.options.timeline, len(setting.capacity_bps)
        crowd_s = line.flash.start_s + setting.options.flash_ramp_s
        lacking = np.zeros(p)
        for t_s in (0, line.step.start_s, crowd_s, line.fail.start_s, line.end_s):
            over = self._solve(t_s, None, BUILD_SPARE).overflow
            pop = over[:p] / setting.capacity_bps
            link = (over[p:] / setting.link_bps).reshape(p, LINKS).max(axis=1)
            lacking = np.maximum(lacking, np.maximum(pop, link) / TARGET)
        return lacking

    def rows(self, t_s: float) -> Rows:
        """The optimum as a table for all prefixes."""
        share = self.at(t_s).share
        order = np.argsort(-share, axis=1, kind="stable")[:, :RANKS]
        pad = ((0, 0), (0, RANKS - order.shape[1]))
        pop = np.pad(np.take_along_axis(self._pop, order, 1), pad, constant_values=NO_POP)
        best = np.pad(np.take_along_axis(share, order, 1), pad)
        best /= best.sum(axis=1, keepdims=True)
        every = np.arange(len(self.setting.capacity_bps))
        return Rows(pop[self.group], best[self.group], every)

    def slower_ms(self, t_s: float, rtt: F64) -> F64:
        """[n, p], how much longer each RTT is than the optimum's mean for the prefix's group.

        `rtt` is the setting's of that time.
        """
        pop = self._pop[self.group]
        given = self.at(t_s).share[self.group] * np.take_along_axis(rtt, pop, 1)
        slower: F64 = rtt - given.sum(axis=1, keepdims=True)
        return slower

    def dearer_ms(self, t_s: float, rtt: F64) -> F64:
        """[n, p], how much dearer each POP is than the cheapest, prices of capacity included.

        Only what the optimum could choose is a choice: the POPs that probe the prefix, and links
        as its whole group uses them. By anything else the optimum itself would look misrouted. A
        dead POP is never dear: who clings to it counts as overload.
        """
        alive, pop = self.setting.alive(t_s), self._pop[self.group]
        worth = rtt + self._price_ms(self.at(t_s))[self.group]
        choice = np.where(alive[pop], np.take_along_axis(worth, pop, 1), np.inf)
        cheapest = choice.min(axis=1, keepdims=True)
        return np.where(alive & np.isfinite(cheapest), worth - cheapest, 0.0)

    def _price_ms(self, minute: Minute) -> F64:
        """[g, p], of POPs and of what a group uses of their links: half of each where unknown."""
        p = len(self.setting.capacity_bps)
        link_ms = minute.price_ms[p:].reshape(p, LINKS)
        price = np.tile(minute.price_ms[:p] + link_ms.mean(axis=1), (len(self._pop), 1))
        own = minute.price_ms[self._pop] + (self._link_part * link_ms[self._pop]).sum(axis=2)
        np.put_along_axis(price, self._pop, own, 1)
        return price

    def by_rtt(self, t_s: float, rtt: F64) -> Ranked:
        """Each group's POPs in the order of their RTT, and what the optimum gives them.

        `rtt` is the setting's of that time.
        """
        own = rtt[self._first]
        order = np.argsort(own, axis=1, kind="stable")
        share = np.zeros(own.shape)
        np.put_along_axis(share, self._pop, self.at(t_s).share, 1)
        rtts, shares = (np.take_along_axis(x, order, 1) for x in (own, share))
        return Ranked(order, rtts, shares)

    def far(self, start_s: int, end_s: int) -> float:
        """Share of demand that the optimum itself sends `MISROUTED_MS` farther than its mean.

        It splits groups, so some of each may be far from the mean; mean over a stretch of time.
        """
        self.at(end_s - 1)
        return float(np.mean([m.far for m in self.minutes[start_s // PERIOD_S :]]))

    def moved_per_min(self, start_s: int, end_s: int) -> float:
        """Share of all demand that had to move in a minute, mean over a stretch of time."""
        self.at(end_s - 1)
        return float(np.mean([m.moved for m in self.minutes[start_s // PERIOD_S :]]))

    def _solve(self, t_s: float, before: F64 | None, growth: float = 1.0) -> Minute:
        """The optimum when demand is so many times what it is."""
        setting = self.setting
        g, k = self._pop.shape
        p, links = len(setting.capacity_bps), len(setting.link_bps)
        demand = growth * np.bincount(self.group, setting.demand_bps(t_s), g)
        whole = demand.sum()
        alive = setting.alive(t_s)
        rtt = setting.rtt_ms(t_s)[self._first[:, None], self._pop]
        rtt = np.where(alive[self._pop], rtt, OVERFLOW_MS + rtt)
        room = np.concatenate([setting.capacity_bps * alive, setting.link_bps])
        room = TARGET * room - np.concatenate([setting.foreign_bps(t_s), np.zeros(links)])
        cost = np.concatenate([rtt.ravel(), rtt.ravel() + MOVE_MS, np.full(p + links, OVERFLOW_MS)])
        stays = (np.zeros((g, k)) if before is None else before) * demand[:, None] / whole
        most = np.concatenate([stays.ravel(), np.full(g * k + p + links, np.inf)])
        found = linprog(
            cost,
            A_ub=self._uses(),
            b_ub=np.maximum(room, 0.0) / whole,
            A_eq=self._covers(),
            b_eq=demand / whole,
            bounds=np.stack([np.zeros(len(most)), most], axis=1),
            method="highs",
        )
        assert found.success, found.message
        placed = (found.x[: g * k] + found.x[g * k : 2 * g * k]).reshape(g, k)
        # A group without demand keeps its cheapest POP.
        share = np.where(
            demand[:, None] > 0,
            placed * whole / np.maximum(demand, 1e-9)[:, None],
            np.arange(k) == rtt.argmin(axis=1)[:, None],
        )
        moved = 0.0 if before is None else float(found.x[g * k : 2 * g * k].sum())
        return Minute(
            share,
            -np.asarray(found.ineqlin.marginals),
            moved,
            float((placed * rtt).sum()),
            found.x[2 * g * k :] * whole,
            float(placed[rtt > (share * rtt).sum(axis=1, keepdims=True) + MISROUTED_MS].sum()),
        )

    def _covers(self) -> csr_matrix:
        """Each group's demand is placed: once over the cells that stay, once over those moved."""
        g, k = self._pop.shape
        cell = coo_matrix((np.ones(g * k), (np.repeat(np.arange(g), k), np.arange(g * k))))
        none = csr_matrix((g, self._resources()))
        return hstack([cell, cell, none]).tocsr()

    def _uses(self) -> csr_matrix:
        """What each cell takes of its POP and its link, less what overflows."""
        g, k = self._pop.shape
        cells = np.arange(g * k)
        pop = self._pop.ravel()
        links = [len(self.setting.capacity_bps) + LINKS * pop + b for b in range(LINKS)]
        part = [np.ones(g * k), *(self._link_part[:, :, b].ravel() for b in range(LINKS))]
        where = (np.concatenate([pop, *links]), np.tile(cells, 1 + LINKS))
        use = coo_matrix((np.concatenate(part), where), (self._resources(), g * k))
        return hstack([use, use, -identity(self._resources())]).tocsr()

    def _link_parts(self) -> F64:
        """[g, k, LINKS], the part of a group's demand that reaches a POP through each link."""
        setting = self.setting
        demand = setting.demand_bps(0.0) + 1.0
        pop = self._pop[self.group]
        link = np.take_along_axis(setting.link, pop, 1) - LINKS * pop
        part = np.zeros((*self._pop.shape, LINKS))
        column = np.broadcast_to(np.arange(pop.shape[1]), pop.shape)
        row = np.broadcast_to(self.group[:, None], pop.shape)
        np.add.at(part, (row, column, link), np.broadcast_to(demand[:, None], pop.shape))
        whole: F64 = part.sum(axis=2, keepdims=True)
        return part / whole

    def _resources(self) -> int:
        return len(self.setting.capacity_bps) + len(self.setting.link_bps)


def furnished(options: Options, world_path: Path | None = None) -> Reference:
    """The setting of these options and its optima.

    Where the demand of a region does not fit into the POPs that probe it, POPs there are built
    larger: an operator would see to that, and no policy could help. Total capacity then exceeds
    what the headroom says.

    Raises:
        ConfigError: as `make_setting`.
    """
    reference = Reference(make_setting(options, world_path))
    for _ in range(BUILD_ROUNDS_MAX):
        missing = reference.missing()
        if missing.max() < AVOIDABLE:
            break
        reference = Reference(enlarged(reference.setting, 1 + missing))
    return reference
