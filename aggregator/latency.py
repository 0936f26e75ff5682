"""The latency loop: plans, has the plan judged, publishes it or keeps it with the reason.

What is decided is decided in `cycle`, `rollout` and `guard`; this is what they start from and
what becomes of their word. Owns the prices, the rollout and the reference of the guard.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aggregator import cycle
from aggregator.chores import Chores
from aggregator.compare import load_bps
from aggregator.control import Arbiter, LoadLoop
from aggregator.egress import Egress
from aggregator.estimate import Estimates
from aggregator.failover import ladder_of
from aggregator.guard import Case, Risk, Verdict, judge
from aggregator.load import Load
from aggregator.measurements import Measurements
from aggregator.memory import Reference
from aggregator.policy import DEFAULT
from aggregator.publish import Publisher
from aggregator.rollout import Mode, Rollout
from aggregator.services import TO_ONE_POP, ServiceSet, table_of
from aggregator.standing_orders import StandingOrders
from aggregator.survival import Placed, n_plus_one
from aggregator.terms import Atlas
from popsteer.clock import SECOND_MS
from popsteer.config import Plan
from popsteer.evidence import Source
from popsteer.memory import give_back
from popsteer.names import Prefix
from popsteer.table import Table, TableMeta
from popsteer.table_log import Outcome
from popsteer.telemetry import logger

FIRST_COVERAGE = 0.95
FIRST_WINDOWS = 3
"""The first table waits for so much of all pairs of targets and POPs, or so many windows."""

POPS_LOST = 3
"""Of the fullest POPs, so many are imagined lost before a table is published."""

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
    placed_bps: Callable[[], F64]
    """[p], what the table in force brings at today's demand; asked when the pointer is read."""

    def usable(self) -> bytes:
        """Stands for everything that must take effect at once: who is up, and orders."""
        pins, caps = sorted(map(repr, self.pins.items())), sorted(self.caps_bps.items())
        return repr((self.up.tolist(), self.drained.tolist(), pins, caps)).encode()


def now_of(
    load: Load,
    up: Bools,
    orders: StandingOrders,
    pops: tuple[str, ...],
    placed_bps: Callable[[], F64],
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
        placed_bps,
    )


