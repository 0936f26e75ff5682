"""Writes down what a cycle considered, prefix by prefix: the evidence that `explain` reads."""

import numpy as np
from numpy.typing import NDArray

from aggregator.candidates import Candidates
from aggregator.prefixes import Prefixes, Rows
from aggregator.solve import NOWHERE, Assignment
from popsteer.evidence import Evidence
from popsteer.kernel import kernel

CANDIDATES_NAMED = 16
"""POPs per prefix that the evidence names; the dearest are left out."""

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


def evidence_of(
    generation: int,
    created_ms: int,
    pops: tuple[str, ...],
    prefixes: Prefixes,
    considered: Candidates,
    assignment: Assignment,
    demand_bps: F64,
    reason: NDArray[np.uint8],
) -> Evidence:
    """Long form; the placed and the cheapest candidates of each prefix, best first.

    `demand_bps` is [n] and `reason` [n, k], over the candidates' rows and columns.
    """
    k = considered.pop.shape[1]
    named = (considered.pop != NOWHERE) & (
        (np.arange(k) < CANDIDATES_NAMED) | (assignment.share > 0)
    )
    cell = np.empty(int(named.sum()), np.int64)
    _order(_lines_by_address(considered, prefixes), named, assignment.share, cell)
    row = cell // max(k, 1)
    prefix = considered.row[row]
    pop = considered.pop.ravel()[cell]
    pair = considered.pair.ravel()[cell]
    known = considered.known

    def of_pair(values: F64) -> NDArray[np.float32]:
        return values[pair].astype(np.float32)

    return Evidence(
        generation,
        created_ms,
        pops,
        prefixes.net[prefix],
        prefixes.plen[prefix],
        demand_bps.astype(np.float32)[row],
        pop.astype(np.uint16),
        of_pair(known.rtt_us),
        of_pair(known.spread_us),
        of_pair(known.samples),
        of_pair(known.age_s),
        of_pair(known.loss),
        assignment.price_us.astype(np.float32)[pop],
        reason.ravel()[cell],
        considered.source.ravel()[cell],
    )


def _lines_by_address(considered: Candidates, prefixes: Prefixes) -> Rows:
    """The candidates' lines, sorted by family, address and length."""
    order = prefixes.by_address()
    line = np.full(len(order), NOWHERE, np.int64)
    line[considered.row] = np.arange(len(considered))
    lines = line[order]
    found: Rows = lines[lines != NOWHERE]
    return found


@kernel
def _order(lines: Rows, named: NDArray[np.bool_], share: F64, cell: Ints) -> None:
    """The named cells, line by line, each by share and then by column."""
    k = named.shape[1]
    filled = 0
    for line in lines:
        first = filled
        for column in range(k):
            if not named[line, column]:
                continue
            at = filled
            while at > first and share[line, column] > share[line, cell[at - 1] % k]:
                cell[at] = cell[at - 1]
                at -= 1
            cell[at] = line * k + column
            filled += 1
