"""Several sets of answers from one account of capacities: no service fills what another uses.

Policies that do not look at capacities come first, as nothing would change their mind; what they
leave is for the others. Sets of one and the same policy that does look are solved as one problem,
so that one yields a POP to another that has nowhere else to go. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers, load_bps
from aggregator.policy import POLICIES
from aggregator.solve import NOWHERE, Assignment, Problem

IN_TURN = ("greedy", "optimum")
"""Policies that look at capacities, in the order in which they are served: the optimum gives the
most for the room that is left."""

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Solved:
    """The answer to one of the problems."""

    problem: Problem
    """With the capacities that the other sets leave."""
    assignment: Assignment


def solved(asked: Sequence[tuple[str, Problem]]) -> list[Solved]:
    """An assignment for each (policy, problem); all problems have the same POPs and links."""
    if len(asked) == 1:
        name, problem = asked[0]
        return [Solved(problem, POLICIES[name][1](problem))]
    account = _Account(asked[0][1])
    found: dict[int, Assignment] = {}
    blind = [i for i, (name, _) in enumerate(asked) if name not in IN_TURN]
    turns = [[i] for i in blind]
    turns += [[i for i, (name, _) in enumerate(asked) if name == turn] for turn in IN_TURN]
    for turn in filter(None, turns):
        problem = account.left(_stacked([asked[i][1] for i in turn]))
        assignment = POLICIES[asked[turn[0]][0]][1](problem)
        for i, part in zip(turn, _parts(assignment, [asked[i][1] for i in turn]), strict=True):
            found[i] = part
            account.take(asked[i][1], part.share, 1.0)
    result = []
    for i, (_, problem) in enumerate(asked):
        account.take(problem, found[i].share, -1.0)
        result.append(Solved(account.left(problem), found[i]))
        account.take(problem, found[i].share, 1.0)
    return result


class _Account:
    """Owns what is taken of POPs and links."""

    def __init__(self, problem: Problem) -> None:
        links = 0 if problem.link_bps is None else len(problem.link_bps)
        self._pop_bps = np.zeros(len(problem.capacity_bps))
        self._link_bps = np.zeros(links)

    def take(self, problem: Problem, share: F64, sign: float) -> None:
        """Add what shares bring, or with a negative sign take it away again."""
        demand = sign * problem.demand_bps
        self._pop_bps += load_bps(Answers(problem.pop, share), demand, len(self._pop_bps))
        if problem.link is not None:
            through = np.where(problem.link != NOWHERE, share, 0.0)
            self._link_bps += load_bps(Answers(problem.link, through), demand, len(self._link_bps))

    def left(self, problem: Problem) -> Problem:
        """The problem with the capacities that are left."""
        links = problem.link_bps
        return replace(
            problem,
            capacity_bps=np.maximum(problem.capacity_bps - self._pop_bps, 0.0),
            link_bps=None if links is None else np.maximum(links - self._link_bps, 0.0),
        )


def _stacked(problems: Sequence[Problem]) -> Problem:
    """The problems as one, row under row, with padding where one has fewer columns."""
    first = problems[0]
    if len(problems) == 1:
        return first
    width = max(one.pop.shape[1] for one in problems)

    def under(name: str, empty: float) -> Any:
        columns = [getattr(one, name) for one in problems]
        wide = [((0, 0), (0, width - own.shape[1])) for own in columns]
        padded = map(partial(np.pad, constant_values=empty), columns, wide)
        return np.concatenate(list(padded))

    return replace(
        first,
        pop=under("pop", NOWHERE),
        cost_us=under("cost_us", np.inf),
        move_us=under("move_us", 0.0),
        demand_bps=np.concatenate([one.demand_bps for one in problems]),
        present=under("present", 0.0),
        link=None if first.link is None else under("link", NOWHERE),
        terms=None,
    )


def _parts(assignment: Assignment, problems: Sequence[Problem]) -> list[Assignment]:
    """Of a stack, each problem's own; a bound holds for the whole stack alone."""
    if len(problems) == 1:
        return [assignment]
    ends = np.cumsum([len(one.demand_bps) for one in problems])[:-1]
    shares = [
        share[:, : one.pop.shape[1]]
        for one, share in zip(problems, np.split(assignment.share, ends), strict=True)
    ]
    return [
        replace(
            assignment,
            share=share,
            load_bps=load_bps(Answers(one.pop, share), one.demand_bps, len(one.capacity_bps)),
            bound_us=np.nan,
            moving_bound_us=np.nan,
        )
        for one, share in zip(problems, shares, strict=True)
    ]
