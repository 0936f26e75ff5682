"""One latency cycle: estimates, demand and capacities in; table, then evidence, out. Pure.

Production, the simulator and a replay run this very function.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata

import msgspec
import numpy as np
from numpy.typing import NDArray

from aggregator import pins
from aggregator.candidates import Candidates, candidates
from aggregator.compare import Answers, answers, load_bps, present_shares
from aggregator.estimate import Estimates
from aggregator.evidence import evidence_of
from aggregator.explore import wanted_pairs
from aggregator.failover import fallen_over
from aggregator.fleet import Fleet
from aggregator.inference import Surroundings, inferred
from aggregator.market import crew
from aggregator.pins import Pin
from aggregator.policy import BY_LOCATION, POLICIES
from aggregator.prefixes import Prefixes
from aggregator.rollout import Rollout, Trial, staged
from aggregator.rollout import note as rollout_note
from aggregator.rows import Rows8, ranked_rows
from aggregator.solve import NOWHERE, Assignment, Problem
from aggregator.terms import Terms
from aggregator.together import Solved, solved
from aggregator.weights import moved_us, moving_us, usable_us, weighted
from popsteer.clock import SECOND_MS
from popsteer.evidence import Evidence, Reason, Source
from popsteer.names import Prefix
from popsteer.table import Further, Ranked, Table, TableMeta, build
from popsteer.wanted import Wanted

MOVED_FOR_GAIN_MAX = 0.15
"""Share of demand that one table may move for gain alone."""

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a cycle looks at."""

    now_ms: int
    fleet: Fleet
    prefixes: Prefixes
    estimates: Estimates
    demand_bps: F64
    """[prefixes]"""
    capacity_bps: F64
    """[p], what may be filled; infinite is unlimited."""
    up: Bools
    drained: Bools
    pins: Mapping[Prefix, str]
    in_force: Table | None
    policy: str
    move_gain_us: float
    warm_us: F64 | None
    """[p], prices of the last cycle; None at the first."""
    meta: TableMeta
    """The metadata of the new table, but for what this cycle finds out."""
    terms: Terms | None = None
    """Of the POPs; None: all are alike."""
    places: F64 | None = None
    """[prefixes, 2], latitude and longitude, for policies that go by them and for inference."""
    networks: Ints | None = None
    """[prefixes], numbers of autonomous systems."""
    route: Callable[[Ints, Ints], Ints] | None = None
    """Gives the link [n, k] through which POPs [n, k] reach prefixes [n], or NOWHERE; None: no
    link is known."""
    link_bps: F64 | None = None
    """[links], what links may be filled to, where routes are known."""
    warm_link_us: F64 | None = None
    """[links], prices of the last cycle."""
    rollout: Rollout = field(default_factory=Rollout)
    services: tuple[str, ...] = ()
    """Whom the answers are for; the first of several sets is for all that no other names."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A table to be judged and what it rests on. Arrays are over the candidates' rows."""

    table: Table
    considered: Candidates
    problem: Problem
    assignment: Assignment
    before: Answers
    after: Answers
    rtt_us: F64
    """[n], by the assignment; NaN where nothing is usable."""
    rollout: Rollout
    """Where it stands once this table is in force."""

    @property
    def demand_bps(self) -> F64:
        """Of each row, [n]."""
        return self.problem.demand_bps


def plan(inputs: Inputs) -> Outcome | None:
    """A new table; None while nothing is known of any prefix."""
    return next(iter(plan_sets([inputs])), None)


def plan_sets(sets: Sequence[Inputs]) -> list[Outcome]:
    """A new table with a set of answers for each of some inputs; none while nothing is known.

    The inputs differ in policy, terms, POPs that serve, demand, and what is in force; what may be
    filled is theirs together. The first outcome's table is the whole one, the tables of the others
    are their sets of it.
    """
    first = sets[0]
    pops = first.fleet.pops
    considered = _considered(sets)
    row = considered[0].row
    if not len(row):
        return []
    net, plen = first.prefixes.net[row], first.prefixes.plen[row]
    before = [answers(one.in_force, net, plen, pops) for one in sets]
    asked = [
        (one.policy, _problem(one, own, said))
        for one, own, said in zip(sets, considered, before, strict=True)
    ]
    parts = [
        _answered(one, own, said, found)
        for one, own, said, found in zip(sets, considered, before, solved(asked), strict=True)
    ]
    table = _joined(sets, considered, parts)
    return [
        Outcome(
            one,
            own,
            part.problem,
            part.assignment,
            said,
            answers(one, net, plen, pops),
            weighted(part.assignment.share, own.rtt_us),
            part.rollout,
        )
        for one, own, part, said in zip(table.sets, considered, parts, before, strict=True)
    ]


