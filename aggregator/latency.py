"""The latency loop: plans, has the plan judged, publishes it or keeps it with the reason.

What is decided is decided in `cycle`, `rollout` and `guard`; this is what they start from and
what becomes of their word. Owns the prices, the rollout and the reference of the guard.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator import cycle
from aggregator.chores import Chores
from aggregator.compare import Answers, load_bps
from aggregator.control import Arbiter, Load, LoadLoop
from aggregator.estimate import Estimates
from aggregator.guard import Case, Verdict, judge
from aggregator.measurements import Measurements
from aggregator.memory import Reference
from aggregator.publish import Publisher
from aggregator.rollout import Mode, Rollout
from aggregator.standing_orders import StandingOrders
from aggregator.terms import Atlas, Terms
from popsteer.clock import SECOND_MS
from popsteer.config import Plan
from popsteer.memory import give_back
from popsteer.names import Prefix
from popsteer.table import TableMeta
from popsteer.telemetry import logger

FIRST_COVERAGE = 0.95
FIRST_WINDOWS = 3
"""The first table waits for so much of all pairs of targets and POPs, or so many windows."""

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Now:
    """What the inner loops and the operators say at one time."""

    now_ms: int
    load: Load
    up: Bools
    drained: Bools
    pins: dict[Prefix, str]
    caps_bps: dict[str, float]
    frozen: str
    """By whose order and why; empty when the table is not frozen."""
    said: Callable[[], Answers]
    """By the table in force, of all prefixes; asked when the pointer has been read."""

    def usable(self) -> bytes:
        """Stands for everything that must take effect at once: who is up, and orders."""
        pins, caps = sorted(map(repr, self.pins.items())), sorted(self.caps_bps.items())
        return repr((self.up.tolist(), self.drained.tolist(), pins, caps)).encode()


def now_of(
    load: Load,
    up: Bools,
    orders: StandingOrders,
    pops: tuple[str, ...],
    said: Callable[[], Answers],
    now_ms: int,
) -> Now:
    """Put together from its sources."""
    drained, freeze = orders.drained(now_ms), orders.freeze(now_ms)
    return Now(
        now_ms,
        load,
        up,
        np.array([pop in drained for pop in pops]),
        orders.pins(now_ms),
        orders.caps_bps(now_ms),
        f"frozen by order of {freeze.owner}: {freeze.reason}" if freeze else "",
        said,
    )


class LatencyLoop:
    """Owns what must survive from one table to the next."""

    def __init__(
        self,
        plan: Plan,
        known: Measurements,
        publisher: Publisher,
        loop: LoadLoop,
        policy: str,
        terms: Terms,
        atlas: Atlas | None,
    ) -> None:
        self._plan = plan
        self._known = known
        self._publisher = publisher
        self._loop = loop
        self._policy = policy
        self._terms = terms
        self._atlas = atlas
        self._fleet = known.fleet
        self._arbiter = Arbiter(plan.latency_period_s, plan.load_period_s)
        self._rollout = Rollout(Mode(plan.rollout), plan.canary_share)
        self._prices_us: F64 | None = None
        self._theirs_ms = 0
        """When the newest table of another planner was made."""
        self.reference = Reference()
        self.refused = ""
        """Why the newest table is not in force; empty when it is."""
        self.published = 0
        """Tables put in force."""
        self.refusals = 0
        """Tables that the guard refused."""
        self.brings_bps = np.zeros(len(known.fleet.pops))
        """[p], the load that the last of them should bring."""

    def step(self, now: Now, chores: Chores, force: bool = False) -> None:
        """Plan, judge and publish when the arbiter says so and enough is known."""
        usable = now.usable()
        why = (
            "forced"
            if force
            else self._arbiter.due(usable, self._loop.shedding_since_ms, now.now_ms)
        )
        if not why or (self._another_planned(now.now_ms, chores) and "POP" not in why):
            return
        estimates = self._known.estimates(now.now_ms)
        if not self._enough(estimates):
            return
        started = time.process_time()
        inputs = self._inputs(estimates, now)
        outcome = cycle.plan(inputs)
        self._arbiter.planned(usable, why, now.now_ms)
        if outcome is None:
            return
        self._prices_us = outcome.assignment.price_us
        verdict = self._judge(outcome, inputs, now)
        with chores.attempt("publish"):
            self._conclude(outcome, verdict, inputs, now)
        logger().info(
            "planned",
            why=why,
            rows=len(outcome.table),
            prefixes=len(outcome.considered),
            generation=self._publisher.next_generation - 1,
            refused=self.refused,
            note=outcome.table.meta.note,
            cpu_ms=round((time.process_time() - started) * 1e3),
            window_age_s=round(cycle.data_age_s(outcome.table, now.now_ms), 1),
        )

    def _another_planned(self, now_ms: int, chores: Chores) -> bool:
        """Whether another active planner put a table in force within this period."""
        publisher = self._publisher
        with chores.attempt("pointer"):
            if publisher.refresh() and publisher.in_force is not None:
                self._theirs_ms = publisher.in_force.pointer.created_ms
        return now_ms - self._theirs_ms < self._plan.latency_period_s * SECOND_MS

    def _enough(self, estimates: Estimates) -> bool:
        known = self._known
        return known.windows >= FIRST_WINDOWS or known.coverage(estimates) >= FIRST_COVERAGE

    def _inputs(self, estimates: Estimates, now: Now) -> cycle.Inputs:
        known, in_force = self._known, self._publisher.in_force
        demand = known.demand_bps(now.load.load_bps)
        placed = load_bps(now.said(), demand, len(self._fleet.pops))
        return cycle.Inputs(
            now_ms=now.now_ms,
            fleet=self._fleet,
            prefixes=known.prefixes,
            estimates=estimates,
            demand_bps=demand,
            capacity_bps=self._loop.plan_capacity_bps(now.load.capacity_bps, placed),
            up=now.up,
            drained=now.drained,
            pins=now.pins,
            in_force=in_force.table if in_force else None,
            policy=self._policy,
            move_gain_us=self._plan.move_gain_ms * 1e3,
            warm_us=self._prices_us,
            meta=TableMeta(
                generation=self._publisher.next_generation,
                parent=self._publisher.next_generation - 1,
                window_first_ms=known.window_first_ms,
                window_last_ms=known.window_last_ms,
                inputs=dict(known.sequences),
            ),
            terms=self._terms,
            places=self._atlas.places(known.prefixes) if self._atlas else None,
            networks=self._atlas.networks(known.prefixes) if self._atlas else None,
            rollout=self._rollout,
        )

    def _judge(self, outcome: cycle.Outcome, inputs: cycle.Inputs, now: Now) -> Verdict:
        pops, reference = len(self._fleet.pops), self.reference
        usable = self._fleet.serves & inputs.up & ~inputs.drained
        case = Case(
            now_ms=inputs.now_ms,
            old=inputs.in_force,
            new=outcome.table,
            demand_bps=outcome.demand_bps,
            before=outcome.before,
            after=outcome.after,
            excused=cycle.excused(outcome, inputs),
            rtt_ratio=reference.rtt_ratio(outcome, pops),
            pops_usable=int(usable.sum()),
            pops_all=pops,
            capacity_ratio_max=reference.capacity_ratio(now.load.rated_bps),
            measured_pops=reference.fresh_pops(inputs.estimates, pops),
            measured_pops_before=reference.pops,
        )
        return judge(case)

    def _conclude(
        self, outcome: cycle.Outcome, verdict: Verdict, inputs: cycle.Inputs, now: Now
    ) -> None:
        pops, publisher = len(self._fleet.pops), self._publisher
        if not verdict.good:
            self._refuse(outcome, verdict, inputs.estimates)
            return
        if now.frozen:
            self.refused = now.frozen
            return
        if self._rollout.mode is Mode.SHADOW:
            self.refused = "shadow: judged good and kept, but no DNS node loads it"
            publisher.refuse(outcome.table, "shadow", "plan.rollout is shadow")
            return
        published = publisher.publish(outcome.table)
        if published is None:
            logger().info("another planner was faster", generation=publisher.next_generation)
            return
        self.refused = ""
        self.published += 1
        self._rollout = outcome.rollout
        self.reference.accept(inputs.estimates, now.load.rated_bps, pops)
        self.brings_bps = cycle.planned_bps(outcome, pops)
        # The table is in force; now there is time to say why.
        evidence = cycle.evidence(inputs, outcome)
        publisher.witness(replace(evidence, generation=published.meta.generation))
        publisher.want(cycle.wanted(inputs, outcome))
        give_back()

    def _refuse(self, outcome: cycle.Outcome, verdict: Verdict, estimates: Estimates) -> None:
        self.refused = f"{verdict.rule}: {verdict.reason}"
        self.refusals += 1
        logger().error("table refused", rule=verdict.rule, reason=verdict.reason)
        self.reference.relent(estimates, len(self._fleet.pops))
        self._publisher.refuse(outcome.table, verdict.rule, verdict.reason)
