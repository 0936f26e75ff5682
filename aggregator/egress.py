"""Which link each POP's traffic to a prefix leaves by, and what the links can still carry.

Reads the POPs' routes (`popsteer.routes`) whenever they change; a broken object leaves the last
good routes of its POP. What a link carries is measured, and what should leave by it is known from
routes and answers: their ratio is how wrong routes and demand are for that link, and the planner
fills it by so much less or more. Owns routes and ratios; decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers
from aggregator.fleet import Fleet
from aggregator.load import STALE_S, Load
from aggregator.prefixes import Prefixes
from aggregator.signals import Signals
from popsteer import routes as routes_format
from popsteer.clock import SECOND_MS
from popsteer.errors import ConfigError
from popsteer.routes import NO_LINK, Routes
from popsteer.samples import Signal
from popsteer.store import ObjectStore
from popsteer.telemetry import logger

RATIO_GAIN = 0.2
"""How fast a ratio follows what is measured, a load period."""
RATIO_MIN, RATIO_MAX = 0.5, 3.0
EXPECTED_MIN = 0.02
"""Of a POP's load: with less expected by a link, its ratio says nothing."""

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class _Cells:
    """Prefixes, their shares, and the links that these leave by."""

    row: Ints
    share: F64
    link: Ints


class Egress:
    """The links of all POPs, numbered POP by POP."""

    def __init__(self, store: ObjectStore, fleet: Fleet) -> None:
        self._store = store
        self._fleet = fleet
        self._etags: dict[str, str] = {}
        self._routes: list[Routes | None] = [None] * len(fleet.pops)
        self._first = np.searchsorted(fleet.link_pop, np.arange(len(fleet.pops)))
        """[p], each POP's first link."""
        self._ratio = np.ones(len(fleet.link_bps))
        self._version = 0
        """Of the routes."""
        self._cells: tuple[Answers, tuple[int, int], list[_Cells]] | None = None
        """For whose answers, how many prefixes and which routes, and what was worked out."""

    @property
    def known(self) -> Bools:
        """[p], POPs whose routes are known."""
        return np.array([routes is not None for routes in self._routes], bool)

    def read(self) -> None:
        """Read what changed.

        Raises:
            StoreError: the store cannot be reached.
        """
        there = set(self._store.list(routes_format.KEY_PREFIX))
        for p, pop in enumerate(self._fleet.pops):
            key = routes_format.key(pop)
            if key not in there:
                self._version += self._routes[p] is not None
                self._routes[p] = None
                self._etags.pop(key, None)
                continue
            stored = self._store.read(key, self._etags.get(key, ""))
            if stored is None:
                continue
            self._etags[key] = stored.etag
            try:
                links = tuple(self._fleet.links[p])
                self._routes[p] = routes_format.decode(stored.body, pop, links)
                self._version += 1
            except ConfigError as error:
                logger().error("routes are unreadable, the last ones stay", reason=str(error))

    def through(self, prefixes: Prefixes, networks: Ints | None, row: Ints, pop: Ints) -> Ints:
        """[n, k], the link to each prefix from each candidate; NO_LINK where none is known.

        `row` [n] are rows of `prefixes`, `pop` [n, k] POPs.
        """
        found = np.full(pop.shape, NO_LINK, np.int64)
        line = np.broadcast_to(np.arange(len(row))[:, None], pop.shape)
        order = np.argsort(pop, axis=None, kind="stable")
        edges = np.searchsorted(pop.ravel()[order], np.arange(len(self._routes) + 1))
        for p, routes in enumerate(self._routes):
            if routes is None:
                continue
            cells = order[edges[p] : edges[p + 1]]
            at = row[line.ravel()[cells]]
            network = networks[at] if networks is not None else None
            link = routes.through(prefixes.net[at], prefixes.plen[at], network)
            found.ravel()[cells] = np.where(link == NO_LINK, NO_LINK, self._first[p] + link)
        return found

    def expected_bps(
        self,
        prefixes: Prefixes,
        networks: Ints | None,
        said: Sequence[Answers],
        demand_bps: Sequence[F64],
    ) -> F64:
        """[links], what answers send through each link, of the demand whose link is known."""
        known_by, old = (len(prefixes), self._version), self._cells
        if old is None or old[0] is not said[0] or old[1] != known_by:
            sent = [self._sent(prefixes, networks, one) for one in said]
            self._cells = old = said[0], known_by, sent
        total = np.zeros(len(self._ratio))
        for cells, demand in zip(old[2], demand_bps, strict=True):
            total += np.bincount(cells.link, demand[cells.row] * cells.share, len(total))
        return total

    def _sent(self, prefixes: Prefixes, networks: Ints | None, said: Answers) -> "_Cells":
        row, column = np.nonzero(said.share > 0)
        link = self.through(prefixes, networks, row, said.pop[row, column][:, None])[:, 0]
        there = link != NO_LINK
        return _Cells(row[there], said.share[row, column][there], link[there])

    def observe(self, signals: Signals, load_bps: F64, planned_bps: F64, expected_bps: F64) -> None:
        """Compare what links carry with what is expected of them at the POP's present load.

        Args:
            signals: Of links.
            load_bps: [p], measured.
            planned_bps: [p], what the table in force should bring.
            expected_bps: [links], of it.
        """
        readings = signals.of(self._fleet.link_subjects, Signal.TX_BPS)
        fresh = readings.last_ms >= signals.newest_ms - STALE_S * SECOND_MS
        link_pop = self._fleet.link_pop
        planned, load = planned_bps[link_pop], load_bps[link_pop]
        share = np.divide(expected_bps, planned, out=np.zeros(len(planned)), where=planned > 0)
        told = fresh & (share >= EXPECTED_MIN) & (load > 0)
        seen = readings.value[told] / (load[told] * share[told])
        change = np.clip(seen, RATIO_MIN, RATIO_MAX) - self._ratio[told]
        self._ratio[told] += RATIO_GAIN * change

    def room_bps(self, target: float) -> F64:
        """[links], the demand that each may be planned with."""
        return target * self._fleet.link_bps / self._ratio

    def capacity_bps(self, load: Load) -> F64:
        """[p]; links bound a POP as a whole only while it is not known who uses them."""
        own = load.capacity_bps if load.own_bps is None else load.own_bps
        return np.where(self.known, own, load.capacity_bps)