def _considered(sets: Sequence[Inputs]) -> list[Candidates]:
    """The candidates of each set: those of its POPs, for the same prefixes in the same rows."""
    first = sets[0]
    pops = len(first.fleet.pops)
    told = inferred(first.estimates, first.prefixes, pops, _surroundings(first))
    found: dict[bytes, Candidates] = {}
    for one in sets:
        serves = one.fleet.serves
        if serves.tobytes() not in found:
            found[serves.tobytes()] = candidates(told, pops, serves)
    return [found[one.fleet.serves.tobytes()] for one in sets]


@dataclass(frozen=True, slots=True)
class _Answered:
    """One set of answers on its way into the table."""

    problem: Problem
    assignment: Assignment
    rollout: Rollout
    rows: Rows8
    meta: TableMeta


def _answered(inputs: Inputs, considered: Candidates, before: Answers, found: Solved) -> _Answered:
    net, plen = inputs.prefixes.net[considered.row], inputs.prefixes.plen[considered.row]
    judged = inputs.rollout.judged(
        lambda t, said: _costs(inputs, considered, t, said), inputs.now_ms
    )
    problem = found.problem
    assignment, rollout = staged(judged, problem, found.assignment, before, net, plen)
    notes = (_note(considered, problem, assignment), rollout_note(rollout, judged))
    name, _ = POLICIES[inputs.policy]
    meta = _meta(inputs, considered, problem, name, "; ".join(filter(None, notes)))
    default = [inputs.fleet.pops.index(pop) for pop in meta.default]
    rows = ranked_rows(considered, problem, assignment).with_default(default)
    return _Answered(problem, assignment, rollout, rows, meta)


def _joined(
    sets: Sequence[Inputs], considered: Sequence[Candidates], parts: Sequence[_Answered]
) -> Table:
    """The one table of all sets."""
    first, pops, row = sets[0], sets[0].fleet.pops, considered[0].row
    net, plen = first.prefixes.net[row], first.prefixes.plen[row]
    obeyed = pins.shared([_pins(one) for one in sets])
    rows = [
        pins.pinned(part.rows, own, net, plen, pops, part.meta.default)
        for own, part in zip(obeyed, parts, strict=True)
    ]
    further = tuple(
        Further(
            services=one.services,
            policy=part.meta.policy,
            default=part.meta.default,
            note=part.meta.note,
        )
        for one, part in zip(sets[1:], parts[1:], strict=True)
    )
    return build(
        msgspec.structs.replace(parts[0].meta, further=further),
        pops,
        np.concatenate([net, rows[0].extra_net]),
        np.concatenate([plen, rows[0].extra_plen]),
        rows[0].pop,
        rows[0].share,
        rows[0].rtt,
        [Ranked(one.pop, one.share, one.rtt) for one in rows[1:]],
    )


def _costs(inputs: Inputs, considered: Candidates, trial: Trial, said: Answers) -> F64:
    """What each cell of answers to a trial's prefixes costs now; NaN where it is unknown."""
    row = inputs.prefixes.rows(trial.net, trial.plen)
    at = np.minimum(np.searchsorted(considered.row, row), len(considered) - 1)
    known = considered.row[at] == row
    cost = np.full(said.pop.shape, np.nan)
    for column in range(said.pop.shape[1]):
        same = (considered.pop[at] == said.pop[:, column, None]) & known[:, None]
        found = np.where(same & np.isfinite(considered.cost_us[at]), considered.cost_us[at], np.inf)
        least = found.min(axis=1, initial=np.inf)
        cost[:, column] = np.where(np.isfinite(least), least, np.nan)
    return cost


def _surroundings(inputs: Inputs) -> Surroundings:
    terms = inputs.terms
    pop_place = np.stack([terms.lat, terms.lon], axis=1) if terms else None
    return Surroundings(inputs.places, inputs.networks, pop_place)


