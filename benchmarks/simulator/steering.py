"""Who steers: the seam between the world and a policy, and the production planner behind it.

`Production` is `aggregator.planner.Planner` without its rim: the same estimators, loops, cycle
and guard in the same order and periods, but what they read comes from the world and what they
decide goes back to it, with no store in between.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator import cycle
from aggregator.compare import Answers, answers, load_bps
from aggregator.control import Arbiter, Health, LoadLoop
from aggregator.demand import Demand
from aggregator.estimate import Estimates, Estimator
from aggregator.guard import Case, judge
from aggregator.load import Load, measured
from aggregator.memory import Reference
from aggregator.policy import ADDITIVE, DEFAULT
from aggregator.prefixes import Prefixes
from aggregator.signals import Signals
from benchmarks.simulator.caches import NO_POP, RANKS
from benchmarks.simulator.measurement import T0_MS, Seen, SeenBulk
from benchmarks.simulator.setting import Setting
from popsteer.clock import SECOND_MS
from popsteer.table import Table, TableMeta

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """What a table says of n prefixes: POPs [n, 8] by rank, shares [n, 8], the default order."""

    pop: Ints
    share: F64
    default: Ints


@dataclass(frozen=True, slots=True)
class Outlook:
    """What POP state tells the DNS nodes, [p]."""

    up: Bools
    shed: F64


class Steering(Protocol):
    """Anything that can steer. Called once per virtual second, `table` after `outlook`."""

    def observe(self, signals: list[Seen], bulk: list[SeenBulk]) -> None:
        """Take in what has arrived."""

    def outlook(self, t: int) -> Outlook | None:
        """A new POP state, if there is one."""

    def table(self, t: int) -> Rows | None:
        """A new table, if there is one."""


@dataclass
class Production:
    """The planner's functions over a world. `policy` is a key of `aggregator.policy.POLICIES`."""

    setting: Setting
    policy: str
    refused: list[str] = field(default_factory=list)
    """Reasons of the guard, for a person."""
    plans: int = 0

    def __post_init__(self) -> None:
        setting = self.setting
        self._plan = setting.options.plan
        self.fleet = setting.fleet()
        self.prefixes = Prefixes()
        self._row = self.prefixes.add(setting.world.net, setting.world.plen)
        self._world_row = np.argsort(self._row)
        self.estimator = Estimator(self._plan.estimate_half_life_s, self._plan.age_s_max)
        self.demand = Demand(self.fleet.pops, self.fleet.ttl_s)
        expected = setting.demand_bps(0.0)[self._world_row]
        self.demand.expect(np.arange(len(expected)), expected)
        self.signals = Signals()
        self.health = Health(self.fleet.pops)
        self._terms = setting.terms()
        self._places = setting.places()[self._world_row]
        # The POPs' routers know which link leads where.
        self._route = setting.link[self._world_row] if self.policy == DEFAULT else None
        target = self._plan.target_utilisation
        self.loop = LoadLoop(self.fleet, target, self.policy in ADDITIVE)
        self._arbiter = Arbiter(self._plan.latency_period_s, self._plan.load_period_s)
        self._reference = Reference()
        self._load: Load | None = None
        self._in_force: Table | None = None
        self._said: Answers | None = None
        self._prices_us: F64 | None = None
        self._link_prices_us: F64 | None = None
        self._window_last_ms = 0
        self._windows = 0
        self._heard = False

    def observe(self, signals: list[Seen], bulk: list[SeenBulk]) -> None:
        """Feed the estimators, as `aggregator.measurements` does."""
        self._heard = bool(signals)
        self.signals.observe(seen.signals for seen in signals)
        p = len(self.fleet.pops)
        for seen in bulk:
            window, row = seen.rtt, self._row[seen.rtt.key // p]
            order = np.argsort(row, kind="stable")
            keyed = type(window)(
                window.end_ms,
                (row * p + window.key % p)[order],
                window.median_us[order],
                window.wait_us[order],
                window.answered[order],
                window.lost[order],
            )
            self.estimator.observe(keyed, p)
            self._windows += 1
            self._window_last_ms = window.end_ms
            self.demand.observe([seen.demand], self.prefixes)

    def outlook(self, t: int) -> Outlook | None:
        """Health and load loops; a POP state each state period."""
        now = _ms(t)
        if self._heard:
            self.health.step(self.signals, now)
        if t % int(self._plan.load_period_s) == 0:
            self._load = measured(self.fleet, self.signals, {}, now)
            self._load_step(self._load, now)
        if t % int(self._plan.state_period_s):
            return None
        return Outlook(self.health.up.copy(), self.loop.shed.copy())

    def _load_step(self, load: Load, now: int) -> None:
        # Before the first table all load was brought by somebody else's answers.
        planned = load.load_bps
        if self._said is not None:
            demand = self.demand.bps(len(self.prefixes), load.load_bps)
            planned = load_bps(self._said, demand, len(planned))
        answered = self.demand.in_flight(len(self.prefixes), load.load_bps)
        self.loop.step(load, answered, planned, now)

    def table(self, t: int) -> Rows | None:
        """The latency loop: plan and judge when the arbiter says so."""
        usable, now = self.health.up.tobytes(), _ms(t)
        why = self._arbiter.due(usable, self.loop.shedding_since_ms, now)
        if not why or self._load is None or self._windows < self._windows_first():
            return None
        estimates = self.estimator.at(now)
        inputs = self._inputs(estimates, self._load, now)
        outcome = cycle.plan(inputs)
        self._arbiter.planned(usable, why, now)
        self.plans += 1
        if outcome is not None:
            self._prices_us = outcome.assignment.price_us
            links = outcome.assignment.link_price_us
            self._link_prices_us = links if len(links) else None
        if outcome is None or not self._passes(outcome, inputs, estimates, self._load):
            return None
        self._reference.accept(estimates, self._load.rated_bps, len(self.fleet.pops))
        pops = len(self.fleet.pops)
        held = load_bps(outcome.before, outcome.demand_bps, pops)
        self.loop.hand_over(held, cycle.planned_bps(outcome, pops))
        self._in_force = outcome.table
        net, plen = self.prefixes.net, self.prefixes.plen
        self._said = answers(outcome.table, net, plen, self.fleet.pops)
        return self._rows(self._said, outcome.table)

    def _windows_first(self) -> int:
        """Every prefix was probed twice."""
        options = self.setting.options
        return 2 * max(1, options.probe_interval_s // options.window_s)

    def _inputs(self, estimates: Estimates, load: Load, now: int) -> cycle.Inputs:
        generation = self.plans + 1
        demand = self.demand.bps(len(self.prefixes), load.load_bps)
        placed = np.zeros(len(self.fleet.pops))
        if self._said is not None:
            placed = load_bps(self._said, demand, len(placed))
        return cycle.Inputs(
            now_ms=now,
            fleet=self.fleet,
            prefixes=self.prefixes,
            estimates=estimates,
            demand_bps=demand,
            capacity_bps=self.loop.plan_capacity_bps(self._room_bps(load), placed),
            up=self.health.up,
            drained=np.zeros(len(self.fleet.pops), bool),
            pins={},
            in_force=self._in_force,
            policy=self.policy,
            move_gain_us=self._plan.move_gain_ms * 1e3,
            warm_us=self._prices_us,
            meta=TableMeta(
                generation=generation,
                parent=generation - 1,
                window_last_ms=self._window_last_ms,
            ),
            terms=self._terms,
            places=self._places,
            route=None if self._route is None else self._through,
            link_bps=self._plan.target_utilisation * self.setting.link_bps,
            warm_link_us=self._link_prices_us,
        )

    def _through(self, row: Ints, pop: Ints) -> Ints:
        """The links [n, k] to prefixes [n] from POPs [n, k]."""
        assert self._route is not None
        links: Ints = self._route[row[:, None], pop]
        return links

    def _room_bps(self, load: Load) -> F64:
        """[p]; links bound POPs as a whole only for policies that do not look at them."""
        if self._route is None or load.own_bps is None:
            return load.capacity_bps
        return load.own_bps

    def _passes(
        self, outcome: cycle.Outcome, inputs: cycle.Inputs, estimates: Estimates, load: Load
    ) -> bool:
        pops, reference = len(self.fleet.pops), self._reference
        rise, fall = reference.capacity_change(load.rated_bps)
        case = Case(
            now_ms=inputs.now_ms,
            old=self._in_force,
            new=outcome.table,
            demand_bps=outcome.demand_bps,
            before=outcome.before,
            after=outcome.after,
            excused=cycle.excused(outcome, inputs),
            rtt_ratio=reference.rtt_ratio(outcome, pops),
            pops_usable=int(self.health.up.sum()),
            pops_all=pops,
            capacity_rise=rise,
            capacity_fall=fall,
            measured_pops=reference.fresh_pops(estimates, pops),
            measured_pops_before=reference.pops,
            coverage_min=reference.coverage_min,
            one_pop_max=reference.one_pop_max,
            capacity_fall_max=reference.capacity_fall_max,
        )
        verdict = judge(case)
        if not verdict.good:
            reference.relent(estimates, pops)
            self.refused.append(f"{verdict.rule}: {verdict.reason}")
        return verdict.good

    def _rows(self, said: Answers, table: Table) -> Rows:
        width = RANKS - said.pop.shape[1]
        pop = np.pad(said.pop, ((0, 0), (0, width)), constant_values=NO_POP)
        share = np.pad(said.share, ((0, 0), (0, width)))
        place = {one: number for number, one in enumerate(self.fleet.pops)}
        default = np.array([place[one] for one in table.meta.default], np.int64)
        return Rows(
            np.ascontiguousarray(pop[self._row]), np.ascontiguousarray(share[self._row]), default
        )


def _ms(t: int) -> int:
    return T0_MS + t * SECOND_MS
