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

from aggregator.compare import Answers
from popsteer.clock import SECOND_MS
from popsteer.names import Net, Plen

REGRET_US = 500.0
"""Demand-weighted, so much slower than the answers before is no noise any more."""
STAY_S = 300.0
"""How long prefixes whose move was regretted stay where they are."""

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
    """m prefixes that moved for gain, and between which POPs. POPs in numbers of the fleet."""

    since_ms: int
    net: Net
    plen: Plen
    demand_bps: F64
    old: Answers
    new: Answers


@dataclass(frozen=True, slots=True)
class Rollout:
    """Where the rollout stands; each step gives the next one."""

    mode: Mode = Mode.ALL
    share: float = 0.1
    """Of the prefixes that move for gain."""
    above: float = 0.03
    """A table that moves less of the demand for gain needs no canary."""
    trial: Trial | None = None
    regretted: dict[tuple[int, int], int] = field(default_factory=dict)
    """Until when each prefix (net, plen) stays, in epoch ms."""

    def may_move(self, net: Net, plen: Plen, gain_bps: F64, whole_bps: float) -> Bools:
        """[n], which prefixes may move for gain now; `gain_bps` is the demand that wants to."""
        allowed = np.ones(len(net), bool)
        if self.regretted:
            keys = zip(net.tolist(), plen.tolist(), strict=True)
            allowed &= np.array([key not in self.regretted for key in keys], bool)
        if self.mode is Mode.CANARY and self.trial is None:
            wanted = float(gain_bps[allowed].sum())
            if wanted > self.above * whole_bps:
                allowed &= canaries(net, plen, self.share)
        return allowed

    def begun(self, trial: Trial) -> "Rollout":
        """After a table that moved these."""
        on_trial = self.mode is Mode.CANARY and len(trial.net) > 0 and self.trial is None
        return replace(self, trial=trial if on_trial else None)

    def judged(self, regret_us: float, now_ms: int) -> "Rollout":
        """After the trial was measured: either all may follow, or its prefixes go back and stay."""
        kept = {key: until for key, until in self.regretted.items() if until > now_ms}
        if self.trial is not None and regret_us > REGRET_US:
            until_ms = now_ms + int(STAY_S * SECOND_MS)
            keys = zip(self.trial.net.tolist(), self.trial.plen.tolist(), strict=True)
            kept |= dict.fromkeys(keys, until_ms)
        return replace(self, regretted=kept)


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
