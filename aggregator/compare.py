"""What a table says of given prefixes, and how two tables differ, in demand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from popsteer.intervals import last_of
from popsteer.kernel import kernel
from popsteer.names import IPV6_BIT, Net, Plen
from popsteer.table import CANDIDATES_MAX, NO_POP, SHARE_WHOLE, Table

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
    last = last_of(table.net, table.plen)
    _find_rows(table.net, last, table.ipv4_rows, net, plen, found)
    return found


@kernel
def _find_rows(
    row_net: Net, row_last: Net, ipv4_rows: int, net: Net, plen: Plen, found: NDArray[np.int64]
) -> None:
    """Binary searches that begin where the last one ended: prefixes mostly come in order."""
    here = 0
    for i in range(len(net)):
        low, high = (0, ipv4_rows) if plen[i] & IPV6_BIT == 0 else (ipv4_rows, len(row_net))
        if low <= here < high and row_net[here] <= net[i]:
            low = here
            step = 1
            while low + step < high and row_net[low + step] <= net[i]:
                low += step
                step *= 2
            high = min(high, low + step)
        # The last row that begins at or before the prefix.
        while low < high:
            middle = (low + high) // 2
            if row_net[middle] <= net[i]:
                low = middle + 1
            else:
                high = middle
        here = low - 1
        first = 0 if plen[i] & IPV6_BIT == 0 else ipv4_rows
        if here >= first and net[i] <= row_last[here]:
            found[i] = here
        here = max(here, 0)


def answers(table: Table | None, net: Net, plen: Plen, pops: tuple[str, ...]) -> Answers:
    """What a table answers, in the numbers of `pops`; POPs that are not among them are left out."""
    n = len(net)
    if table is None or not len(table):
        return Answers(np.full((n, 1), -1, np.int64), np.zeros((n, 1)))
    place = {pop: number for number, pop in enumerate(pops)}
    number = np.array([place.get(pop, -1) for pop in table.pops], np.int64)
    said = Answers(np.empty((n, CANDIDATES_MAX), np.int64), np.empty((n, CANDIDATES_MAX)))
    row = rows_of(table, net, plen)
    _say(row, number, table.pop, table.share, said.pop, said.share)
    return said


@kernel
def _say(
    row: NDArray[np.int64],
    number: NDArray[np.int64],
    table_pop: NDArray[np.uint16],
    table_share: NDArray[np.uint8],
    pop: NDArray[np.int64],
    share: F64,
) -> None:
    for i in range(len(row)):
        for rank in range(pop.shape[1]):
            pop[i, rank] = -1
            share[i, rank] = 0.0
            if row[i] == NO_ROW or table_pop[row[i], rank] == NO_POP:
                continue
            known = number[table_pop[row[i], rank]]
            if known >= 0:
                pop[i, rank] = known
                share[i, rank] = table_share[row[i], rank] / SHARE_WHOLE


def load_bps(said: Answers, demand_bps: F64, pops: int) -> F64:
    """[pops], the load that answers bring."""
    placed = said.share > 0
    weight = (said.share * demand_bps[:, None])[placed]
    total: F64 = np.bincount(said.pop[placed], weight, pops).astype(np.float64)
    return total


def moved(old: Answers, new: Answers) -> F64:
    """[n], the share of each prefix's demand that goes elsewhere; 0 where `old` had no answer."""
    change = np.empty(len(old.pop))
    _move(old.pop, old.share, new.pop, new.share, change)
    return change


@kernel
def _move(
    old_pop: NDArray[np.int64],
    old_share: F64,
    new_pop: NDArray[np.int64],
    new_share: F64,
    change: F64,
) -> None:
    for row in range(len(change)):
        had, overlap = 0.0, 0.0
        for i in range(old_pop.shape[1]):
            had += old_share[row, i]
            if old_pop[row, i] < 0 or old_share[row, i] == 0:
                continue
            for j in range(new_pop.shape[1]):
                if old_pop[row, i] == new_pop[row, j]:
                    overlap += min(old_share[row, i], new_share[row, j])
        change[row] = max(had - overlap, 0.0)


def present_shares(pop: NDArray[np.int64], said: Answers) -> F64:
    """[n, k], the shares that answers give, on the columns of candidates `pop`."""
    present = np.zeros(pop.shape)
    _place(pop, said.pop, said.share, present)
    return present


@kernel
def _place(
    pop: NDArray[np.int64], said_pop: NDArray[np.int64], said_share: F64, present: F64
) -> None:
    for row in range(len(pop)):
        for rank in range(said_pop.shape[1]):
            if said_pop[row, rank] < 0 or said_share[row, rank] == 0:
                continue
            for column in range(pop.shape[1]):
                if pop[row, column] == said_pop[row, rank]:
                    present[row, column] += said_share[row, rank]
