"""Instances for the solver: resolvers around metros, POPs in metros, links of POPs by provider.

Everything comes from the seed. POPs stand in metros whose sizes follow a power law, prefixes
around the same metros; RTT is distance times a path's detour, plus what the provider adds. A POP
has a few egress links and the provider decides which one a prefix's traffic takes. Demand is
Pareto distributed; rows too heavy for one answer are split, as shares of a weighted answer are.
Capacities follow what is near, but by far not exactly: the nearest POP is often full.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aggregator.market import Ints, Market, resource_numbers

METROS, CONTINENTS, PROVIDERS = 250, 7, 3_000
KM_PER_MS = 100.0
"""Light in fibre, there and back."""
EARTH_KM = 6_371.0
PARETO = 1.15
LARGEST_SHARE = 0.0025
"""Of all demand, the heaviest prefix."""
PIECE_SHARE = 0.000025
"""Of all demand, what a row is split to."""
CHUNK_ROWS = 50_000
BLOCK_ROWS = 5_000
"""Rows of which the distances to all POPs are in memory at a time."""
LINKS_MIN, LINKS_MAX = 2, 6

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shape:
    """How large an instance is and how full."""

    rows: int = 1_000_000
    pops: int = 600
    candidates: int = 8
    seed: int = 1
    utilisation: float = 0.75
    """Demand over the capacity of all POPs."""


def make_market(shape: Shape) -> Market:
    """An instance; POPs are the first resources, their links the others."""
    rng = np.random.default_rng(shape.seed)
    metro, weight = _metros(rng)
    at = np.concatenate([np.arange(METROS), rng.choice(METROS, shape.pops, p=weight)])
    pop_place = _vectors(metro[at[: shape.pops]] + rng.normal(0, 0.3, (shape.pops, 2)))
    links = rng.integers(LINKS_MIN, LINKS_MAX + 1, shape.pops)
    demand = _demand(shape.rows, rng)
    cost = np.empty((shape.rows, shape.candidates), np.float32)
    pop = np.empty(cost.shape, np.int64)
    link = np.empty(cost.shape, np.int64)
    paths = _Paths(pop_place, links, rng)
    for start in range(0, shape.rows, CHUNK_ROWS):
        part = slice(start, min(start + CHUNK_ROWS, shape.rows))
        home = rng.choice(METROS, part.stop - start, p=weight)
        place = _vectors(metro[home] + rng.normal(0, 1.5, (len(home), 2)))
        cost[part], pop[part], link[part] = paths.best(place, shape.candidates, rng)
    capacity = _capacity(shape, demand, pop, link, links, rng)
    pops, egress = (resource_numbers(number, len(capacity)) for number in (pop, link))
    return _split(Market(cost, pops, egress, demand.astype(np.float32), capacity))


def changed(market: Market, share: float, seed: int) -> Market:
    """A little later: a share of the rows and of the capacities is another.

    Half of the changed rows have other RTTs, all of them other demands; a changed capacity is a
    fifth smaller.
    """
    rng = np.random.default_rng(seed)
    row = np.flatnonzero(rng.random(len(market)) < share)
    demand, cost = market.demand.copy(), market.cost_us.copy()
    demand[row] *= rng.lognormal(0, 0.5, len(row)).astype(np.float32)
    slower = row[: len(row) // 2]
    factor = rng.lognormal(0, 0.3, (len(slower), cost.shape[1]))
    cost[slower] *= factor.astype(np.float32)
    cut = np.where(rng.random(len(market.capacity)) < share, 0.8, 1.0)
    return replace(market, cost_us=cost, demand=demand, capacity=market.capacity * cut)


def _metros(rng: np.random.Generator) -> tuple[F64, F64]:
    """[m, 2] degrees, and the metros' shares of all people."""
    continent = np.stack([rng.uniform(-35, 55, CONTINENTS), rng.uniform(-180, 180, CONTINENTS)], 1)
    metro = continent[rng.choice(CONTINENTS, METROS)] + rng.normal(0, [8, 15], (METROS, 2))
    weight = 1 / np.arange(1, METROS + 1) ** 0.7
    return metro, weight / weight.sum()


def _vectors(degrees: F64) -> F64:
    """Points on the unit sphere."""
    lat, lon = np.radians(degrees).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


