"""The candidates of each prefix: its POPs by cost, measured or inferred from what is like them.

Estimates are long; a solver wants one row per prefix. A prefix for which no POP is known gets no
row: the table's wider prefix or default order answers it, which is the honest thing to say.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.estimate import Estimates
from aggregator.inference import Known
from aggregator.market import crew
from aggregator.prefixes import Rows
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
_MEASURED = int(Source.MEASURED)

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]
Columns = NDArray[Any]
"""float32, int32: at a million prefixes the memory that is written is what takes the time."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """n prefixes with k columns each, cheapest first; padding has pop NOWHERE and infinite cost."""

    row: Rows
    """[n], rows of `Prefixes`, ascending."""
    pop: NDArray[np.int64]
    rtt_us: Columns
    spread_us: Columns
    cost_us: Columns
    """RTT plus what its loss costs."""
    pair: Columns
    """Which of `known` each is; NOWHERE in padding."""
    known: Estimates
    """The estimates, measured and inferred."""
    source: NDArray[np.uint8]
    """The `Source` of each, of padding MEASURED."""

    def __len__(self) -> int:
        return len(self.row)


def candidates(told: Known, pops: int, serves: Bools | None = None) -> Candidates:
    """All prefixes of which an RTT is measured or inferred, with the POPs [p] that may serve.

    A prefix known from other POPs alone keeps its row, with nothing in it: rows are the same
    whoever serves.
    """
    first = _first_of_rows(told.estimates.key, pops)
    row, bounds = told.estimates.key[first] // pops, np.append(first, len(told.estimates))
    if serves is not None and not serves.all():
        told = told.of_pops(serves)
        bounds = np.searchsorted(told.estimates.key, np.append(row, row[-1:] + 1) * pops)
    known, n = told.estimates, len(row)
    # No wider than any row is: empty columns cost every later step as much as full ones.
    widest = int(np.diff(bounds).max(initial=1))
    width = int(min(widest, max(WIDTH_MIN, CELLS_MAX // max(n, 1))))
    pair, pop = np.empty((n, width), np.int32), np.empty((n, width), np.int64)
    cells = np.empty((3, n, width), np.float32)
    source = np.empty((n, width), np.uint8)
    given = (known.rtt_us, known.spread_us, known.samples, known.loss)

    def fill(begin: int, end: int) -> None:
        _cheapest(given, bounds, pair, cells[2], begin, end)
        _fill(known.key, pops, given, told.source, pair, pop, cells, source, begin, end)

    with crew() as workers:
        workers.each(n, fill)
    return Candidates(row, pop, cells[0], cells[1], cells[2], pair, known, source)


@kernel
def _first_of_rows(key: NDArray[np.int64], pops: int) -> NDArray[np.int64]:
    """Where the pairs of each prefix begin."""
    first = np.empty(len(key), np.int64)
    rows, beyond = 0, np.int64(-1)
    for at in range(len(key)):
        if key[at] >= beyond:
            first[rows] = at
            rows += 1
            beyond = (key[at] // pops + 1) * pops
    return first[:rows].copy()


@kernel
def _cheapest(
    given: tuple[Columns, Columns, Columns, Columns],
    bounds: NDArray[np.int64],
    pair: Columns,
    cost: Columns,
    begin: int,
    end: int,
) -> None:
    """The pairs of each row, cheapest first, of equal ones the first; as many as there are columns.

    Row i has the pairs from `bounds[i]` to `bounds[i + 1]`.
    """
    rtt, _, samples, loss = given
    width = pair.shape[1]
    for row in range(begin, end):
        filled = 0
        for one in range(bounds[row], bounds[row + 1]):
            # Loss counts that is significant: one probe lost among five proves nothing.
            lost = max(loss[one] * samples[one] - LOSSES_DOUBTED, 0.0)
            own = np.float32(rtt[one] + RETRANSMIT_US * lost / (samples[one] + LOSSES_DOUBTED))
            at = filled
            while at > 0 and own < cost[row, at - 1]:
                at -= 1
            if at == width:
                continue
            filled = min(filled + 1, width)
            for moved in range(filled - 1, at, -1):
                pair[row, moved] = pair[row, moved - 1]
                cost[row, moved] = cost[row, moved - 1]
            pair[row, at] = one
            cost[row, at] = own
        pair[row, filled:] = NOWHERE
        cost[row, filled:] = np.inf


@kernel
def _fill(
    key: NDArray[np.int64],
    pops: int,
    given: tuple[Columns, Columns, Columns, Columns],
    sources: NDArray[np.uint8],
    pair: Columns,
    pop: Columns,
    cells: Columns,
    source: NDArray[np.uint8],
    begin: int,
    end: int,
) -> None:
    """The columns of pairs that are known already."""
    rtt, spread, _, _ = given
    base = np.int64(0)
    for row in range(begin, end):
        for c in range(pair.shape[1]):
            one = pair[row, c]
            if one == NOWHERE:
                pop[row, c] = NOWHERE
                cells[0, row, c] = cells[1, row, c] = np.nan
                source[row, c] = _MEASURED
                continue
            if c == 0:
                base = key[one] // pops * pops
            pop[row, c] = key[one] - base
            cells[0, row, c] = rtt[one]
            cells[1, row, c] = spread[one]
            source[row, c] = sources[one]
