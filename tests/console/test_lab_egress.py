"""The lab's routes say what its POPs' reports do."""

import numpy as np

from console.lab.clients import caches_of
from console.lab.egress import LINKS, link_of, routes_of
from popsteer import routes, world


def test_the_routes_name_the_link_that_each_prefix_is_reached_by() -> None:
    own = world.generate(5, 400, 3)

    read = routes.decode(routes_of(own), own.pops[0], LINKS)

    assert read.through(own.net, own.plen, None).tolist() == link_of(own).tolist()


def test_links_share_the_load_of_their_pop() -> None:
    own = world.generate(5, 400, 3)
    caches = caches_of(own, 12.0, np.ones(1), np.random.default_rng(1))
    for cache in range(len(caches.prefix)):
        caches.answered(cache, cache % 5, 20.0, 0.0)
    demand = own.prefix_demand_bps(12.0)

    by_link = caches.link_bps(demand, 5, link_of(own), len(LINKS))

    assert np.isclose(by_link.sum(), demand.sum())
    for number in range(len(LINKS)):
        assert np.isclose(by_link[:, number].sum(), demand[link_of(own) == number].sum())
