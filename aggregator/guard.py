"""The guard: judges every new table against the one in force, before it is published.

A table that would be a disaster is refused and kept with the reason; the last good one goes on
serving. The rules are a list, each a name and a test; a table passes when no rule objects. What
an operator or a failure forces (a POP is down, drained or full) may move demand freely; what only
the measurements want may not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import NO_ROW, Answers, load_bps, moved, rows_of
from popsteer.clock import age_s
from popsteer.table import Table

COVERAGE_MIN = 0.8
"""Of the demand that the old table answered, and of its rows, so much must have an answer by the
new one. It gives way while tables are refused: targets may really have become fewer."""
ONE_POP_MAX = 0.9
"""Share of demand at one POP, when there are several that could take it and it was not there
before. It gives way while tables are refused: most users may really live around one POP."""
MOVED_MAX = 0.5
"""Share of demand that may move for no other reason than measurements."""
STALE_S_MAX = 180.0
OLDER_S_MAX = 30.0
"""By no more than this may the newest measurement be older than that of the table in force: a
planner that slept is not to speak of yesterday."""
FASTER_FACTOR = 0.4
FASTER_MAX = 0.3
"""No more than this share of demand may find its RTT fallen to less than the factor at once."""
CAPACITY_FACTOR_MAX = 20.0
"""A capacity that rose by more is a slip of the unit until it is raised in steps. One that fell
by more may be true: that gives way while tables are refused."""
SOURCES_MIN = 0.5
"""Share of the POPs with measurements, against the last good table."""
RISK_MAX = 0.25
"""Share of demand for which the loss of a POP may find no room beyond what it finds none for now.
It gives way while tables are refused: with N+1 alone against it, a table must not wait for ever."""


F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Risk:
    """N+1: the loss, of the fullest POPs, that the new table makes worst."""

    pop: str
    before: float
    """Share of demand without room when it is lost, by the table in force; infinite without one."""
    after: float
    """By the new one."""
    allowed: float = RISK_MAX
    """How much more `after` may be."""


@dataclass(frozen=True, slots=True)
class Case:
    """What the rules look at. Arrays are over the same n prefixes."""

    now_ms: int
    old: Table | None
    new: Table
    demand_bps: F64
    before: Answers
    after: Answers
    excused: F64
    """[n], share of each prefix that had to move: its POP is down, drained, pinned or too full."""
    rtt_ratio: F64
    """[n], estimate for the cheapest POP over what the last good table took; NaN is unknown."""
    pops_usable: int
    pops_all: int
    capacity_rise: float
    """The greatest factor of any POP, against the last good table; 1 is unchanged."""
    capacity_fall: float
    """The greatest factor by which one became less."""
    measured_pops: int
    measured_pops_before: float
    """It gives way while tables are refused."""
    one_pop_meant: bool = False
    """The policy sends everybody to one POP while that is up."""
    pinned: Bools | None = None
    """[n], prefixes that an operator's order binds to one POP."""
    risk: Risk | None = None
    """Of all services together."""
    coverage_min: float = COVERAGE_MIN
    one_pop_max: float = ONE_POP_MAX
    capacity_fall_max: float = CAPACITY_FACTOR_MAX


@dataclass(frozen=True, slots=True)
class Verdict:
    """Published or refused."""

    rule: str
    """The rule that objects; empty when none does."""
    reason: str
    """For a person: what was found, with numbers."""

    @property
    def good(self) -> bool:
        """Whether the table may be published."""
        return not self.rule


Rule = Callable[[Case], str]


def judge(case: Case) -> Verdict:
    """The first rule that objects, or a good verdict."""
    for name, rule in RULES.items():
        reason = rule(case)
        if reason:
            return Verdict(name, reason)
    return Verdict("", "")


def _empty(case: Case) -> str:
    return "" if len(case.new) else "the table has no rows"


def _replayed(case: Case) -> str:
    if case.old is None or case.new.meta.generation > case.old.meta.generation:
        return ""
    return (
        f"generation {case.new.meta.generation} is not newer than "
        f"{case.old.meta.generation}, which is in force"
    )


def _all_down(case: Case) -> str:
    return "" if case.pops_usable else f"none of {case.pops_all} POPs is usable"


def _stale(case: Case) -> str:
    newest_ms = case.new.meta.window_last_ms
    age = age_s(newest_ms, case.now_ms)
    if age > STALE_S_MAX:
        return f"the newest measurement is {age:.0f} s old; at most {STALE_S_MAX:.0f} s"
    known_ms = case.old.meta.window_last_ms if case.old else 0
    older_s = age_s(newest_ms, known_ms)
    # What claims to be of the future says nothing.
    if older_s > OLDER_S_MAX and known_ms <= case.now_ms:
        return f"the newest measurement is {older_s:.0f} s older than that of the table in force"
    return ""