def _demand(rows: int, rng: np.random.Generator) -> F64:
    """Heavy-tailed, adding up to 1, with no row above `LARGEST_SHARE`."""
    demand = rng.pareto(PARETO, rows) + 0.05
    largest = max(LARGEST_SHARE, 4 / rows)
    for _ in range(8):
        demand = np.minimum(demand / demand.sum(), largest)
    return np.asarray(demand / demand.sum() * 1e12, np.float64)


class _Paths:
    """What a prefix of a provider measures to a POP, and by which link it gets there."""

    def __init__(self, pop_place: F64, links: Ints, rng: np.random.Generator) -> None:
        self._place = pop_place
        self._links = links
        self._first = np.cumsum(links) - links + len(links)
        self._provider = rng.integers(1, 2**31, PROVIDERS)
        self._own_ms = rng.gamma(2.0, 2.0, PROVIDERS)
        share = 1 / np.arange(1, PROVIDERS + 1) ** 0.9
        self._share = share / share.sum()

    def best(self, place: F64, count: int, rng: np.random.Generator) -> tuple[F64, Ints, Ints]:
        """RTT in microseconds, POP and link of the best candidates of prefixes, best first."""
        near = min(3 * count, len(self._place))
        blocks = range(0, len(place), BLOCK_ROWS)
        parts = [self._nearest(place[i : i + BLOCK_ROWS], near) for i in blocks]
        pop, km = (np.concatenate(part) for part in zip(*parts, strict=True))
        provider = rng.choice(PROVIDERS, len(place), p=self._share)
        luck = self._hash(provider, pop, 104_729)
        detour = 1.4 + 1.6 * luck**3
        peering_ms = 18.0 * self._hash(provider, pop, 15_485_863) ** 2
        rtt = km / KM_PER_MS * detour + peering_ms
        rtt += self._own_ms[provider, None] + 1 + rng.exponential(0.8, rtt.shape)
        best = np.argsort(rtt, axis=1)[:, :count]
        pop, rtt = np.take_along_axis(pop, best, 1), np.take_along_axis(rtt, best, 1)
        share = self._hash(provider, pop, 1_299_709)
        link = self._first[pop] + (share * self._links[pop]).astype(np.int64)
        return rtt * 1e3, pop, link

    def _nearest(self, place: F64, near: int) -> tuple[Ints, F64]:
        """The POPs nearest to places, in no order, and how far they are."""
        km = np.arccos(np.clip(place @ self._place.T, -1, 1)) * EARTH_KM
        pop = np.argpartition(km, near - 1, axis=1)[:, :near]
        return pop, np.take_along_axis(km, pop, 1)

    def _hash(self, provider: Ints, pop: Ints, salt: int) -> F64:
        """[n, k], numbers in [0, 1) that a provider and a POP always have."""
        mixed = (self._provider[provider, None] * 7_919 + (pop + 1) * salt) % 1_000_003
        return np.asarray(mixed / 1_000_003, np.float64)


def _capacity(
    shape: Shape, demand: F64, pop: Ints, link: Ints, links: Ints, rng: np.random.Generator
) -> F64:
    """[r], of POPs and links; the POPs' add up to demand over utilisation."""
    p, r, k = shape.pops, shape.pops + int(links.sum()), shape.candidates
    spread = np.repeat(demand / k, k)
    near = np.bincount(pop[:, 0], demand, p)
    around = np.bincount(pop.ravel(), spread, p)
    own = 0.5 * near + 0.5 * around + 0.1 * demand.sum() / p
    own *= rng.lognormal(0, 0.35, p)
    own *= demand.sum() / shape.utilisation / own.sum()
    used = np.bincount(link.ravel(), spread, r)[p:] + 1e-9 * demand.sum()
    home = np.repeat(np.arange(p), links)
    part = used / np.bincount(home, used, p)[home]
    egress = own[home] * np.maximum(part, 0.12) * rng.lognormal(0.25, 0.3, len(home))
    return np.concatenate([own, egress])


def _split(market: Market) -> Market:
    """Heavy rows in equal pieces."""
    piece = PIECE_SHARE * market.demand.sum(dtype=np.float64)
    count = np.maximum(np.ceil(market.demand / piece), 1).astype(np.int64)
    row = np.repeat(np.arange(len(market)), count)
    return replace(
        market,
        cost_us=market.cost_us[row],
        pop=market.pop[row],
        link=market.link[row],
        demand=(market.demand / count)[row].astype(np.float32),
    )
