"""Services by what they ask for: those that ask for the same share one set of answers.

A set costs what a table costs, so services differ only in what their policy looks at: two names
under `optimum` with the same POPs are one set whatever their bands, weights and biases say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers, answers
from aggregator.fleet import Fleet
from aggregator.policy import ADDITIVE, BY_LOCATION, DEFAULT
from aggregator.terms import Terms, terms_of
from popsteer.config import Config, Service
from popsteer.errors import ConfigError
from popsteer.names import Net, Plen, dns_name
from popsteer.table import SETS_MAX, Table

BY_BAND = frozenset({"latency-band", "cost-aware"})
BY_WEIGHT = frozenset({"weighted", "latency-band"})
BY_BIAS = frozenset({"geoproximity"})
"""Policies that look at each of a service's own terms."""
TO_ONE_POP = frozenset({"failover"})
"""Policies that send everybody to one POP while it is up."""

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ServiceSet:
    """Services that one set of answers serves."""

    services: tuple[str, ...]
    """DNS names in the order of the file; empty when none is configured."""
    policy: str
    serves: Bools
    """[p], POPs that may serve them."""
    terms: Terms
    expected: float
    """Share of the demand, until reports say otherwise."""


def sets_of(config: Config) -> tuple[ServiceSet, ...]:
    """The sets that a configuration asks for; the first service's is the first.

    Raises:
        ConfigError: a policy needs a geography database, or there are too many sets.
    """
    if not config.service:
        everyone = np.ones(len(config.pop), bool)
        return (ServiceSet((), DEFAULT, everyone, terms_of(config, None), 1.0),)
    alike: dict[object, list[Service]] = {}
    for service in config.service:
        if service.policy in BY_LOCATION and not config.table.geography:
            raise ConfigError(
                f"service {service.name}: policy = {service.policy!r} goes by places; "
                "set table.geography to a MaxMind DB file with coordinates"
            )
        alike.setdefault(_asked(config, service), []).append(service)
    if len(alike) > SETS_MAX:
        ninth = list(alike.values())[SETS_MAX][0]
        raise ConfigError(
            f"service {ninth.name}: policy and pops make {len(alike)} sets of answers and a table "
            f"holds {SETS_MAX}; give it the same policy and pops as another service"
        )
    whole_bps = sum(map(_expected_bps, config.service))
    return tuple(_set_of(config, alike[asked], whole_bps) for asked in alike)


def _asked(config: Config, service: Service) -> object:
    """All that a policy looks at."""
    return (
        service.policy,
        tuple(config.pops_of(service)),
        service.band_ms if service.policy in BY_BAND else None,
        tuple(sorted(service.weight.items())) if service.policy in BY_WEIGHT else None,
        tuple(sorted(service.bias.items())) if service.policy in BY_BIAS else None,
    )


def _expected_bps(service: Service) -> float:
    """Of one cache that asks whenever its answer ends; caches ask for all services alike."""
    return service.query_bits / max(service.ttl_s, 1)


def _set_of(config: Config, services: Sequence[Service], whole_bps: float) -> ServiceSet:
    first = services[0]
    pops = set(config.pops_of(first))
    return ServiceSet(
        tuple(dns_name(service.name) for service in services),
        first.policy,
        np.array([pop.id in pops for pop in config.pop], bool),
        terms_of(config, first),
        sum(map(_expected_bps, services)) / whole_bps,
    )


def sheds_by_steps(sets: Sequence[ServiceSet]) -> bool:
    """Whether the load loop sheds by constant steps: a POP sheds for all its services alike."""
    return all(one.policy in ADDITIVE for one in sets)


def said_by_sets(
    table: Table | None, sets: Sequence[ServiceSet], net: Net, plen: Plen, fleet: Fleet
) -> list[Answers]:
    """What a table answers to prefixes, for each of the sets."""
    tables = [table_of(table, one) if table is not None else None for one in sets]
    return [answers(own, net, plen, fleet.pops) for own in tables]


def table_of(table: Table, one: ServiceSet) -> Table:
    """What of a table is for a set, also when it was made for other sets."""
    return table.answers_of(one.services[0]) if one.services else table


def stacked(said: Sequence[Answers]) -> Answers:
    """The answers of several sets, row under row."""
    if len(said) == 1:
        return said[0]
    width = max(one.pop.shape[1] for one in said)
    missing = [((0, 0), (0, width - one.pop.shape[1])) for one in said]
    return Answers(
        np.concatenate(
            [np.pad(s.pop, m, constant_values=-1) for s, m in zip(said, missing, strict=True)]
        ),
        np.concatenate([np.pad(s.share, m) for s, m in zip(said, missing, strict=True)]),
    )


def blended(said: Sequence[Answers], demand_bps: Sequence[F64]) -> Answers:
    """Where the demand of prefixes goes, all services together: shares of the whole demand."""
    if len(said) == 1:
        return said[0]
    whole = np.sum(demand_bps, axis=0)
    part = [
        one.share * np.divide(own, whole, out=np.zeros(len(own)), where=whole > 0)[:, None]
        for one, own in zip(said, demand_bps, strict=True)
    ]
    return Answers(np.hstack([one.pop for one in said]), np.hstack(part))
