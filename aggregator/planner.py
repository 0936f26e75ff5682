"""The planner: reads partials and orders, runs the loops, publishes table and state.

What is decided is decided in `cycle`, `control` and `guard`; the latency loop is `latency`, the
process around all this is `plan`. While S3 is away the planner keeps what it knows and tries
again; a new one goes on from the table and state in S3.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from aggregator import report
from aggregator.chores import Chores
from aggregator.compare import Answers, load_bps
from aggregator.control import Health, LoadLoop
from aggregator.egress import Egress
from aggregator.failover import ladder_of
from aggregator.fleet import fleet_of
from aggregator.latency import LatencyLoop, now_of
from aggregator.load import Load, measured
from aggregator.measurements import Measurements
from aggregator.publish import Publisher
from aggregator.services import blended, said_by_sets, sets_of, sheds_by_steps, table_of
from aggregator.standing_orders import StandingOrders
from aggregator.survival import Losses, Placed, Survival
from aggregator.terms import Atlas
from popsteer import state as state_format
from popsteer.clock import MINUTE_MS, SECOND_MS
from popsteer.config import Config
from popsteer.errors import TableError, TrustError
from popsteer.heartbeat import bounds_s
from popsteer.signing import Signer, Verifier
from popsteer.store import ObjectStore
from popsteer.table import Table
from popsteer.targets import Targets
from popsteer.telemetry import logger

STEP_S = 1.0
BULK_PERIOD_S = 2.0
ROUTES_PERIOD_S = 30.0
SIGNALS_PATIENCE_S = 10.0
"""A restarted planner says nothing of the POPs until it has heard of them, or for so long."""
SHARES_BEFORE_MS = 10 * MINUTE_MS
SWEEP_MS = 5 * MINUTE_MS
PATHS_MS_MAX = 10 * SECOND_MS
"""The RTTs that people see are worked out again after so long though nothing was learnt."""


class Planner:
    """One planner over a store. `step` does whatever is due; time comes in as an argument."""

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        signer: Signer | None,
        trusted: Verifier | None,
        targets: Targets | None,
    ) -> None:
        self._plan = config.plan
        self._bounds_s = bounds_s(config)
        self._store = store
        self._trusted = trusted
        self.fleet = fleet_of(config)
        self.sets = sets_of(config)
        expected = [one.expected for one in self.sets]
        self.known = Measurements(store, config.plan, self.fleet, expected)
        if targets is not None:
            self.known.expect(targets)
        self.health = Health(self.fleet.pops)
        self.publisher = Publisher(store, signer, trusted)
        self.orders = StandingOrders(store)
        target = config.plan.target_utilisation
        self.loop = LoadLoop(self.fleet, target, sheds_by_steps(self.sets))
        geography = config.table.geography
        self._atlas = Atlas(config.path(geography)) if geography else None
        self.egress = Egress(store, self.fleet)
        self.latency = LatencyLoop(
            config.plan,
            self.known,
            self.publisher,
            self.loop,
            self.sets,
            self.egress,
            self._atlas,
        )
        self.survival = Survival(len(self.fleet.pops))
        self.chores = Chores()
        self._shares: deque[tuple[int, np.ndarray]] = deque()
        self._started_ms = 0
        self._load: Load | None = None
        self._answers: tuple[Table | None, list[Answers]] = None, []
        """Of the table beside them, by set."""
        self._view: tuple[list[Answers], tuple[int, int], report.PathView] | None = None
        """For which answers, what was learnt and when, and the view."""

    @property
    def refused(self) -> str:
        """Why the newest table is not in force; empty when it is."""
        return self.latency.refused

    @property
    def published(self) -> int:
        """Tables put in force by this planner."""
        return self.latency.published

    def step(self, now: int) -> None:
        """Do what is due. An unreachable store costs this step what it was for, no more."""
        chores = self.chores
        if not self._started_ms:
            self._started_ms = now
            self.known.heard.begin(self._bounds_s, now)
            with chores.attempt("resume"):
                self._resume()
        changed = False
        with chores.attempt("signals"):
            self.known.read_signals()
        changed |= self.health.step(self.known.signals, now)
        with chores.attempt("orders"):
            changed |= self.orders.read(now, now - int(STEP_S * SECOND_MS))
        if chores.is_due("bulk", BULK_PERIOD_S, now):
            with chores.attempt("partials"):
                self.known.read_bulk(now)
        if chores.is_due("routes", ROUTES_PERIOD_S, now):
            with chores.attempt("routes"):
                self.egress.read()
        self._load = measured(self.fleet, self.known.signals, self.orders.caps_bps(now), now)
        if chores.is_due("load", self._plan.load_period_s, now):
            self._load_step(self._load, now)
        if chores.is_due("state", self._plan.state_period_s, now) or changed:
            with chores.attempt("state"):
                self._write_state(self._load, now)
        self.latency_step(now)
        if chores.is_due("sweep", SWEEP_MS / SECOND_MS, now):
            with chores.attempt("sweep"):
                self.publisher.sweep()

    def latency_step(self, now: int, force: bool = False) -> None:
        """One step of the latency loop, once the load is known."""
        if self._load is None:
            return
        before = self.latency.published
        up, pops = self.health.up, self.fleet.pops
        heard = now_of(self._load, up, self.orders, pops, self._placed_bps, now)
        self.latency.step(heard, self.chores, force)
        if self.latency.published > before:
            load = self.latency.brings_bps
            self._shares.append((now, load / load.sum() if load.sum() else load))

    def _resume(self) -> None:
        """Take over the table and the sheds in force, so that a restart is no jump."""
        self.publisher.refresh()
        stored = self._store.read(state_format.KEY)
        if stored is None:
            return
        try:
            old = state_format.decode(stored.body, self._trusted)
        except (TableError, TrustError) as error:
            logger().warning("the last POP state is unreadable", reason=str(error))
            return
        states = [old.pops.get(pop) for pop in self.fleet.pops]
        self.loop.resume(np.array([one.shed if one else 0.0 for one in states]))
        self.latency.reference.capacity(
            np.array([one.rated_bps if one and one.rated_bps else np.nan for one in states])
        )

    def _scene(self, load: Load, now: int) -> report.Scene:
        drained = self.orders.drained(now)
        heard = self.known.heard.views(self._bounds_s, now)
        return report.Scene(now, self.fleet, self.health, load, self.loop, drained, heard)

    def _said(self) -> list[Answers]:
        """What the table in force answers to every prefix, by set; looked up once a table."""
        table = self.publisher.in_force.table if self.publisher.in_force else None
        net, plen = self.known.prefixes.net, self.known.prefixes.plen
        said_by, said = self._answers
        if not said or said_by is not table or len(said[0].pop) != len(net):
            said = said_by_sets(table, self.sets, net, plen, self.fleet)
            self._answers = table, said
        return said

    def _placed_bps(self) -> np.ndarray:
        """[p], what the table in force should bring at today's demand."""
        assert self._load is not None
        demand, pops = self.known.demand_by_set(self._load.load_bps), len(self.fleet.pops)
        loads = [load_bps(one, own, pops) for one, own in zip(self._said(), demand, strict=True)]
        return np.asarray(np.sum(loads, axis=0))

    def _paths(self, load: Load, now: int) -> report.PathView:
        """The RTTs change with what is learnt and with the table; the demand at any time."""
        said = self._said()
        known_by, old = (self.known.learnt, now // PATHS_MS_MAX), self._view
        if old is None or old[0] is not said or old[1] != known_by:
            demand = self.known.demand_by_set(load.load_bps)
            estimates, half_life_s = self.known.estimates(now), self._plan.estimate_half_life_s
            whole = np.asarray(np.sum(demand, axis=0))
            blend = blended(said, demand)
            paths = report.paths_of(blend, estimates, whole, self.fleet, half_life_s)
            self._view = old = said, known_by, paths
        return replace(old[2], demand_bps=self._placed_bps())

    def _load_step(self, load: Load, now: int) -> None:
        planned = self._placed_bps()
        answered = self.known.demand.in_flight(len(self.known.prefixes), load.load_bps)
        before = self.loop.shed.copy()
        if self.publisher.in_force is None:
            # Before our first table all load was brought by somebody else's answers, which ours
            # will replace: it is not foreign.
            planned = load.load_bps
        elif self.egress.known.any():
            self._observe_links(load, planned)
        self.loop.step(load, answered, planned, now)
        for p in np.flatnonzero((before > 0) != (self.loop.shed > 0)).tolist():
            logger().info("shed", pop=self.fleet.pops[p], share=round(float(self.loop.shed[p]), 3))

    def _observe_links(self, load: Load, planned: np.ndarray) -> None:
        prefixes, demand = self.known.prefixes, self.known.demand_by_set(load.load_bps)
        networks = self._atlas.networks(prefixes) if self._atlas else None
        expected = self.egress.expected_bps(prefixes, networks, self._said(), demand)
        self.egress.observe(self.known.signals, load.load_bps, planned, expected)

    def _write_state(self, load: Load, now: int) -> None:
        heard = self.known.signals.newest_ms > 0
        if not heard and now - self._started_ms < SIGNALS_PATIENCE_S * SECOND_MS:
            return
        scene, in_force = self._scene(load, now), self.publisher.in_force
        generation = in_force.pointer.generation if in_force else 0
        state = report.state_of(scene, self.known.signals, generation)
        yield_ms = int(1.5 * self._plan.state_period_s * SECOND_MS)
        written = self.publisher.state(state, yield_ms)
        if written is None:
            return
        paths = self._paths(load, now)
        overview = report.overview_of(
            scene,
            self.known.signals,
            paths,
            in_force.table if in_force else None,
            self.known.window_last_ms,
            self._share_before(paths, now),
            self.refused,
            len(self.orders.live(now)),
        )
        demand = self.known.demand_by_set(load.load_bps)
        overview = report.with_services(overview, self.sets, demand)
        if in_force is not None:
            losses = self._losses(in_force.table, demand, paths, scene)
            overview = report.with_losses(overview, self.fleet.pops, losses, now)
        self.publisher.overview(overview)

    def _losses(
        self,
        table: Table,
        demand: Sequence[np.ndarray],
        paths: report.PathView,
        scene: report.Scene,
    ) -> Losses:
        """N+1, a few POPs of it looked at again."""
        pops, known, up = self.fleet.pops, self.known.prefixes, self.health.up
        tables = [table_of(table, one) for one in self.sets]
        placed = [
            Placed(said, own, ladder_of(its, one.serves, pops))
            for one, its, said, own in zip(self.sets, tables, self._said(), demand, strict=True)
        ]
        drained = np.array([pop in scene.drained for pop in pops])
        prefixes = known.net, known.plen
        self.survival.step(placed, tables, prefixes, up, drained, scene.now_ms)
        whole = float(sum(own.sum() for own in demand))
        return self.survival.losses(paths.demand_bps, scene.load.capacity_bps, up, whole)

    def _share_before(self, paths: report.PathView, now: int) -> np.ndarray:
        while len(self._shares) > 1 and self._shares[1][0] <= now - SHARES_BEFORE_MS:
            self._shares.popleft()
        if self._shares:
            return self._shares[0][1]
        whole = paths.demand_bps.sum()
        return paths.demand_bps / whole if whole else paths.demand_bps
