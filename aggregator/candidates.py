"""The candidates of each prefix: its POPs by cost, measured or inferred from a wider prefix.

Estimates are long; a solver wants one row per prefix. A prefix for which no POP is known gets no
row: the table's wider prefix or default order answers it, which is the honest thing to say.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.estimate import Estimates
from aggregator.prefixes import UNKNOWN, Prefixes, Rows
from aggregator.solve import NOWHERE

CELLS_MAX = 24_000_000
"""Rows times candidates; with more rows each keeps fewer candidates, though never below 16."""
WIDTH_MIN = 16
INFERRED_SPREAD = 0.5
"""An RTT taken from a wider prefix is doubted by this share of itself on top."""
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
    samples: F64
    age_s: F64
    loss: F64
    cost_us: F64
    """RTT plus what its loss costs."""
    inferred: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.row)


def candidates(estimates: Estimates, prefixes: Prefixes, pops: int) -> Candidates:
    """All prefixes with an estimate, or inside a prefix with one."""
    full, inferred = _inferred(estimates, prefixes, pops)
    cost = full.rtt_us + RETRANSMIT_US * _loss_beyond_chance(full)
    pair_row = full.key // pops
    order = np.lexsort((full.key, cost, pair_row))
    row, at = np.unique(pair_row, return_index=True)
    line = np.searchsorted(row, pair_row[order])
    column = np.arange(len(order)) - at[line]
    # No wider than any row is: empty columns cost every later step as much as full ones.
    widest = int(column.max(initial=0)) + 1
    width = int(min(widest, max(WIDTH_MIN, CELLS_MAX // max(len(row), 1))))
    keep = column < width
    into, taken = (line[keep], column[keep]), order[keep]

    def spread_out(values: F64, empty: float) -> F64:
        cells = np.full((len(row), width), empty)
        cells[into] = values[taken]
        return cells

    pop = spread_out((full.key % pops).astype(np.float64), NOWHERE).astype(np.int64)
    return Candidates(
        row,
        pop,
        spread_out(full.rtt_us, np.nan),
        spread_out(full.spread_us, np.nan),
        spread_out(full.samples, 0.0),
        spread_out(full.age_s, np.nan),
        spread_out(full.loss, np.nan),
        spread_out(cost, np.inf),
        spread_out(inferred.astype(np.float64), 0.0) > 0,
    )


def _loss_beyond_chance(estimates: Estimates) -> F64:
    """Loss that is significant: one probe lost among five proves nothing."""
    lost = np.maximum(estimates.loss * estimates.samples - LOSSES_DOUBTED, 0.0)
    share: F64 = lost / (estimates.samples + LOSSES_DOUBTED)
    return share


def _inferred(
    estimates: Estimates, prefixes: Prefixes, pops: int
) -> tuple[Estimates, NDArray[np.bool_]]:
    """The estimates with those of the wider prefix where a prefix has none of its own."""
    every = np.arange(len(prefixes))
    parent = prefixes.covering(every)
    children = every[parent != UNKNOWN]
    measured = np.zeros(len(estimates), bool)
    if not len(children):
        return estimates, measured
    parents = parent[children]
    first = np.searchsorted(estimates.key, parents * pops)
    last = np.searchsorted(estimates.key, (parents + 1) * pops)
    count = last - first
    source = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    key = np.repeat(children, count) * pops + estimates.key[source] % pops
    new = ~np.isin(key, estimates.key)
    key, source = key[new], source[new]
    order = np.argsort(np.concatenate([estimates.key, key]), kind="stable")

    def joined(own: F64, taken: F64) -> F64:
        return np.concatenate([own, taken])[order]

    rtt = estimates.rtt_us
    doubted = estimates.spread_us[source] + INFERRED_SPREAD * rtt[source]
    return (
        Estimates(
            np.concatenate([estimates.key, key])[order],
            joined(rtt, rtt[source]),
            joined(estimates.spread_us, doubted),
            joined(estimates.samples, np.zeros(len(key))),
            joined(estimates.age_s, estimates.age_s[source]),
            joined(estimates.loss, estimates.loss[source]),
        ),
        np.concatenate([measured, np.ones(len(key), bool)])[order],
    )
