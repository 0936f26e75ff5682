"""Rows of the table: ranked candidates with shares in 255ths, from an assignment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.backups import backups
from aggregator.candidates import Candidates
from aggregator.market import crew
from aggregator.solve import NOWHERE, Assignment, Problem
from popsteer.kernel import kernel
from popsteer.names import Net, Plen, Prefix
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE

TENTH_MS_US = 100.0

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rows8:
    """n rows of at most 8 candidates, and behind them one for each extra (pinned) prefix."""

    pop: NDArray[np.uint16]
    share: NDArray[np.uint8]
    rtt: NDArray[np.uint16]
    extra_net: Net
    extra_plen: Plen

    def with_default(self, default: Sequence[int]) -> "Rows8":
        """With the default order in rows that name nobody."""
        empty = self.pop[:, 0] == NO_POP
        if not empty.any():
            return self
        pop, order = self.pop.copy(), np.array(default[:CANDIDATES_MAX], np.uint16)
        pop[empty, : len(order)] = order
        return replace(self, pop=pop)

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
    n = len(considered)
    rows = Rows8(
        np.full((n, CANDIDATES_MAX), NO_POP, np.uint16),
        np.zeros((n, CANDIDATES_MAX), np.uint8),
        np.full((n, CANDIDATES_MAX), NO_RTT, np.uint16),
        np.zeros(0, np.uint64),
        np.zeros(0, np.uint8),
    )
    into = (rows.pop, rows.share, rows.rtt)
    costs = (considered.cost_us, problem.cost_us, considered.rtt_us)
    with crew() as workers:
        backup = backups(problem, assignment, workers)

        def rank(first: int, last: int) -> None:
            share = whole_shares(assignment.share[first:last])
            _rank(considered.pop, costs, assignment.price_us, share, backup, into, first)

        workers.each(n, rank)
    return rows


@kernel
def _rank(
    pop: Ints,
    costs: tuple[F64, F64, F64],
    price_us: F64,
    share: NDArray[np.int16],
    backup: NDArray[np.int16],
    into: tuple[NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint16]],
    first: int,
) -> None:
    """Writes the rows of a table from `first` on, for which there are shares.

    Shares decide, then who is the backup, then the worth; infinite worth is unusable.
    """
    cost, usable, rtt = costs
    into_pop, into_share, into_rtt = into
    k = pop.shape[1]
    ranked, grade, worth = np.empty(k, np.int64), np.empty(k, np.int64), np.empty(k)
    for row in range(first, first + len(share)):
        filled, whole = 0, 0
        for c in range(k):
            if pop[row, c] == NOWHERE:
                continue
            whole += share[row - first, c]
            grade[c] = 2 * share[row - first, c] + (c == backup[row])
            worth[c] = np.inf
            if usable[row, c] < np.inf:
                worth[c] = cost[row, c] + price_us[pop[row, c]]
            at = filled
            while at > 0:
                other = ranked[at - 1]
                if grade[c] != grade[other]:
                    ahead = grade[c] > grade[other]
                elif worth[c] != worth[other]:
                    ahead = worth[c] < worth[other]
                else:
                    ahead = cost[row, c] < cost[row, other]
                if not ahead:
                    break
                ranked[at] = other
                at -= 1
            ranked[at] = c
            filled += 1
        for rank in range(min(filled, into_pop.shape[1])):
            c = ranked[rank]
            into_pop[row, rank] = pop[row, c]
            into_share[row, rank] = share[row - first, c]
            if np.isfinite(rtt[row, c]):
                tenths = min(max(rtt[row, c] / TENTH_MS_US, 0.0), NO_RTT - 1.0)
                into_rtt[row, rank] = np.uint16(np.rint(tenths))
        # A row in which nothing is usable still names its fastest POP: the resolver may know
        # better.
        if whole == 0:
            into_share[row, 0] = SHARE_WHOLE


def whole_shares(share: F64) -> NDArray[np.int16]:
    """255ths that add up to 255, by largest remainders; at most eight candidates keep a share."""
    whole = np.zeros(share.shape, np.int16)
    _round_shares(share, whole)
    return whole


@kernel
def _round_shares(share: F64, whole: NDArray[np.int16]) -> None:
    n, k = share.shape
    exact = np.zeros(k)
    for row in range(n):
        total = 0.0
        kept = _kept(share[row], exact)
        for c in range(k):
            total += exact[c]
        if kept == 0:
            continue
        missing = SHARE_WHOLE
        for c in range(k):
            exact[c] = exact[c] / total * SHARE_WHOLE
            whole[row, c] = int(np.floor(exact[c]))
            missing -= whole[row, c]
        for _ in range(missing):
            top = 0
            for c in range(1, k):
                # What was rounded up has a negative remainder now.
                if exact[c] - whole[row, c] > exact[top] - whole[row, top]:
                    top = c
            whole[row, top] += 1


@kernel
def _kept(share: F64, kept: F64) -> int:
    """Copies the eight largest shares, of equal ones the first, and gives how many there are."""
    kept[:] = 0.0
    count = 0
    while count < CANDIDATES_MAX:
        top = -1
        for c in range(len(share)):
            if share[c] > 0 and kept[c] == 0 and (top < 0 or share[c] > share[top]):
                top = c
        if top < 0:
            break
        kept[top] = share[top]
        count += 1
    return count