def _shrunken(case: Case) -> str:
    answered = case.before.share.sum(axis=1) > 0
    whole = float(case.demand_bps[answered].sum())
    still = float(case.demand_bps[answered & (case.after.share.sum(axis=1) > 0)].sum())
    if whole and still < case.coverage_min * whole:
        return f"only {still / whole:.0%} of the demand that had an answer still has one"
    # Of prefixes that nothing is known of any more there is no demand either.
    if case.old is None or not len(case.old):
        return ""
    kept = float((rows_of(case.new, case.old.net, case.old.plen) != NO_ROW).mean())
    if kept >= case.coverage_min:
        return ""
    return f"only {kept:.0%} of the {len(case.old)} rows of the table in force still have an answer"


def _sources(case: Case) -> str:
    if case.measured_pops >= SOURCES_MIN * case.measured_pops_before:
        return ""
    return (
        f"{case.measured_pops} POPs have measurements; "
        f"the table in force rests on {case.measured_pops_before:.0f}"
    )


def _one_pop(case: Case) -> str:
    if case.pops_usable < 3 or case.one_pop_meant:
        return ""
    free = ~case.pinned if case.pinned is not None else np.ones(len(case.demand_bps), bool)
    share = _shares(case.after, case.demand_bps * free, len(case.new.pops))
    top = int(share.argmax())
    before = _shares(case.before, case.demand_bps, len(case.new.pops))
    if share[top] <= case.one_pop_max or before[top] > ONE_POP_MAX:
        return ""
    return f"{share[top]:.0%} of the demand would go to {case.new.pops[top]} alone"


def _shares(said: Answers, demand_bps: F64, pops: int) -> F64:
    """[p], of all demand."""
    load, whole = load_bps(said, demand_bps, pops), float(demand_bps.sum())
    return load / whole if whole else np.zeros(pops)


def _capacity(case: Case) -> str:
    if case.capacity_rise > CAPACITY_FACTOR_MAX:
        return (
            f"the capacity of a POP rose {case.capacity_rise:.4g} times; is its unit right? "
            f"If it is, raise it in steps of less than {CAPACITY_FACTOR_MAX:.0f} times"
        )
    if case.capacity_fall > case.capacity_fall_max:
        return f"the capacity of a POP fell {case.capacity_fall:.4g} times; is its unit right?"
    return ""


def _poisoned(case: Case) -> str:
    whole = float(case.demand_bps.sum())
    fell = float(case.demand_bps[case.rtt_ratio < FASTER_FACTOR].sum())
    if not whole or fell <= FASTER_MAX * whole:
        return ""
    return (
        f"{fell / whole:.0%} of the demand is drawn to where the RTT is said to have fallen "
        f"below {FASTER_FACTOR:.0%} of what it was: not believed"
    )


def _moved(case: Case) -> str:
    whole = float(case.demand_bps.sum())
    change = np.maximum(moved(case.before, case.after) - case.excused, 0.0)
    share = float((change * case.demand_bps).sum()) / whole if whole else 0.0
    if share <= MOVED_MAX:
        return ""
    return f"{share:.0%} of the demand would move for measurements alone; at most {MOVED_MAX:.0%}"


def _n_plus_one(case: Case) -> str:
    risk = case.risk
    if risk is None or risk.after <= risk.before + risk.allowed + _ordered_share(case):
        return ""
    return (
        f"if {risk.pop} were lost there would be no room for {risk.after:.0%} of the demand, by "
        f"the table in force for {risk.before:.0%}"
    )


def _ordered_share(case: Case) -> float:
    """Share of demand that goes where an operator says, who was told what that does."""
    whole = float(case.demand_bps.sum())
    if case.pinned is None or not whole:
        return 0.0
    return float(case.demand_bps[case.pinned].sum()) / whole


RULES: dict[str, Rule] = {
    "empty": _empty,
    "replayed": _replayed,
    "all POPs down": _all_down,
    "stale inputs": _stale,
    "sources silent": _sources,
    "shrunken coverage": _shrunken,
    "all to one POP": _one_pop,
    "capacity": _capacity,
    "poisoned": _poisoned,
    "moved": _moved,
    "N+1 overload": _n_plus_one,
}
"""By name, in the order of judgement."""
