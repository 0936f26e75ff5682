"""The difference of two tables, as the fewest prefixes whose answer changed.

Pure and vectorised. A client that no row covers has the default order as its answer, so a row
that vanished is a change only where the default says something else.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from popsteer.intervals import Ranges, Rows, blocks, last_of, merge
from popsteer.names import U64_MAX, Net, Plen
from popsteer.table import CANDIDATES_MAX, NO_POP, SHARE_WHOLE, Table, number_rows

_ONE = np.uint64(1)


@dataclass(frozen=True, slots=True)
class TableDiff:
    """d changed prefixes, disjoint and sorted, IPv4 first."""

    old: Table
    new: Table
    net: Net
    plen: Plen
    before: Rows
    """[d], row of the old table; -1 is its default order."""
    after: Rows
    """[d], row of the new table; -1 is its default order."""

    def __len__(self) -> int:
        return len(self.net)


class Move(NamedTuple):
    """Prefixes whose first POP changed from one to another."""

    before: str
    after: str
    prefixes: int


def diff(old: Table, new: Table) -> TableDiff:
    """What changed from one table to another; RTTs and scopes are no part of an answer."""
    old_answer, new_answer = _answers(old, new)
    parts = [_family(old, new, old_answer, new_answer, ipv6) for ipv6 in (False, True)]
    net, plen, before, after = (np.concatenate([part[i] for part in parts]) for i in range(4))
    return TableDiff(old, new, net, plen, before, after)


def moves(changed: TableDiff) -> list[Move]:
    """Where first choices went, the most prefixes first; other changes are left out."""
    names = _names(changed.old, changed.new)
    before = _columns(changed.old, names)[0][changed.before, 0]
    after = _columns(changed.new, names)[0][changed.after, 0]
    moved = before != after
    pairs, counts = np.unique(
        np.stack([before[moved], after[moved]], axis=1), axis=0, return_counts=True
    )
    listed = [
        Move(_name(names, a), _name(names, b), count)
        for (a, b), count in zip(pairs.tolist(), counts.tolist(), strict=True)
    ]
    return sorted(listed, key=lambda move: (-move.prefixes, move.before, move.after))


def _name(names: list[str], index: int) -> str:
    return "" if index == NO_POP else names[index]


def _names(old: Table, new: Table) -> list[str]:
    known = (*old.pops, *old.meta.default, *new.pops, *new.meta.default)
    return list(dict.fromkeys(known))


def _answers(old: Table, new: Table) -> tuple[Rows, Rows]:
    """A number for the answer of every row; the last one, index -1, is that of the default."""
    names = _names(old, new)
    both = [
        np.concatenate([pop, share], axis=1)
        for pop, share in (_columns(old, names), _columns(new, names))
    ]
    numbers = number_rows(np.concatenate(both))
    return numbers[: len(old) + 1], numbers[len(old) + 1 :]


def _columns(table: Table, names: list[str]) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """POPs as indices into `names`, and shares, with the default order as one more row."""
    index = {name: i for i, name in enumerate(names)}
    to_common = np.full(NO_POP + 1, NO_POP, np.uint16)
    to_common[: len(table.pops)] = [index[name] for name in table.pops]
    ranked = [index[name] for name in table.meta.default[:CANDIDATES_MAX]]
    default = np.full((1, CANDIDATES_MAX), NO_POP, np.uint16)
    default[0, : len(ranked)] = ranked
    whole = np.zeros((1, CANDIDATES_MAX), np.uint16)
    whole[0, 0] = SHARE_WHOLE if ranked else 0
    pop = np.concatenate([to_common[table.pop], default])
    return pop, np.concatenate([table.share.astype(np.uint16), whole])


def _family(
    old: Table, new: Table, old_answer: Rows, new_answer: Rows, ipv6: bool
) -> tuple[Net, Plen, Rows, Rows]:
    starts = [np.zeros(1, np.uint64)]
    for table in (old, new):
        rows = _rows(table, ipv6)
        last = last_of(table.net[rows], table.plen[rows])
        starts += [table.net[rows], last[last != U64_MAX] + _ONE]
    first = np.unique(np.concatenate(starts))
    last = np.append(first[1:] - _ONE, np.uint64(U64_MAX))
    before, after = _row_at(old, first, ipv6), _row_at(new, first, ipv6)
    from_answer, to_answer = old_answer[before], new_answer[after]
    changed = np.flatnonzero(from_answer != to_answer)
    pair = from_answer * np.int64(len(old_answer) + len(new_answer)) + to_answer
    ranges = merge(Ranges(first[changed], last[changed], changed), pair)
    net, plen, owner = blocks(ranges, ipv6)
    return net, plen.astype(np.uint8), before[owner], after[owner]


def _rows(table: Table, ipv6: bool) -> slice:
    return slice(table.ipv4_rows, len(table)) if ipv6 else slice(0, table.ipv4_rows)


def _row_at(table: Table, numbers: Net, ipv6: bool) -> Rows:
    """The row that covers each number, or -1."""
    rows = _rows(table, ipv6)
    net = table.net[rows]
    if not len(net):
        return np.full(len(numbers), -1, np.int64)
    at = np.searchsorted(net, numbers, side="right") - 1
    inside = (at >= 0) & (numbers <= last_of(net, table.plen[rows])[at])
    found: Rows = np.where(inside, at + rows.start, -1)
    return found
