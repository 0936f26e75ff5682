"""Rows of the table: ranked candidates with shares in 255ths, from an assignment."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.candidates import Candidates
from aggregator.solve import NOWHERE, Assignment, Problem, backups
from popsteer.names import Net, Plen, Prefix
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE

TENTH_MS_US = 100.0

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows8:
    """n rows of at most 8 candidates, and behind them one for each extra (pinned) prefix."""

    pop: NDArray[np.uint16]
    share: NDArray[np.uint8]
    rtt: NDArray[np.uint16]
    extra_net: Net
    extra_plen: Plen

    def pinned(
        self, prefix: Prefix, pop: int, inside: NDArray[np.int64], pops: tuple[str, ...]
    ) -> "Rows8":
        """With the rows `inside` a prefix, and the prefix itself, answered by one POP."""
        all_pop, all_share, all_rtt = self.pop.copy(), self.share.copy(), self.rtt.copy()
        for row in inside.tolist():
            others = [
                (p, r)
                for p, r in zip(all_pop[row].tolist(), all_rtt[row].tolist(), strict=True)
                if p not in {pop, NO_POP}
            ]
            own = all_rtt[row][all_pop[row] == pop]
            listed = [(pop, int(own[0]) if len(own) else NO_RTT), *others][:CANDIDATES_MAX]
            all_pop[row], all_share[row], all_rtt[row] = NO_POP, 0, NO_RTT
            all_share[row, 0] = SHARE_WHOLE
            for rank, (one, rtt) in enumerate(listed):
                all_pop[row, rank], all_rtt[row, rank] = one, rtt
        line_pop = np.full((1, CANDIDATES_MAX), NO_POP, np.uint16)
        line_share = np.zeros((1, CANDIDATES_MAX), np.uint8)
        line_pop[0, 0], line_share[0, 0] = pop, SHARE_WHOLE
        assert pop < len(pops)
        return replace(
            self,
            pop=np.concatenate([all_pop, line_pop]),
            share=np.concatenate([all_share, line_share]),
            rtt=np.concatenate([all_rtt, np.full((1, CANDIDATES_MAX), NO_RTT, np.uint16)]),
            extra_net=np.append(self.extra_net, np.uint64(prefix.net)),
            extra_plen=np.append(self.extra_plen, np.uint8(prefix.plen)),
        )


def ranked_rows(considered: Candidates, problem: Problem, assignment: Assignment) -> Rows8:
    """The eight best candidates of each prefix: those with a share, then the order of failover.

    Failover begins with the backup, which is chosen so that a dead POP's load is spread over the
    room that is left; then it is ranked by cost and the price of scarce capacity. POPs that
    cannot be used stand last.
    """
    n, k = considered.pop.shape
    price = assignment.price_us[np.maximum(considered.pop, 0)]
    worth = np.where(np.isfinite(problem.cost_us), considered.cost_us + price, np.inf)
    share = _whole_shares(assignment.share)
    unusable = ~np.isfinite(problem.cost_us)
    backup = backups(problem, assignment)[:, None] == np.arange(k)
    line = np.repeat(np.arange(n), k)
    order = np.lexsort(
        (
            np.nan_to_num(considered.cost_us, posinf=1e18).ravel(),
            np.nan_to_num(worth, posinf=1e18).ravel(),
            unusable.ravel(),
            ~backup.ravel(),
            -share.ravel(),
            (considered.pop == NOWHERE).ravel(),
            line,
        )
    ).reshape(n, k)[:, :CANDIDATES_MAX]
    pick = order - np.arange(n)[:, None] * k
    pop = np.take_along_axis(considered.pop, pick, 1)
    rtt = np.take_along_axis(considered.rtt_us, pick, 1)
    chosen_share = np.take_along_axis(share, pick, 1)
    # A row in which nothing is usable still names its fastest POP: the resolver may know better.
    chosen_share[chosen_share.sum(axis=1) == 0, 0] = SHARE_WHOLE
    known = pop != NOWHERE
    tenths = np.clip(np.nan_to_num(rtt, nan=0.0) / TENTH_MS_US, 0, NO_RTT - 1)
    return Rows8(
        _wide(np.where(known, pop, NO_POP), NO_POP, np.uint16),
        _wide(chosen_share, 0, np.uint8),
        _wide(np.where(known & np.isfinite(rtt), np.rint(tenths), NO_RTT), NO_RTT, np.uint16),
        np.zeros(0, np.uint64),
        np.zeros(0, np.uint8),
    )


def _whole_shares(share: F64) -> NDArray[np.int64]:
    """255ths that add up to 255, by largest remainders; at most eight candidates keep a share."""
    if share.shape[1] > CANDIDATES_MAX:
        least = np.sort(share, axis=1)[:, -CANDIDATES_MAX, None]
        share = np.where(share >= np.maximum(least, 1e-12), share, 0.0)
        first = np.cumsum(share > 0, axis=1) <= CANDIDATES_MAX
        share = np.where(first, share, 0.0)
    whole = share.sum(axis=1, keepdims=True)
    exact = np.divide(share, whole, out=np.zeros_like(share), where=whole > 0) * SHARE_WHOLE
    floor = np.floor(exact).astype(np.int64)
    missing = np.where(whole[:, 0] > 0, SHARE_WHOLE - floor.sum(axis=1), 0)
    rank = np.argsort(np.argsort(-(exact - floor), axis=1, kind="stable"), axis=1, kind="stable")
    whole_shares: NDArray[np.int64] = floor + (rank < missing[:, None])
    return whole_shares


def _wide(cells: NDArray[np.int64] | F64, empty: int, dtype: type[np.generic]) -> NDArray[Any]:
    """Padded to eight columns."""
    missing = CANDIDATES_MAX - cells.shape[1]
    padded = np.pad(cells, ((0, 0), (0, max(0, missing))), constant_values=empty)
    return padded.astype(dtype)
