"""Rollout: a table that moves much for gain goes to some prefixes first, and back when it hurt.

Shadow, canary, all. In the shadow tables are judged and kept, and no DNS node loads them. As a
canary only a part of the prefixes that would move for gain move, chosen by hash; the others keep
their answers. A period later, with what was measured meanwhile, the canary's answers are compared
with the ones they replaced: without regret all may follow, with regret they go back and those
prefixes stay where they are for a while. Moves that a failure, an order or an overload forces are
never held up.

By prefix and not by DNS node: a resolver then gets the same answer from every node, and the
measurements of the canary's prefixes tell nothing but the canary. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers, load_bps, present_shares
from aggregator.solve import Assignment, Problem
from popsteer.clock import SECOND_MS
from popsteer.names import Net, Plen

REGRET_US = 500.0
"""Demand-weighted, so much slower than the answers before is no noise any more."""
STAY_S = 300.0
"""How long prefixes whose move was regretted stay where they are."""
ABOVE = 0.03
"""A table that moves less of the demand for gain needs no canary."""
MOVED_MIN = 0.01
"""A prefix of which less changes place has not moved."""

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Mode(StrEnum):
    """`plan.rollout`."""

    ALL = "all"
    """Every table that the guard lets through."""
    CANARY = "canary"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Trial:
    """m prefixes that moved for gain, and between which POPs."""

    net: Net
    plen: Plen
    demand_bps: F64
    old: Answers
    new: Answers


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where the rollout stands; each table gives the next one."""

    mode: Mode = Mode.ALL
    share: float = 0.1
    """Of the prefixes that move for gain."""
    trial: Trial | None = None
    regret_us: float = float("nan")
    """Of the trial, as it was measured; NaN while nothing is known of it."""
    regretted: dict[tuple[int, int], int] = field(default_factory=dict)
    """Until when each prefix (net, plen) stays, in epoch ms."""

    def judged(self, cost_us: Callable[[Trial, Answers], F64], now_ms: int) -> "Rollout":
        """With the trial measured: those that are regretted will stay where they were before.

        `cost_us` gives the cost of each cell of answers to the trial's prefixes, NaN where a pair
        is unknown.
        """
        stay = {key: until for key, until in self.regretted.items() if until > now_ms}
        if self.trial is None:
            return replace(self, regretted=stay)
        trial = self.trial
        regret = regret_us(trial, lambda said: cost_us(trial, said))
        if regret > REGRET_US:
            until_ms = now_ms + int(STAY_S * SECOND_MS)
            keys = zip(trial.net.tolist(), trial.plen.tolist(), strict=True)
            stay |= dict.fromkeys(keys, until_ms)
        return replace(self, regret_us=regret, regretted=stay)

    @property
    def goes_back(self) -> bool:
        """Whether the trial is regretted."""
        return self.trial is not None and self.regret_us > REGRET_US

    def may_move(self, net: Net, plen: Plen, gain_bps: F64, whole_bps: float) -> Bools:
        """[n], which prefixes may move for gain now; `gain_bps` is the demand that wants to."""
        allowed = np.ones(len(net), bool)
        if self.regretted:
            keys = zip(net.tolist(), plen.tolist(), strict=True)
            allowed &= np.array([key not in self.regretted for key in keys], bool)
        untried = self.mode is Mode.CANARY and (self.trial is None or self.goes_back)
        if untried and float(gain_bps[allowed].sum()) > ABOVE * whole_bps:
            allowed &= canaries(net, plen, self.share)
        return allowed


