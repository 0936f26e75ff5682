"""What if: a POP dies, a capacity changes, a demand grows. Pure.

Two answers to each question. **At once**: DNS nodes fail over by the ranks of the table in force,
within a second. **Replanned**: what the planner makes of it, a period later. The first is what
hurts, the second what it costs. N+1 (`survival`) is the first answer for the loss of every POP.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aggregator.compare import Answers, answers, load_bps, present_shares
from aggregator.failover import Ladder, ladder_of
from aggregator.policy import DEFAULT
from aggregator.services import ServiceSet, stacked
from aggregator.solve import NOWHERE, Problem
from aggregator.survival import Placed
from aggregator.together import solved
from popsteer.evidence import Evidence
from popsteer.intervals import last_of
from popsteer.names import IPV6_BIT, Net, Plen, Prefix
from popsteer.table import Table

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Exits:
    """The links of all POPs whose routes are known."""

    names: tuple[str, ...]
    pop: Ints
    """[links], whose each is."""
    capacity_bps: F64
    """[links]"""
    through: Callable[[Ints, Ints], Ints]
    """Gives the link [m, k] to rows [m] of the situation from POPs [m, k]; NOWHERE is unknown."""


@dataclass(frozen=True, slots=True)
class Situation:
    """n prefixes and p POPs, as the planner last saw them."""

    pops: tuple[str, ...]
    net: Net
    plen: Plen
    demand_bps: F64
    """[n]"""
    pop: Ints
    """[n, k], the candidates that the planner considered; NOWHERE is none."""
    rtt_us: F64
    """[n, k], infinite where unknown."""
    spread_us: F64
    """[n, k]"""
    said: Answers
    """By the table in force."""
    up: Bools
    """[p]"""
    drained: Bools
    """[p]"""
    capacity_bps: F64
    """[p], infinite is unlimited."""
    fill: float
    """The share of a capacity that is planned with."""
    move_gain_us: float
    sets: tuple[ServiceSet, ...]
    ladders: tuple[Ladder, ...]
    """Of each set."""
    ends: tuple[int, ...]
    """Where the prefixes of each set end: services with other answers have rows of their own."""
    generation: int = 0
    """Of the table in force."""
    exits: Exits | None = None
    """None: no routes are known, and a link counts only where it bounds its POP's capacity now."""

    def parts(self, said: Answers) -> list[Placed]:
        """Such answers, set by set."""
        begins = (0, *self.ends[:-1])
        return [
            Placed(Answers(said.pop[a:b], said.share[a:b]), self.demand_bps[a:b], ladder)
            for a, b, ladder in zip(begins, self.ends, self.ladders, strict=True)
        ]

    def fallen_over(self, said: Answers) -> Answers:
        """The answers as DNS nodes give them with the POPs of now."""
        return stacked(
            [one.ladder.fallen_over(one.said, self.up, self.drained) for one in self.parts(said)]
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What is assumed."""

    down: frozenset[str] = frozenset()
    capacity_bps: Mapping[str, float] | None = None
    demand: Mapping[Prefix, float] | None = None
    """Factor by prefix; prefixes within it grow alike."""
    pins: Mapping[Prefix, str] | None = None
    """The one POP of all prefixes within."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Who is where. `load_bps` and the others are [p] or plain numbers."""

    said: Answers
    load_bps: F64
    link_bps: F64
    """[links], the load of each, of the demand whose link is known."""
    latency_us: float
    """Demand-weighted mean; NaN where nothing is known."""
    overload_share: float
    """Share of all demand for which there is no room at POPs or links, the unserved among it."""
    unserved_share: float
    """Share of all demand whose service has no POP left."""


@dataclass(frozen=True, slots=True)
class Flows:
    """m pairs of POPs between which users move, the largest first."""

    source: Ints
    target: Ints
    bps: F64
    added_us: F64
    """Mean added RTT of those who move; NaN where one of the two is unknown."""


@dataclass(frozen=True, slots=True)
class Account:
    """The three placements and the moves between them."""

    now: Placement
    at_once: Placement
    replanned: Placement
    capacity_bps: F64
    moved_at_once: Flows
    moved_replanned: Flows
    """Between now and replanned."""


def situation(
    sets: Sequence[ServiceSet],
    tables: Sequence[Table],
    evidence: Sequence[Evidence],
    up: Bools,
    drained: Bools,
    capacity_bps: F64,
    fill: float,
    move_gain_us: float,
) -> Situation:
    """The situation that a published table, set by set, and its evidence describe."""
    pops = evidence[0].pops
    width = max(int(_lines(one)[2].max(initial=-1)) + 1 for one in evidence)
    parts = [_candidates(one, width) for one in evidence]
    net, plen, demand, pop, rtt, spread = (
        np.concatenate([part[i] for part in parts]) for i in range(6)
    )
    said = [answers(own, part[0], part[1], pops) for own, part in zip(tables, parts, strict=True)]
    return Situation(
        pops=pops,
        net=net,
        plen=plen,
        demand_bps=demand,
        pop=pop,
        rtt_us=rtt,
        spread_us=spread,
        said=stacked(said),
        up=up,
        drained=drained,
        capacity_bps=capacity_bps,
        fill=fill,
        move_gain_us=move_gain_us,
        sets=tuple(sets),
        ladders=tuple(
            ladder_of(table, one.serves, pops) for table, one in zip(tables, sets, strict=True)
        ),
        ends=tuple(np.cumsum([len(part[0]) for part in parts]).tolist()),
        generation=tables[0].meta.generation,
    )


def _candidates(evidence: Evidence, width: int) -> tuple[NDArray[Any], ...]:
    """Net, plen and demand of each prefix, and [n, width] POP, RTT and spread of its candidates."""
    n, line, column = _lines(evidence)
    first = np.flatnonzero(column == 0)
    shape = (n, width)
    pop, rtt, spread = np.full(shape, NOWHERE, np.int64), np.full(shape, np.inf), np.zeros(shape)
    pop[line, column] = evidence.pop
    rtt[line, column] = np.nan_to_num(evidence.rtt_us.astype(np.float64), nan=np.inf)
    spread[line, column] = np.nan_to_num(evidence.spread_us.astype(np.float64))
    demand = evidence.demand_bps[first].astype(np.float64)
    return evidence.net[first], evidence.plen[first], demand, pop, rtt, spread


def _lines(evidence: Evidence) -> tuple[int, Ints, Ints]:
    """How many prefixes there are, and of each row of the evidence its prefix and its rank."""
    rows = len(evidence.net)
    new = np.ones(rows, bool)
    new[1:] = (evidence.net[1:] != evidence.net[:-1]) | (evidence.plen[1:] != evidence.plen[:-1])
    line = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    return len(first), line, np.arange(rows) - first[line]


def whatif(base: Situation, change: Change) -> Account:
    """What the change does, at once and after replanning."""
    rtt = _rtt(base)
    now = _placement(base, rtt, base.fallen_over(base.said))
    changed = _changed(base, change)
    pinned = _pinned(changed, change.pins or {})
    said = changed.fallen_over(_obeyed(now.said, pinned))
    at_once = _placement(changed, rtt, said)
    replanned = _placement(changed, rtt, _replanned(changed, at_once.said, pinned))
    return Account(
        now,
        at_once,
        replanned,
        changed.capacity_bps,
        _flows(changed, rtt, now.said, at_once.said),
        _flows(changed, rtt, now.said, replanned.said),
    )


def _changed(base: Situation, change: Change) -> Situation:
    capacity, demand = base.capacity_bps.copy(), base.demand_bps.copy()
    for pop, value_bps in (change.capacity_bps or {}).items():
        capacity[base.pops.index(pop)] = value_bps
    for prefix, factor in (change.demand or {}).items():
        demand[inside(base.net, base.plen, prefix)] *= factor
    lost = np.array([pop in change.down for pop in base.pops])
    return replace(base, capacity_bps=capacity, demand_bps=demand, up=base.up & ~lost)


def _pinned(base: Situation, pins: Mapping[Prefix, str]) -> Ints:
    """[n], the POP that each prefix is pinned to; NOWHERE is free, or to a POP that cannot."""
    pinned, begin = np.full(len(base.net), NOWHERE), 0
    for ladder, end in zip(base.ladders, base.ends, strict=True):
        usable, rows = ladder.usable(base.up, base.drained), slice(begin, end)
        for prefix, pop in sorted(pins.items(), key=lambda pin: pin[0].length):
            number = base.pops.index(pop)
            if usable[number]:
                pinned[rows][inside(base.net[rows], base.plen[rows], prefix)] = number
        begin = end
    return pinned


def _obeyed(said: Answers, pinned: Ints) -> Answers:
    """The answers with each pinned prefix at its POP, before all that it had."""
    bound = pinned != NOWHERE
    if not bound.any():
        return said
    share = np.where(bound[:, None], 0.0, said.share)
    return Answers(
        np.column_stack([pinned, said.pop]), np.column_stack([bound.astype(np.float64), share])
    )


def inside(net: Net, plen: Plen, prefix: Prefix) -> Bools:
    """[n], which prefixes lie within one, or hold it."""
    family = (plen & np.uint8(IPV6_BIT)) == (prefix.plen & IPV6_BIT)
    last = last_of(net, plen)
    within: Bools = family & (net <= np.uint64(prefix.last)) & (last >= np.uint64(prefix.net))
    return within


def _replanned(base: Situation, present: Answers, pinned: Ints) -> Answers:
    """What each set's policy makes of it, all from one account of capacities."""
    shares, first, asked = present_shares(base.pop, present), 0, []
    for one, ladder, end in zip(base.sets, base.ladders, base.ends, strict=True):
        rows = slice(first, end)
        pop = base.pop[rows]
        here = (pop != NOWHERE) & ladder.usable(base.up, base.drained)[pop]
        held = (here & (pop == pinned[rows, None])).any(axis=1)
        here &= ~held[:, None] | (pop == pinned[rows, None])
        problem = Problem(
            pop=pop,
            cost_us=np.where(here, base.rtt_us[rows], np.inf),
            move_us=np.maximum(base.spread_us[rows], base.move_gain_us),
            demand_bps=base.demand_bps[rows],
            capacity_bps=base.capacity_bps * base.fill,
            present=shares[rows],
            terms=one.terms,
        )
        asked.append((one.policy, problem))
        first = end
    if base.exits is not None and all(policy == DEFAULT for policy, _ in asked):
        asked = [
            (policy, _with_links(base, one, end))
            for (policy, one), end in zip(asked, base.ends, strict=True)
        ]
    share = np.concatenate([one.assignment.share for one in solved(asked)])
    # A row in which nobody is usable names its fastest, and DNS nodes go on from there.
    share[~share.any(axis=1), 0] = 1.0
    rank = np.argsort(-share, axis=1, kind="stable")
    ranked = (np.take_along_axis(columns, rank, axis=1) for columns in (base.pop, share))
    return base.fallen_over(Answers(*ranked))


def _with_links(base: Situation, problem: Problem, end: int) -> Problem:
    """A set's problem with the links of its candidates; `end` is where its rows end."""
    assert base.exits is not None
    rows = np.arange(end - len(problem.pop), end)
    link = base.exits.through(rows, problem.pop)
    return replace(problem, link=link, link_bps=base.exits.capacity_bps * base.fill)


def _link_bps(base: Situation, said: Answers) -> F64:
    """[links], what answers send through each."""
    if base.exits is None:
        return np.zeros(0)
    line, column = np.nonzero(said.share > 0)
    link = base.exits.through(line, said.pop[line, column][:, None])[:, 0]
    weight = np.where(link != NOWHERE, said.share[line, column] * base.demand_bps[line], 0.0)
    total = np.bincount(np.maximum(link, 0), weight, len(base.exits.names))
    return np.asarray(total, np.float64)


def _over_bps(base: Situation, load: F64, link: F64) -> float:
    """For which there is no room: of each POP what is above its capacity, or its links'."""
    over = np.maximum(load - base.capacity_bps, 0.0)
    if base.exits is not None:
        above = np.maximum(link - base.exits.capacity_bps, 0.0)
        over = np.maximum(over, np.bincount(base.exits.pop, above, len(over)))
    return float(over.sum())


def _placement(base: Situation, rtt: "sparse.csr_matrix", said: Answers) -> Placement:
    """With the RTTs of `_rtt`, which no change changes."""
    load, whole = load_bps(said, base.demand_bps, len(base.pops)), float(base.demand_bps.sum())
    placed = _matrix(base, said)
    known = placed.multiply(rtt > 0)
    weight = float(base.demand_bps @ known.sum(axis=1).A1)
    latency = float(base.demand_bps @ placed.multiply(rtt).sum(axis=1).A1)
    nobody = base.said.share.any(axis=1) & ~said.share.any(axis=1)
    unserved = float(base.demand_bps[nobody].sum())
    link = _link_bps(base, said)
    over = _over_bps(base, load, link) + unserved
    return Placement(
        said,
        load,
        link,
        latency / weight if weight else np.nan,
        over / whole if whole else 0.0,
        unserved / whole if whole else 0.0,
    )


def _matrix(base: Situation, said: Answers) -> "sparse.csr_matrix":
    """[n, p], shares."""
    line, column = np.nonzero(said.share > 0)
    where = (line, said.pop[line, column])
    shape = (len(base.net), len(base.pops))
    return sparse.csr_matrix((said.share[line, column], where), shape)


def _rtt(base: Situation) -> "sparse.csr_matrix":
    """[n, p], RTT in microseconds; 0 is unknown."""
    line, column = np.nonzero((base.pop != NOWHERE) & np.isfinite(base.rtt_us))
    where = (line, base.pop[line, column])
    return sparse.csr_matrix((base.rtt_us[line, column], where), (len(base.net), len(base.pops)))


def _flows(base: Situation, rtt: "sparse.csr_matrix", before: Answers, after: Answers) -> Flows:
    """Between POPs: what a prefix takes from some it hands to others in proportion."""
    change = _matrix(base, after) - _matrix(base, before)
    gain, loss = change.maximum(0), (-change).maximum(0)
    gained = gain.sum(axis=1).A1
    weight = np.divide(base.demand_bps, gained, out=np.zeros(len(gained)), where=gained > 1e-9)
    spread = sparse.diags(weight) @ gain
    bps = (loss.T @ spread).tocoo()
    # Only where both ends are known is a difference known.
    known = rtt > 0
    both = (loss.multiply(known).T @ spread.multiply(known)).toarray()
    slower = (loss.multiply(known).T @ spread.multiply(rtt)).toarray()
    slower -= (loss.multiply(rtt).T @ spread.multiply(known)).toarray()
    source, target = bps.row.astype(np.int64), bps.col.astype(np.int64)
    measured = both[source, target]
    added = np.divide(
        slower[source, target], measured, out=np.full(len(source), np.nan), where=measured > 0
    )
    order = np.argsort(-bps.data, kind="stable")
    order = order[bps.data[order] > 1e-9 * max(float(base.demand_bps.sum()), 1.0)]
    return Flows(source[order], target[order], bps.data[order], added[order])
