"""The candidates of each prefix: its POPs by cost, measured or inferred from what is like them.

Estimates are long; a solver wants one row per prefix. A prefix for which no POP is known gets no
row: the table's wider prefix or default order answers it, which is the honest thing to say.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.estimate import Estimates
from aggregator.inference import Surroundings, inferred
from aggregator.prefixes import Prefixes, Rows
from aggregator.solve import NOWHERE
from popsteer.evidence import Source
from popsteer.kernel import kernel

CELLS_MAX = 24_000_000
"""Rows times candidates; with more rows each keeps fewer candidates, though never below 16."""
WIDTH_MIN = 16
RETRANSMIT_US = 1_000_000
"""What a lost packet costs a connection: the initial time-out of TCP (RFC 6298 section 2.1)."""
LOSSES_DOUBTED = 1.5
"""So many losses are taken for chance before loss counts as a property of the path."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """n prefixes with k columns each, cheapest first; padding has pop NOWHERE and infinite cost."""

    row: Rows
    """[n], rows of `Prefixes`, ascending."""
    pop: NDArray[np.int64]
    rtt_us: F64
    spread_us: F64
    cost_us: F64
    """RTT plus what its loss costs."""
    pair: NDArray[np.int64]
    """Which of `known` each is; NOWHERE in padding."""
    known: Estimates
    """The estimates, measured and inferred."""
    source: NDArray[np.uint8]
    """The `Source` of each, of padding MEASURED."""

    def __len__(self) -> int:
        return len(self.row)


def candidates(
    estimates: Estimates, prefixes: Prefixes, pops: int, around: Surroundings
) -> Candidates:
    """All prefixes of which an RTT is measured or can be inferred."""
    told = inferred(estimates, prefixes, pops, around)
    known = told.estimates
    cost = known.rtt_us + RETRANSMIT_US * _loss_beyond_chance(known)
    row = known.key // pops
    first = np.flatnonzero(np.append(True, row[1:] != row[:-1])) if len(row) else row
    bounds = np.append(first, len(row))
    n = len(first)
    # No wider than any row is: empty columns cost every later step as much as full ones.
    widest = int(np.diff(bounds).max(initial=0))
    width = int(min(widest, max(WIDTH_MIN, CELLS_MAX // max(n, 1))))
    pair = np.full((n, width), NOWHERE, np.int64)
    _cheapest(cost, bounds, pair)
    padding = pair == NOWHERE

    def spread_out(values: F64, empty: float) -> F64:
        cells = values[pair] if len(values) else np.empty(pair.shape)
        cells[padding] = empty
        return cells

    return Candidates(
        row[first],
        np.where(padding, NOWHERE, known.key[pair] % pops if n else pair),
        spread_out(known.rtt_us, np.nan),
        spread_out(known.spread_us, np.nan),
        spread_out(cost, np.inf),
        pair,
        known,
        np.where(padding, np.uint8(Source.MEASURED), told.source[pair])
        if n
        else pair.astype(np.uint8),
    )


@kernel
def _cheapest(cost: F64, bounds: NDArray[np.int64], pair: NDArray[np.int64]) -> None:
    """The pairs of each row, cheapest first, of equal ones the first; as many as there are columns.

    Row i has the pairs from `bounds[i]` to `bounds[i + 1]`.
    """
    n, width = pair.shape
    for row in range(n):
        filled = 0
        for one in range(bounds[row], bounds[row + 1]):
            at = filled
            while at > 0 and cost[one] < cost[pair[row, at - 1]]:
                at -= 1
            if at == width:
                continue
            filled = min(filled + 1, width)
            for moved in range(filled - 1, at, -1):
                pair[row, moved] = pair[row, moved - 1]
            pair[row, at] = one


def _loss_beyond_chance(estimates: Estimates) -> F64:
    """Loss that is significant: one probe lost among five proves nothing."""
    lost = np.maximum(estimates.loss * estimates.samples - LOSSES_DOUBTED, 0.0)
    share: F64 = lost / (estimates.samples + LOSSES_DOUBTED)
    return share
