"""Failover: who answers while POPs are away, as DNS nodes work it out for themselves.

The ranks of a row, from the one that holds the share and round; where none of them can serve, the
default order of the table; where that has nobody either, whoever is only drained. The rule is
`resolver.route`, a property test holds this to it. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers
from aggregator.solve import NOWHERE
from popsteer.table import Table

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def fallen_over(said: Answers, usable: Bools, last: int = NOWHERE) -> Answers:
    """The answers as DNS nodes give them: shares of unusable POPs are with the next usable rank.

    Whoever was moved by a failure is moved again only for a gain. Rows in which nobody is usable
    go to the POP `last`, in a column more, or with NOWHERE to nobody.
    """
    lost = (said.share > 0) & ~((said.pop >= 0) & usable[said.pop])
    rows = np.flatnonzero(lost.any(axis=1))
    if not len(rows):
        return said
    share, able = said.share.copy(), (said.pop[rows] >= 0) & usable[said.pop[rows]]
    ranks, homeless = said.pop.shape[1], np.zeros(len(rows))
    for start in range(ranks):
        left = np.where(lost[rows, start], share[rows, start], 0.0)
        share[rows, start] -= left
        for step in range(1, ranks):
            rank = (start + step) % ranks
            share[rows, rank] += np.where(able[:, rank], left, 0.0)
            left = np.where(able[:, rank], 0.0, left)
        homeless += left
    if last == NOWHERE or not homeless.any():
        return Answers(said.pop, share)
    beyond, part = np.full((len(share), 1), NOWHERE), np.zeros((len(share), 1))
    beyond[rows, 0], part[rows, 0] = np.where(homeless > 0, last, NOWHERE), homeless
    return Answers(np.hstack([said.pop, beyond]), np.hstack([share, part]))


@dataclass(frozen=True, slots=True)
class Ladder:
    """Who may stand in for whom in one set of answers."""

    serves: Bools
    """[p]"""
    default: Ints
    """The default order of its table."""

    def usable(self, up: Bools, drained: Bools) -> Bools:
        """[p], who is asked: nobody drained, unless nobody else is up."""
        free: Bools = self.serves & up & ~drained
        return free if free.any() else self.serves & up

    def fallen_over(self, said: Answers, up: Bools, drained: Bools) -> Answers:
        """The answers while these POPs are up and drained; nobody has what nobody can take."""
        usable = self.usable(up, drained)
        if (usable & drained).any():
            # The last resort goes down the ranks from the first, whatever the shares.
            said = _from_the_first(said)
        left = self.default[usable[self.default]]
        return fallen_over(said, usable, int(left[0]) if len(left) else NOWHERE)


def _from_the_first(said: Answers) -> Answers:
    """The same ranks with all of each row at the first."""
    share = np.zeros_like(said.share)
    share[:, 0] = said.share.sum(axis=1)
    return Answers(said.pop, share)


def ladder_of(table: Table, serves: Bools, pops: Sequence[str]) -> Ladder:
    """Of a set's own table, in the numbers of `pops`."""
    place = {pop: number for number, pop in enumerate(pops)}
    default = [place[pop] for pop in table.meta.default if pop in place]
    return Ladder(serves, np.array([one for one in default if serves[one]], np.int64))
