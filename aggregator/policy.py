"""Policies: how prefixes are assigned to POPs, as functions in a dict.

A policy takes a problem and gives an assignment; what it is called in the configuration of a
service is its key in `POLICIES`. Most are put together from small parts:

- a filter says which candidates may be chosen; one that leaves a prefix nothing is passed over,
- a sorter gives the worth of each candidate, in microseconds or what stands for them, least first,
- a placement turns the two into shares: all to the first, by weights, or as capacities allow.

The load loop sheds under every policy (see `aggregator.control`); `ADDITIVE` are those for which
it sheds by FastRoute's steps. Whatever the policy, DNS nodes skip POPs that are down.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from aggregator.gathering import gathered
from aggregator.optimum import optimum
from aggregator.solve import NOWHERE, Assignment, Problem, greedy
from aggregator.terms import Terms, even
from popsteer.geo import FIBRE_KM_PER_RTT_MS

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

Policy = Callable[[Problem], Assignment]
Filter = Callable[[Problem], Bools]
"""Gives [n, k], the candidates that may be chosen."""
Sorter = Callable[[Problem], F64]
"""Gives [n, k], least is best."""

US_PER_KM = 1e3 / FIBRE_KM_PER_RTT_MS
BAND_HELD = 1.5
"""A candidate in use stays in the band up to so many times its width."""
PRICE_FIRST = 1e9
"""Any difference of price outweighs every RTT."""
SHARES_MAX = 8
"""Candidates that share a prefix: as many as a row of the table has."""


def known(problem: Problem) -> Bools:
    """Filter: every candidate, up or not."""
    there: Bools = problem.pop != NOWHERE
    return there


def usable(problem: Problem) -> Bools:
    """Filter: POPs that are up, not drained, and serve."""
    return np.isfinite(problem.cost_us)


def in_band(problem: Problem) -> Bools:
    """Filter: usable POPs no farther than the band from the fastest one.

    One that is in use may be a little farther, so that noise at the edge moves nobody.
    """
    cost, band_us = problem.cost_us, _terms(problem).band_ms * 1e3
    fastest = cost.min(axis=1, initial=np.inf, keepdims=True)
    edge = fastest + band_us * np.where(problem.present > 0, BAND_HELD, 1.0)
    near: Bools = usable(problem) & (cost <= edge)
    return near


def by_rtt(problem: Problem) -> F64:
    """Sorter: RTT and what loss costs."""
    return problem.cost_us


def by_distance(problem: Problem) -> F64:
    """Sorter: the RTT of light along the great circle; by RTT where no location is known."""
    km = _terms(problem).km
    if km is None:
        return problem.cost_us
    light_us = US_PER_KM * km
    # Unplaced candidates come last, in the order of their RTT.
    return np.where(np.isnan(light_us), 1e9 + problem.cost_us, light_us)


def by_biased_distance(problem: Problem) -> F64:
    """Sorter: distance, made shorter by a POP's positive bias and longer by a negative one.

    A bias of 50 makes a POP attract from twice as far, one of -50 from half as far.
    """
    bias = _of_pop(problem, _terms(problem).bias) / 100
    factor = np.where(bias >= 0, 1 - bias, 1 / (1 + bias))
    return by_distance(problem) * factor


def by_order(problem: Problem) -> F64:
    """Sorter: the order of the configuration."""
    return problem.pop.astype(np.float64)


def by_price(problem: Problem) -> F64:
    """Sorter: what traffic costs at the POP; RTT decides between equal ones."""
    return _of_pop(problem, _terms(problem).cost) * PRICE_FIRST + problem.cost_us


def first(allowed: Filter, sorter: Sorter, sticky: bool = False) -> Policy:
    """Placement: each prefix goes to its best candidate, whatever the load.

    `sticky` is for measured sorters: a prefix moves only for what moving is worth.
    """

    def place(problem: Problem) -> Assignment:
        unlimited = np.full(len(problem.capacity_bps), np.inf)
        return greedy(_sorted(problem, allowed, sorter, sticky, unlimited))

    return place


def capped(allowed: Filter, sorter: Sorter) -> Policy:
    """Placement: the best candidate that has room, those with most to lose first."""

    def place(problem: Problem) -> Assignment:
        return greedy(_sorted(problem, allowed, sorter, True, problem.capacity_bps))

    return place


def weighted(allowed: Filter) -> Policy:
    """Placement: shares in proportion to the POPs' weights, among the nearest eight."""

    def place(problem: Problem) -> Assignment:
        here = _left(problem, allowed)
        rank = np.cumsum(here, axis=1)
        weight = np.where(
            here & (rank <= SHARES_MAX), _of_pop(problem, _terms(problem).weight), 0.0
        )
        whole = weight.sum(axis=1, keepdims=True)
        share = np.divide(weight, whole, out=np.zeros_like(weight), where=whole > 0)
        load = np.zeros(len(problem.capacity_bps))
        np.add.at(load, problem.pop, share * problem.demand_bps[:, None])
        return Assignment(share, load, np.zeros(len(load)), np.nan)

    return place


def unsplit(policy: Policy) -> Policy:
    """The policy, but it splits only prefixes that are heavy for their POPs."""
    return lambda problem: gathered(problem, policy(problem))


def _sorted(
    problem: Problem, allowed: Filter, sorter: Sorter, sticky: bool, capacity_bps: F64
) -> Problem:
    """The problem in which a candidate costs what the sorter says, if the filter leaves it."""
    cost = np.where(_left(problem, allowed), sorter(problem), np.inf)
    move = problem.move_us if sticky else np.zeros_like(problem.move_us)
    return replace(problem, cost_us=cost, move_us=move, capacity_bps=capacity_bps)


def _left(problem: Problem, allowed: Filter) -> Bools:
    """What a filter leaves; where that is nothing, what is usable."""
    here = allowed(problem) & (problem.pop != NOWHERE)
    left: Bools = np.where(here.any(axis=1, keepdims=True), here, usable(problem))
    return left


def _terms(problem: Problem) -> Terms:
    return problem.terms or even(len(problem.capacity_bps))


def _of_pop(problem: Problem, values: F64) -> F64:
    """[n, k], a POP's value at its candidates."""
    there: F64 = values[np.maximum(problem.pop, 0)]
    return there


POLICIES: dict[str, tuple[str, Policy]] = {
    "optimum": ("optimum by prices", unsplit(optimum)),
    "greedy": ("capacity-aware greedy", capped(usable, by_rtt)),
    "nearest": ("nearest RTT", first(usable, by_rtt, sticky=True)),
    "fastroute": ("nearest RTT, shed by steps", first(usable, by_rtt, sticky=True)),
    "latency-band": ("weights within a band of RTT", weighted(in_band)),
    "cost-aware": ("cheapest traffic within a band of RTT", first(in_band, by_price, sticky=True)),
    "weighted": ("weights", weighted(usable)),
    "failover": ("first POP that is up", first(usable, by_order)),
    "geographic": ("nearest by distance", first(usable, by_distance)),
    "geoproximity": ("nearest by distance with bias", first(usable, by_biased_distance)),
    "static": ("nearest by distance, up or not", first(known, by_distance)),
}
"""By the name in the configuration: what it really is, for the table's metadata, and how."""

DEFAULT = "optimum"
"""With no service configured."""
BY_LOCATION = frozenset({"geographic", "geoproximity", "static"})
"""Policies that need to know where prefixes and POPs are."""
ADDITIVE = frozenset({"fastroute"})
"""Policies whose POPs shed by constant steps on their own load."""
