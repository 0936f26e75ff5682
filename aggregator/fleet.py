"""The POPs as the planner has them: what they are configured to carry, their links, who serves."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from popsteer.config import Config
from popsteer.names import Subject, link_subject

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Fleet:
    """p POPs of a configuration, in its order."""

    pops: tuple[str, ...]
    capacity_bps: F64
    """Infinite where unlimited."""
    links: tuple[dict[str, float], ...]
    """Capacity in bits/s by link id."""
    serves: Bools
    """Whether any service names it."""
    ttl_s: float
    """The longest of the services."""
    capacity_rps: F64 | None = None
    """[p], requests a second; infinite where unlimited. None: no POP is limited by them."""

    @cached_property
    def link_subjects(self) -> tuple[Subject, ...]:
        """All links, POP by POP."""
        listed = zip(self.pops, self.links, strict=True)
        return tuple(link_subject(pop, link) for pop, links in listed for link in links)

    @cached_property
    def link_pop(self) -> NDArray[np.int64]:
        """[links], the POP of each."""
        return np.repeat(np.arange(len(self.pops)), [len(links) for links in self.links])

    @cached_property
    def link_bps(self) -> F64:
        """[links], their capacities."""
        return np.array([bps for links in self.links for bps in links.values()], np.float64)


def fleet_of(config: Config) -> Fleet:
    """The POPs of a configuration."""
    capacity = np.array([pop.capacity_bps for pop in config.pop], np.float64)
    requests = np.array([pop.capacity_rps for pop in config.pop], np.float64)
    serving = {pop for service in config.service for pop in config.pops_of(service)}
    return Fleet(
        tuple(pop.id for pop in config.pop),
        np.where(capacity > 0, capacity, np.inf),
        tuple({link.id: link.capacity_bps for link in pop.link} for pop in config.pop),
        np.array([pop.id in serving or not config.service for pop in config.pop], bool),
        float(max((service.ttl_s for service in config.service), default=20)),
        np.where(requests > 0, requests, np.inf) if requests.any() else None,
    )