def staged(
    rollout: Rollout,
    problem: Problem,
    solved: Assignment,
    before: Answers,
    net: Net,
    plen: Plen,
) -> tuple[Assignment, Rollout]:
    """What of a solution is put in force now, and where the rollout stands then."""
    if rollout.mode is not Mode.CANARY:
        return solved, rollout
    moved = np.where(
        problem.present.any(axis=1),
        np.maximum(problem.present - solved.share, 0.0).sum(axis=1),
        0.0,
    )
    gains = (moved > MOVED_MIN) & ~_forced(problem)
    gain_bps = np.where(gains, moved * problem.demand_bps, 0.0)
    allowed = rollout.may_move(net, plen, gain_bps, float(problem.demand_bps.sum()))
    held = gains & ~allowed
    share = np.where(held[:, None], problem.present, solved.share)
    if rollout.goes_back:
        assert rollout.trial is not None
        share = _put_back(rollout.trial, problem, share, net, plen)
    begun = np.flatnonzero(gains & allowed) if (gains & ~allowed).any() else np.zeros(0, int)
    trial = Trial(
        net[begun],
        plen[begun],
        gain_bps[begun],
        Answers(before.pop[begun], before.share[begun]),
        Answers(problem.pop[begun], share[begun]),
    )
    load = load_bps(Answers(problem.pop, share), problem.demand_bps, len(solved.load_bps))
    after = replace(rollout, trial=trial if len(begun) else None, regret_us=float("nan"))
    return replace(solved, share=share, load_bps=load), after


def _forced(problem: Problem) -> Bools:
    """[n], prefixes at a POP that cannot serve them, or that is too full."""
    present = Answers(problem.pop, problem.present)
    load = load_bps(present, problem.demand_bps, len(problem.capacity_bps))
    full = load > problem.capacity_bps
    bad = np.logical_or(np.isinf(problem.cost_us), full[problem.pop])
    forced: Bools = np.any((problem.present > 0) & bad, axis=1)
    return forced


def _put_back(trial: Trial, problem: Problem, share: F64, net: Net, plen: Plen) -> F64:
    """The shares with the trial's prefixes where they were, as far as those POPs can serve."""
    place = {
        key: i for i, key in enumerate(zip(trial.net.tolist(), trial.plen.tolist(), strict=True))
    }
    found = np.array([place.get(key, -1) for key in zip(net.tolist(), plen.tolist(), strict=True)])
    rows = np.flatnonzero(found >= 0)
    old = Answers(trial.old.pop[found[rows]], trial.old.share[found[rows]])
    back = present_shares(problem.pop[rows], old)
    able = np.isfinite(problem.cost_us[rows]) | (back == 0)
    whole = able.all(axis=1) & (back.sum(axis=1) > 1 - MOVED_MIN)
    result = share.copy()
    result[rows[whole]] = back[whole]
    return result


def canaries(net: Net, plen: Plen, share: float) -> Bools:
    """[n], a fixed part of all prefixes, by a hash that knows nothing of where they are."""
    mixed = (net ^ plen.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    chosen: Bools = (mixed >> np.uint64(40)).astype(np.float64) < share * 2.0**24
    return chosen


def regret_us(trial: Trial, cost_us: Callable[[Answers], F64]) -> float:
    """How much slower the trial's answers are than those before, by what is known now.

    `cost_us` gives the cost of each cell of answers to the trial's prefixes, NaN where a pair is
    unknown; prefixes that rest on one count for nothing. Negative is a gain; NaN where nothing of
    the trial is known.
    """
    change = _mean_us(trial.new, cost_us(trial.new)) - _mean_us(trial.old, cost_us(trial.old))
    known = ~np.isnan(change)
    weight = trial.demand_bps[known]
    return float((weight * change[known]).sum() / weight.sum()) if weight.sum() else float("nan")


def _mean_us(said: Answers, cost_us: F64) -> F64:
    mean: F64 = np.where(said.share > 0, said.share * cost_us, 0.0).sum(axis=1)
    return mean


def note(rollout: Rollout, before: Rollout) -> str:
    """What people read of it; empty when there is nothing to say."""
    words = []
    if before.goes_back and before.trial is not None:
        went = f"{len(before.trial.net)} prefixes went back"
        words.append(f"{went} after a regret of {before.regret_us / 1e3:.1f} ms")
    if rollout.trial is not None:
        words.append(f"canary: {len(rollout.trial.net)} prefixes on trial")
    return "; ".join(words)
