"""What a table says of given prefixes, and how two tables differ, in demand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popsteer.intervals import last_of
from popsteer.names import IPV6_BIT, Net, Plen
from popsteer.table import NO_POP, SHARE_WHOLE, Table

NO_ROW = -1

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answers:
    """Of n prefixes: POP numbers [n, 8] (NO_POP is -1) and shares [n, 8] that add up to 1 or 0."""

    pop: NDArray[np.int64]
    share: F64


def rows_of(table: Table, net: Net, plen: Plen) -> NDArray[np.int64]:
    """The row that covers the start of each prefix, NO_ROW where none does."""
    found = np.full(len(net), NO_ROW, np.int64)
    split = table.ipv4_rows
    ipv6 = (plen & np.uint8(IPV6_BIT)) != 0
    last = last_of(table.net, table.plen)
    for family, low, high in ((False, 0, split), (True, split, len(table))):
        here = np.flatnonzero(ipv6 == family)
        at = np.searchsorted(table.net[low:high], net[here], side="right") - 1
        row = low + np.maximum(at, 0)
        covered = at >= 0
        covered[covered] = net[here][covered] <= last[row[covered]]
        found[here] = np.where(covered, row, NO_ROW)
    return found


def answers(table: Table | None, net: Net, plen: Plen, pops: tuple[str, ...]) -> Answers:
    """What a table answers, in the numbers of `pops`; POPs that are not among them are left out."""
    n = len(net)
    if table is None or not len(table):
        return Answers(np.full((n, 1), -1, np.int64), np.zeros((n, 1)))
    row = rows_of(table, net, plen)
    place = {pop: number for number, pop in enumerate(pops)}
    number = np.array([place.get(pop, -1) for pop in table.pops] + [-1], np.int64)
    pop = np.where(table.pop[row] == NO_POP, len(table.pops), table.pop[row]).astype(np.int64)
    known = number[pop]
    here = (row != NO_ROW)[:, None] & (known >= 0)
    share = np.where(here, table.share[row] / SHARE_WHOLE, 0.0)
    return Answers(np.where(here, known, -1), share)


def load_bps(said: Answers, demand_bps: F64, pops: int) -> F64:
    """[pops], the load that answers bring."""
    placed = said.share > 0
    weight = (said.share * demand_bps[:, None])[placed]
    total: F64 = np.bincount(said.pop[placed], weight, pops).astype(np.float64)
    return total


def moved(old: Answers, new: Answers) -> F64:
    """[n], the share of each prefix's demand that goes elsewhere; 0 where `old` had no answer."""
    overlap = np.zeros(len(old.pop))
    for i in range(old.pop.shape[1]):
        for j in range(new.pop.shape[1]):
            same = (old.pop[:, i] == new.pop[:, j]) & (old.pop[:, i] >= 0)
            overlap += np.where(same, np.minimum(old.share[:, i], new.share[:, j]), 0.0)
    had = old.share.sum(axis=1)
    change: F64 = np.where(had > 0, np.maximum(had - overlap, 0.0), 0.0)
    return change