class LatencyLoop:
    """Owns what must survive from one table to the next."""

    def __init__(
        self,
        plan: Plan,
        known: Measurements,
        publisher: Publisher,
        loop: LoadLoop,
        sets: Sequence[ServiceSet],
        egress: Egress,
        atlas: Atlas | None,
    ) -> None:
        self._plan = plan
        self._known = known
        self._publisher = publisher
        self._loop = loop
        self._sets = tuple(sets)
        self._egress = egress
        self._atlas = atlas
        self._fleet = known.fleet
        self._arbiter = Arbiter(plan.latency_period_s, plan.load_period_s)
        self._rollouts = [Rollout(Mode(plan.rollout), plan.canary_share) for _ in sets]
        self._prices_us: list[F64 | None] = [None] * len(self._sets)
        self._link_prices_us: list[F64 | None] = [None] * len(self._sets)
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
        if not why or (self._another_planned(now, chores) and "POP" not in why):
            return
        estimates = self._known.estimates(now.now_ms)
        if not self._enough(estimates):
            return
        started = time.process_time()
        if self.reference.empty:
            with chores.attempt("reference"):
                self._remember()
        inputs = self._inputs(estimates, now)
        outcomes = cycle.plan_sets(inputs)
        self._arbiter.planned(usable, why, now.now_ms)
        if not outcomes:
            return
        self._prices_us = [one.assignment.price_us for one in outcomes]
        prices = [one.assignment.link_price_us for one in outcomes]
        self._link_prices_us = [own if len(own) else None for own in prices]
        verdict = self._judge(outcomes, inputs, now)
        with chores.attempt("publish"):
            self._conclude(outcomes, verdict, inputs, now)
        table = outcomes[0].table
        logger().info(
            "planned",
            why=why,
            rows=len(table),
            prefixes=len(outcomes[0].considered),
            generation=self._publisher.next_generation - 1,
            refused=self.refused,
            note=_notes(outcomes, self._sets),
            cpu_ms=round((time.process_time() - started) * 1e3),
            window_age_s=round(cycle.data_age_s(table, now.now_ms), 1),
        )

    def _another_planned(self, now: Now, chores: Chores) -> bool:
        """Whether another active planner put a table in force within this period."""
        publisher = self._publisher
        with chores.attempt("pointer"):
            if publisher.refresh() and publisher.in_force is not None:
                self._theirs_ms = publisher.in_force.pointer.created_ms
                # It was judged good on what we measure, too: should they die, we judge by it.
                estimates = self._known.estimates(now.now_ms)
                self.reference.accept(estimates, now.load.rated_bps, len(self._fleet.pops))
        return now.now_ms - self._theirs_ms < self._plan.latency_period_s * SECOND_MS

    def _remember(self) -> None:
        """After a start: what the table in force rests on, as its evidence has it."""
        in_force, prefixes = self._publisher.in_force, self._known.prefixes
        evidence = self._publisher.evidence() if in_force else None
        if evidence is None or evidence.pops != self._fleet.pops:
            return
        row = prefixes.rows(evidence.net, evidence.plen)
        known = (row >= 0) & (evidence.source == Source.MEASURED) & ~np.isnan(evidence.rtt_us)
        key = row[known] * len(self._fleet.pops) + evidence.pop[known]
        rtt_us = evidence.rtt_us[known].astype(np.float64)
        self.reference.resume(key, rtt_us, len(self._fleet.pops))

    def _enough(self, estimates: Estimates) -> bool:
        known = self._known
        return known.windows >= FIRST_WINDOWS or known.coverage(estimates) >= FIRST_COVERAGE

    def _inputs(self, estimates: Estimates, now: Now) -> list[cycle.Inputs]:
        known, in_force = self._known, self._publisher.in_force
        table = in_force.table if in_force else None
        demand = known.demand_by_set(now.load.load_bps)
        first, egress = self._sets[0], self._egress
        # Other policies do not look at links, so for those a full link bounds its POP.
        by_link = egress.known.any() and all(one.policy == DEFAULT for one in self._sets)
        room = egress.capacity_bps(now.load) if by_link else now.load.capacity_bps
        networks = self._atlas.networks(known.prefixes) if self._atlas else None
        shared = cycle.Inputs(
            now_ms=now.now_ms,
            fleet=self._fleet,
            prefixes=known.prefixes,
            estimates=estimates,
            demand_bps=demand[0],
            capacity_bps=self._loop.plan_capacity_bps(room, now.placed_bps()),
            up=now.up,
            drained=now.drained,
            pins=now.pins,
            in_force=table,
            policy=first.policy,
            move_gain_us=self._plan.move_gain_ms * 1e3,
            warm_us=None,
            meta=TableMeta(
                generation=self._publisher.next_generation,
                parent=self._publisher.next_generation - 1,
                window_first_ms=known.window_first_ms,
                window_last_ms=known.window_last_ms,
                inputs=dict(known.sequences),
            ),
            places=self._atlas.places(known.prefixes) if self._atlas else None,
            networks=networks,
            route=partial(egress.through, known.prefixes, networks) if by_link else None,
            link_bps=egress.room_bps(self._plan.target_utilisation) if by_link else None,
        )
        return [
            replace(
                shared,
                fleet=replace(self._fleet, serves=one.serves),
                demand_bps=demand[number],
                in_force=table_of(table, one) if table is not None else None,
                policy=one.policy,
                warm_us=self._prices_us[number],
                warm_link_us=self._link_prices_us[number] if by_link else None,
                terms=one.terms,
                rollout=self._rollouts[number],
                services=one.services,
            )
            for number, one in enumerate(self._sets)
        ]

    def _judge(
        self, outcomes: Sequence[cycle.Outcome], inputs: Sequence[cycle.Inputs], now: Now
    ) -> Verdict:
        """The first objection to any set of answers, which names its services."""
        risk = self._risk(outcomes, inputs, now)
        for one, outcome, own in zip(self._sets, outcomes, inputs, strict=True):
            verdict = judge(self._case(outcome, own, now, risk))
            if not verdict.good:
                whom = f"{', '.join(one.services)}: " if len(outcomes) > 1 else ""
                return replace(verdict, reason=f"{whom}{verdict.reason}")
        return verdict

    def _risk(
        self, outcomes: Sequence[cycle.Outcome], inputs: Sequence[cycle.Inputs], now: Now
    ) -> Risk:
        """What the loss of one of the fullest POPs does, by the old table and by the new."""
        pops = self._fleet.pops
        load = np.sum([cycle.planned_bps(one, len(pops)) for one in outcomes], axis=0)
        lost = np.argsort(-load, kind="stable")[:POPS_LOST].tolist()

        def overload_share(new: bool) -> F64:
            placed = []
            for one, own in zip(outcomes, inputs, strict=True):
                table, said = one.table, one.after
                if not new:
                    table, said = own.in_force or table, one.before
                ladder = ladder_of(table, own.fleet.serves, pops)
                placed.append(Placed(said, one.demand_bps, ladder))
            losses = n_plus_one(placed, now.load.capacity_bps, now.up, now.drained, lost)
            share: F64 = losses.overload_share[lost]
            return share

        new, old = overload_share(True), overload_share(False)
        worst = int((new - old).argmax())
        pop = pops[lost[worst]]
        # Without a table in force nothing is compared.
        before = float(old[worst]) if inputs[0].in_force is not None else np.inf
        return Risk(pop, before, float(new[worst]), self.reference.risk_allowed)

    def _case(self, outcome: cycle.Outcome, inputs: cycle.Inputs, now: Now, risk: Risk) -> Case:
        pops, reference = len(self._fleet.pops), self.reference
        rise, fall = reference.capacity_change(now.load.rated_bps)
        able = inputs.up & ~inputs.drained
        # A service whose few POPs are all away must not hold up the tables of all others.
        usable = int((inputs.fleet.serves & able).sum()) or int((self._fleet.serves & able).any())
        return Case(
            now_ms=inputs.now_ms,
            old=inputs.in_force,
            new=outcome.table,
            demand_bps=outcome.demand_bps,
            before=outcome.before,
            after=outcome.after,
            excused=cycle.excused(outcome, inputs),
            rtt_ratio=reference.rtt_ratio(outcome, pops),
            pops_usable=usable,
            pops_all=int(inputs.fleet.serves.sum()),
            capacity_rise=rise,
            capacity_fall=fall,
            measured_pops=reference.fresh_pops(inputs.estimates, pops),
            measured_pops_before=reference.pops,
            one_pop_meant=inputs.policy in TO_ONE_POP,
            pinned=cycle.pinned(outcome, inputs),
            risk=risk,
            coverage_min=reference.coverage_min,
            one_pop_max=reference.one_pop_max,
            capacity_fall_max=reference.capacity_fall_max,
        )

    def _conclude(
        self,
        outcomes: Sequence[cycle.Outcome],
        verdict: Verdict,
        inputs: Sequence[cycle.Inputs],
        now: Now,
    ) -> None:
        pops, publisher, table = len(self._fleet.pops), self._publisher, outcomes[0].table
        estimates = inputs[0].estimates
        if not verdict.good:
            self._refuse(table, verdict, estimates)
            return
        if now.frozen:
            self.refused = now.frozen
            return
        if Mode(self._plan.rollout) is Mode.SHADOW:
            self.refused = "shadow: judged good and kept, but no DNS node loads it"
            publisher.refuse(table, Outcome.SHADOW, "plan.rollout is shadow")
            return
        published = publisher.publish(table)
        if published is None:
            logger().info("another planner was faster", generation=publisher.next_generation)
            return
        self.refused = ""
        self.published += 1
        self._rollouts = [one.rollout for one in outcomes]
        self.reference.accept(estimates, now.load.rated_bps, pops)
        self.brings_bps = np.sum([cycle.planned_bps(one, pops) for one in outcomes], axis=0)
        held = [load_bps(one.before, one.demand_bps, pops) for one in outcomes]
        self._loop.hand_over(np.sum(held, axis=0), self.brings_bps)
        publisher.note(published)
        self._witness(published.meta.generation, outcomes, inputs)

    def _witness(
        self, generation: int, outcomes: Sequence[cycle.Outcome], inputs: Sequence[cycle.Inputs]
    ) -> None:
        """The table is in force; now there is time to say why, and what to measure."""
        for number, (outcome, own) in enumerate(zip(outcomes, inputs, strict=True)):
            evidence = cycle.evidence(own, outcome)
            self._publisher.witness(replace(evidence, generation=generation), number)
        # What is worth knowing is worth most where most of the demand is.
        heaviest = int(np.argmax([own.demand_bps.sum() for own in inputs]))
        self._publisher.want(cycle.wanted(inputs[heaviest], outcomes[heaviest]))
        give_back()

    def _refuse(self, table: Table, verdict: Verdict, estimates: Estimates) -> None:
        self.refused = f"{verdict.rule}: {verdict.reason}"
        self.refusals += 1
        logger().error("table refused", rule=verdict.rule, reason=verdict.reason)
        self.reference.relent(estimates, len(self._fleet.pops))
        self._publisher.refuse(table, verdict.rule, verdict.reason)


def _notes(outcomes: Sequence[cycle.Outcome], sets: Sequence[ServiceSet]) -> str:
    if len(outcomes) == 1:
        return outcomes[0].table.meta.note
    return "; ".join(
        f"{one.services[0]} {outcome.table.meta.note}"
        for one, outcome in zip(sets, outcomes, strict=True)
    )