def evidence(inputs: Inputs, outcome: Outcome) -> Evidence:
    """Why the table says what it says, for people; nothing waits for it."""
    return evidence_of(
        inputs.meta.generation,
        inputs.now_ms,
        inputs.fleet.pops,
        inputs.prefixes,
        outcome.considered,
        outcome.assignment,
        outcome.demand_bps,
        _reasons(inputs, outcome.considered, outcome.problem, outcome.assignment),
    )


def wanted(inputs: Inputs, outcome: Outcome) -> Wanted:
    """What to measure more often, so that the next decisions are better."""
    return wanted_pairs(
        outcome.considered,
        outcome.problem,
        outcome.assignment,
        inputs.prefixes,
        inputs.fleet.pops,
        inputs.now_ms,
    )


def usable_pops(fleet: Fleet, up: Bools, drained: Bools) -> Bools:
    """POPs that may be chosen; with none left, drains yield first and then health (fail open)."""
    for usable in (fleet.serves & up & ~drained, fleet.serves & up):
        if usable.any():
            return usable
    return fleet.serves


def _problem(inputs: Inputs, considered: Candidates, before: Answers) -> Problem:
    usable = usable_pops(inputs.fleet, inputs.up, inputs.drained)
    present = present_shares(considered.pop, fallen_over(before, usable))
    with crew() as workers:
        cost = usable_us(considered.cost_us, considered.pop, usable, workers)
        moving = moving_us(considered.spread_us, present, inputs.move_gain_us, workers)
    if inputs.pins:
        net, plen = inputs.prefixes.net[considered.row], inputs.prefixes.plen[considered.row]
        cost[~pins.allowed(_pins(inputs), net, plen, considered.pop)] = np.inf
    return Problem(
        pop=considered.pop,
        cost_us=cost,
        move_us=moving,
        demand_bps=inputs.demand_bps[considered.row],
        capacity_bps=inputs.capacity_bps,
        present=present,
        move_share_max=MOVED_FOR_GAIN_MAX,
        warm_us=inputs.warm_us,
        link=_links(inputs, considered),
        link_bps=inputs.link_bps,
        warm_link_us=inputs.warm_link_us,
        terms=_terms(inputs, considered),
    )


def _terms(inputs: Inputs, considered: Candidates) -> Terms | None:
    """With distances for the policies that go by them alone: they take as long as a solution."""
    if inputs.terms is None or inputs.policy not in BY_LOCATION:
        return inputs.terms
    return inputs.terms.over(inputs.places, considered.row, considered.pop)


def _links(inputs: Inputs, considered: Candidates) -> Ints | None:
    """[n, k], the link of each candidate."""
    if inputs.route is None:
        return None
    there = inputs.route(considered.row, np.maximum(considered.pop, 0))
    return np.where(considered.pop == NOWHERE, NOWHERE, there)


def _note(considered: Candidates, problem: Problem, assignment: Assignment) -> str:
    """What the solution reaches and what no solution could beat, for people."""
    cost = weighted(assignment.share, considered.cost_us)
    placed = ~np.isnan(cost)
    demand = problem.demand_bps[placed]
    whole = float(demand.sum())
    if not whole:
        return ""
    mean_ms = float(demand @ cost[placed]) / whole / 1e3
    if not np.isfinite(assignment.bound_us):
        return f"mean {mean_ms:.2f} ms"
    paid = moved_us(assignment.share, problem.present, problem.move_us)[placed]
    moves_ms = float(demand @ paid) / whole / 1e3
    gap = 1e3 * (mean_ms + moves_ms) / assignment.moving_bound_us - 1
    free = f"mean {mean_ms:.2f} ms, bound {assignment.bound_us / 1e3:.2f} ms"
    return f"{free}; with {moves_ms:.2f} ms for moves {gap:.3%} above the bound"


def _meta(
    inputs: Inputs, considered: Candidates, problem: Problem, name: str, note: str
) -> TableMeta:
    return msgspec.structs.replace(
        inputs.meta,
        created_ms=inputs.now_ms,
        policy=name,
        note=note,
        code=_code(),
        default=_default(inputs, considered, problem),
    )


@cache
def _code() -> str:
    return f"popsteer {metadata.version('popsteer')}"


def _default(inputs: Inputs, considered: Candidates, problem: Problem) -> tuple[str, ...]:
    """The static order: usable POPs by their mean RTT over all demand, then the others."""
    p = len(inputs.fleet.pops)
    known = (considered.pop != NOWHERE) & np.isfinite(considered.rtt_us)
    weight = np.broadcast_to(problem.demand_bps[:, None] + 1.0, known.shape)[known]
    pop = considered.pop[known]
    total = np.bincount(pop, weight * considered.rtt_us[known], p)
    count = np.bincount(pop, weight, p)
    mean = np.divide(total, count, out=np.full(p, np.inf), where=count > 0)
    usable = usable_pops(inputs.fleet, inputs.up, inputs.drained)
    order = np.lexsort((np.arange(p), mean, ~usable, ~inputs.fleet.serves))
    return tuple(inputs.fleet.pops[i] for i in order.tolist() if inputs.fleet.serves[i])


def _pins(inputs: Inputs) -> list[Pin]:
    usable = usable_pops(inputs.fleet, inputs.up, inputs.drained)
    return pins.pins_of(inputs.pins, inputs.fleet.pops, usable)


def _reasons(
    inputs: Inputs, considered: Candidates, problem: Problem, assignment: Assignment
) -> NDArray[np.uint8]:
    """What became of each candidate; later lines overrule earlier ones."""
    share, cost = assignment.share, considered.cost_us
    own = np.where(share > 0, cost, 0.0).max(axis=1, initial=0.0)[:, None]
    pop = considered.pop
    reason = np.full(pop.shape, Reason.SLOWER, np.uint8)
    faster = np.isfinite(problem.cost_us) & (cost < own)
    reason[considered.source != Source.MEASURED] = Reason.UNMEASURED
    reason[faster] = Reason.FULL
    stays = problem.present.max(axis=1, initial=0.0) > 0
    reason[faster & stays[:, None] & (cost + problem.move_us >= own)] = Reason.NOT_WORTH_MOVING
    reason[share > 0] = Reason.SHARED
    reason[np.arange(len(share)), share.argmax(axis=1)] = Reason.CHOSEN
    known = pop != NOWHERE
    if inputs.policy not in {"optimum", "greedy"}:
        reason[reason == Reason.FULL] = Reason.POLICY
    reason[known & inputs.drained[pop] & (share == 0)] = Reason.DRAINED
    reason[known & ~inputs.up[pop] & (share == 0)] = Reason.DOWN
    net, plen = inputs.prefixes.net[considered.row], inputs.prefixes.plen[considered.row]
    for pin in _pins(inputs):
        if pin.pop != NOWHERE:
            inside, chosen = pin.inside(net, plen)[:, None], pop == pin.pop
            reason[inside & known & ~chosen] = Reason.PINNED_ELSEWHERE
            reason[inside & chosen] = Reason.CHOSEN
    return reason


def data_age_s(table: Table, now_ms: int) -> float:
    """Age of the newest measurement behind a table."""
    return max(0, now_ms - table.meta.window_last_ms) / SECOND_MS


def planned_bps(outcome: Outcome, pops: int) -> F64:
    """[p], the load that the new table should bring."""
    return load_bps(outcome.after, outcome.demand_bps, pops)


def excused(outcome: Outcome, inputs: Inputs) -> F64:
    """[n], the share of each prefix that had to move: its POP is unusable, full or not pinned."""
    usable = usable_pops(inputs.fleet, inputs.up, inputs.drained)
    load = load_bps(outcome.before, outcome.demand_bps, len(usable))
    with np.errstate(invalid="ignore"):
        room_bps = outcome.problem.capacity_bps
        fits = np.divide(room_bps, load, out=np.ones(len(load)), where=load > 0)
    must = np.where(usable, np.clip(1 - fits, 0.0, 1.0), 1.0)
    share: F64 = np.where(
        outcome.before.pop >= 0, outcome.before.share * must[outcome.before.pop], 0.0
    ).sum(axis=1)
    share[pinned(outcome, inputs)] = 1.0
    return share


def pinned(outcome: Outcome, inputs: Inputs) -> Bools:
    """[n], prefixes that an operator's order binds to one POP."""
    row = outcome.considered.row
    net, plen = inputs.prefixes.net[row], inputs.prefixes.plen[row]
    bound = np.zeros(len(row), bool)
    for prefix in inputs.pins:
        bound |= pins.inside(prefix, net, plen)
    return bound
