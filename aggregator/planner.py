"""The planner process: reads partials and orders, runs the loops, publishes table and state.

This is the rim: clock, store, signals of the operating system. What is decided is decided in
`cycle`, `control` and `guard`. While S3 is away the planner keeps what it knows and tries again;
a new one goes on from the table and state in S3.
"""

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from aggregator import cycle, report
from aggregator.compare import Answers, answers, load_bps
from aggregator.control import Arbiter, Health, Load, LoadLoop, fleet_of, measured
from aggregator.estimate import Estimates
from aggregator.guard import Case, Verdict, judge
from aggregator.measurements import Measurements
from aggregator.memory import Reference
from aggregator.policy import ADDITIVE, BY_LOCATION, DEFAULT
from aggregator.publish import Publisher
from aggregator.rollout import Mode, Rollout
from aggregator.terms import Atlas, terms_of
from popsteer import orders as orders_format
from popsteer import state as state_format
from popsteer import targets as targets_format
from popsteer.clock import MINUTE_MS, SECOND_MS, now_ms
from popsteer.config import Config, Service
from popsteer.errors import ConfigError, PopsteerError, StoreError, TableError, TrustError
from popsteer.memory import give_back, keep_little
from popsteer.names import Prefix
from popsteer.orders import Order, OrderKind, Orders
from popsteer.signing import Signer, Verifier, load_signer, verifier
from popsteer.store import ObjectStore, s3_store
from popsteer.table import Table, TableMeta
from popsteer.targets import Targets
from popsteer.telemetry import OncePerKey, configure, logger, serve_metrics

STEP_S = 1.0
BULK_PERIOD_S = 2.0
FIRST_COVERAGE = 0.95
FIRST_WINDOWS = 3
"""The first table waits for so much of all pairs of targets and POPs, or so many windows."""
SIGNALS_PATIENCE_S = 10.0
"""A restarted planner says nothing of the POPs until it has heard of them, or for so long."""
SHARES_BEFORE_MS = 10 * MINUTE_MS
SWEEP_MS = 5 * MINUTE_MS
ONCE_PATIENCE_S = 60.0
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
        self._store = store
        self.fleet = fleet_of(config)
        self.known = Measurements(store, config.plan, self.fleet)
        if targets is not None:
            self.known.expect(targets)
        self.health = Health(self.fleet.pops)
        self.publisher = Publisher(store, signer, trusted)
        self.refused = ""
        """Why the newest table is not in force; empty when it is."""
        self.published = 0
        """Tables put in force by this planner."""
        self._trusted = trusted
        service = _service_of(config)
        self._policy = service.policy if service else DEFAULT
        self._terms = terms_of(config, service)
        target = config.plan.target_utilisation
        self.loop = LoadLoop(self.fleet, target, self._policy in ADDITIVE)
        geography = config.table.geography
        self._atlas = Atlas(config.path(geography)) if geography else None
        self._arbiter = Arbiter(config.plan.latency_period_s, config.plan.load_period_s)
        self._reference = Reference()
        self._rollout = Rollout(Mode(config.plan.rollout), config.plan.canary_share)
        self._orders, self._orders_etag = Orders(), ""
        self._once = OncePerKey()
        self._failing: set[str] = set()
        self._due: dict[str, int] = {}
        self._shares: deque[tuple[int, np.ndarray]] = deque()
        self._started_ms = 0
        self._prices_us: np.ndarray | None = None
        self._theirs_ms = 0
        """When the newest table of another planner was made."""
        self._load: Load | None = None
        self._answers: tuple[Table | None, Answers | None] = None, None
        """Of the table beside them."""
        self._view: tuple[tuple[int, int, int], report.PathView] | None = None

    def step(self, now: int) -> None:
        """Do what is due. An unreachable store costs this step what it was for, no more."""
        if not self._started_ms:
            self._started_ms = now
            with self._careful("resume"):
                self._resume()
        changed = False
        with self._careful("signals"):
            self.known.read_signals()
        changed |= self.health.step(self.known.signals, now)
        with self._careful("orders"):
            changed |= self._read_orders(now)
        if self._is_due("bulk", BULK_PERIOD_S, now):
            with self._careful("partials"):
                self.known.read_bulk(now)
        self._load = measured(self.fleet, self.known.signals, self._caps(now), now)
        if self._is_due("load", self._plan.load_period_s, now):
            self._load_step(self._load, now)
        if self._is_due("state", self._plan.state_period_s, now) or changed:
            with self._careful("state"):
                self._write_state(self._load, now)
        self.latency_step(now)
        if self._is_due("sweep", SWEEP_MS / SECOND_MS, now):
            with self._careful("sweep"):
                self.publisher.sweep()

    def _is_due(self, name: str, period_s: float, now: int) -> bool:
        if now < self._due.get(name, 0):
            return False
        self._due[name] = now + int(period_s * SECOND_MS)
        return True

    @contextlib.contextmanager
    def _careful(self, what: str) -> Iterator[None]:
        """Go on without the store: say so once, and once when it is back."""
        try:
            yield
        except StoreError as error:
            if what not in self._failing:
                logger().warning("the store is away, trying again", what=what, reason=str(error))
            self._failing.add(what)
            self._due.pop(what, None)
        else:
            if what in self._failing:
                logger().info("the store is back", what=what)
                self._failing.discard(what)

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
        self._reference.capacity(
            np.array([one.capacity_bps if one and one.capacity_bps else np.nan for one in states])
        )

    def _read_orders(self, now: int) -> bool:
        stored = self._store.read(orders_format.KEY, self._orders_etag)
        before = self._orders.live(now - int(STEP_S * SECOND_MS))
        if stored is not None:
            self._orders_etag = stored.etag
            try:
                self._orders = orders_format.decode(stored.body)
            except ConfigError as error:
                logger().error("orders are unreadable, the last ones stay", reason=str(error))
        return self._orders.live(now) != before

    def _caps(self, now: int) -> dict[str, float]:
        return {o.pop: o.value_bps for o in self._orders.live(now) if o.kind == OrderKind.CAP}

    def _pins(self, now: int) -> dict[Prefix, str]:
        pins = {}
        for order in self._orders.live(now):
            if order.kind == OrderKind.PIN:
                try:
                    pins[Prefix.parse(order.prefix)] = order.pop
                except ConfigError as error:
                    if self._once.first(order.id):
                        logger().error("order left out", order=order.id, reason=str(error))
        return pins

    def _freeze(self, now: int) -> Order | None:
        live = [o for o in self._orders.live(now) if o.kind == OrderKind.FREEZE]
        return live[0] if live else None

    def _scene(self, load: Load, now: int) -> report.Scene:
        drained = {
            pop: f"{order.reason} ({order.owner})"
            for pop, order in self._orders.drained(now).items()
        }
        return report.Scene(now, self.fleet, self.health, load, self.loop, drained)

    def _said(self) -> Answers:
        """What the table in force answers to every prefix; looked up once a table."""
        table = self.publisher.in_force.table if self.publisher.in_force else None
        net, plen = self.known.prefixes.net, self.known.prefixes.plen
        said_by, said = self._answers
        if said is None or said_by is not table or len(said.pop) != len(net):
            said = answers(table, net, plen, self.fleet.pops)
            self._answers = table, said
        return said

    def _paths(self, load: Load, now: int) -> report.PathView:
        """The RTTs change with what is learnt and with the table; the demand at any time."""
        said = self._said()
        demand = self.known.demand_bps(load.load_bps)
        known_by = self.known.learnt, id(said), now // PATHS_MS_MAX
        if self._view is None or self._view[0] != known_by:
            estimates, half_life_s = self.known.estimates(now), self._plan.estimate_half_life_s
            paths = report.paths_of(said, estimates, demand, self.fleet, half_life_s)
            self._view = known_by, paths
        return replace(self._view[1], demand_bps=load_bps(said, demand, len(self.fleet.pops)))

    def _load_step(self, load: Load, now: int) -> None:
        demand = self.known.demand
        demand_bps = self.known.demand_bps(load.load_bps)
        planned = load_bps(self._said(), demand_bps, len(self.fleet.pops))
        reported = demand.reported_bps() * demand.scale(load.load_bps)
        trust = demand.trust(len(self.known.prefixes))
        before = self.loop.shed.copy()
        if self.publisher.in_force is None:
            # Before our first table all load was brought by somebody else's answers, which ours
            # will replace: it is not foreign.
            planned = load.load_bps
        explained = self.loop.in_flight_bps(load.load_bps, reported, planned, trust)
        self.loop.step(load, explained, planned, now)
        for p in np.flatnonzero((before > 0) != (self.loop.shed > 0)).tolist():
            logger().info("shed", pop=self.fleet.pops[p], share=round(float(self.loop.shed[p]), 3))

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
        self.publisher.overview(
            report.overview_of(
                scene,
                self.known.signals,
                paths,
                in_force.table if in_force else None,
                self.known.window_last_ms,
                self._share_before(paths, now),
                self.refused,
                len(self._orders.live(now)),
            )
        )

    def _share_before(self, paths: report.PathView, now: int) -> np.ndarray:
        while len(self._shares) > 1 and self._shares[1][0] <= now - SHARES_BEFORE_MS:
            self._shares.popleft()
        if self._shares:
            return self._shares[0][1]
        whole = paths.demand_bps.sum()
        return paths.demand_bps / whole if whole else paths.demand_bps

    def latency_step(self, now: int, force: bool = False) -> None:
        """Plan, judge and publish when the arbiter says so and enough is known."""
        drained = self._orders.drained(now)
        pins = self._pins(now)
        usable = repr((self.health.up.tolist(), sorted(drained), sorted(map(repr, pins.items()))))
        usable += repr(sorted(self._caps(now).items()))
        why = (
            "forced"
            if force
            else self._arbiter.due(usable.encode(), self.loop.shedding_since_ms, now)
        )
        if not why or self._load is None or (self._another_planned(now) and "POP" not in why):
            return
        estimates = self.known.estimates(now)
        if not self._enough(estimates):
            return
        started = time.process_time()
        inputs = self._inputs(estimates, pins, now)
        outcome = cycle.plan(inputs)
        self._arbiter.planned(usable.encode(), why, now)
        if outcome is None:
            return
        self._prices_us = outcome.assignment.price_us
        verdict = self._judge(outcome, inputs)
        with self._careful("publish"):
            self._conclude(outcome, verdict, inputs)
        logger().info(
            "planned",
            why=why,
            rows=len(outcome.table),
            prefixes=len(outcome.considered),
            generation=self.publisher.next_generation - 1,
            refused=self.refused,
            note=outcome.table.meta.note,
            cpu_ms=round((time.process_time() - started) * 1e3),
            window_age_s=round(cycle.data_age_s(outcome.table, now), 1),
        )

    def _another_planned(self, now: int) -> bool:
        """Whether another active planner put a table in force within this period."""
        with self._careful("pointer"):
            if self.publisher.refresh() and self.publisher.in_force is not None:
                self._theirs_ms = self.publisher.in_force.pointer.created_ms
        return now - self._theirs_ms < self._plan.latency_period_s * SECOND_MS

    def _enough(self, estimates: Estimates) -> bool:
        return (
            self.known.windows >= FIRST_WINDOWS or self.known.coverage(estimates) >= FIRST_COVERAGE
        )

    def _inputs(self, estimates: Estimates, pins: dict[Prefix, str], now: int) -> cycle.Inputs:
        assert self._load is not None
        in_force = self.publisher.in_force
        drained = self._orders.drained(now)
        table = in_force.table if in_force else None
        demand = self.known.demand_bps(self._load.load_bps)
        placed = load_bps(self._said(), demand, len(self.fleet.pops))
        return cycle.Inputs(
            now_ms=now,
            fleet=self.fleet,
            prefixes=self.known.prefixes,
            estimates=estimates,
            demand_bps=demand,
            capacity_bps=self.loop.plan_capacity_bps(self._load.capacity_bps, placed),
            up=self.health.up,
            drained=np.array([pop in drained for pop in self.fleet.pops]),
            pins=pins,
            in_force=table,
            policy=self._policy,
            move_gain_us=self._plan.move_gain_ms * 1e3,
            warm_us=self._prices_us,
            meta=TableMeta(
                generation=self.publisher.next_generation,
                parent=self.publisher.next_generation - 1,
                window_first_ms=self.known.window_first_ms,
                window_last_ms=self.known.window_last_ms,
                inputs=dict(self.known.sequences),
            ),
            terms=self._terms,
            places=self._atlas.places(self.known.prefixes) if self._atlas else None,
            networks=self._atlas.networks(self.known.prefixes) if self._atlas else None,
            rollout=self._rollout,
        )

    def _judge(self, outcome: cycle.Outcome, inputs: cycle.Inputs) -> Verdict:
        assert self._load is not None
        usable = self.fleet.serves & inputs.up & ~inputs.drained
        in_force = self.publisher.in_force
        case = Case(
            now_ms=inputs.now_ms,
            old=in_force.table if in_force else None,
            new=outcome.table,
            demand_bps=outcome.demand_bps,
            before=outcome.before,
            after=outcome.after,
            excused=cycle.excused(outcome, inputs),
            rtt_ratio=self._reference.rtt_ratio(outcome, len(self.fleet.pops)),
            pops_usable=int(usable.sum()),
            pops_all=len(self.fleet.pops),
            capacity_ratio_max=self._reference.capacity_ratio(self._load.rated_bps),
            measured_pops=self._reference.fresh_pops(inputs.estimates, len(self.fleet.pops)),
            measured_pops_before=self._reference.pops,
        )
        return judge(case)

    def _conclude(self, outcome: cycle.Outcome, verdict: Verdict, inputs: cycle.Inputs) -> None:
        assert self._load is not None
        frozen, estimates = self._freeze(inputs.now_ms), inputs.estimates
        if not verdict.good:
            self._refuse(outcome, verdict, estimates)
            return
        if frozen is not None:
            self.refused = f"frozen by order of {frozen.owner}: {frozen.reason}"
            return
        if self._rollout.mode is Mode.SHADOW:
            self.refused = "shadow: judged good and kept, but no DNS node loads it"
            self.publisher.refuse(outcome.table, "shadow", "plan.rollout is shadow")
            return
        published = self.publisher.publish(outcome.table)
        if published is None:
            logger().info("another planner was faster", generation=self.publisher.next_generation)
            return
        self.refused = ""
        self.published += 1
        self._rollout = outcome.rollout
        self._reference.accept(estimates, self._load.rated_bps, len(self.fleet.pops))
        load = cycle.planned_bps(outcome, len(self.fleet.pops))
        share = load / load.sum() if load.sum() else load
        self._shares.append((inputs.now_ms, share))
        # The table is in force; now there is time to say why.
        evidence = cycle.evidence(inputs, outcome)
        self.publisher.witness(replace(evidence, generation=published.meta.generation))
        self.publisher.want(cycle.wanted(inputs, outcome))
        give_back()

    def _refuse(self, outcome: cycle.Outcome, verdict: Verdict, estimates: Estimates) -> None:
        self.refused = f"{verdict.rule}: {verdict.reason}"
        logger().error("table refused", rule=verdict.rule, reason=verdict.reason)
        self._reference.relent(estimates, len(self.fleet.pops))
        self.publisher.refuse(outcome.table, verdict.rule, verdict.reason)


def _service_of(config: Config) -> Service | None:
    """Whose policy rules: the first, as one table serves all.

    Raises:
        ConfigError: services ask for different things, or for geography without a database.
    """
    if not config.service:
        return None
    one = config.service[0]
    for other in config.service:
        if (other.policy, other.band_ms) != (one.policy, one.band_ms):
            raise ConfigError(
                f"services {one.name} and {other.name}: policy and band_ms differ "
                f"({one.policy!r} and {other.policy!r}); one table serves all, so give them the "
                "same or plan them apart"
            )
    if one.policy in BY_LOCATION and not config.table.geography:
        raise ConfigError(
            f"service {one.name}: policy = {one.policy!r} goes by places; "
            "set table.geography to a MaxMind DB file with coordinates"
        )
    return one


def run(config: Config, once: bool = False) -> None:
    """Plan until SIGTERM, or until one table was judged.

    Raises:
        ConfigError: keys, targets or policies cannot be used.
        PopsteerError: with `once`, there was nothing to plan with.
    """
    log = configure("plan")
    keep_little()
    serve_metrics(config.telemetry.metrics)
    trust = config.trust
    signer = load_signer(config.path(trust.signing_key)) if trust.signing_key else None
    trusted = verifier(trust.public_keys) if trust.public_keys else None
    targets = targets_format.load(config.path(config.plan.targets)) if config.plan.targets else None
    planner = Planner(config, s3_store(config.aws), signer, trusted, targets)
    log.info("planning", pops=len(planner.fleet.pops), targets=len(targets) if targets else 0)
    if once:
        _run_once(planner)
        return
    ended = threading.Event()
    with _on_signals(ended.set):
        while not ended.is_set():
            started = time.monotonic()
            planner.step(now_ms())
            ended.wait(max(0.05, STEP_S - (time.monotonic() - started)))
    log.info("ended")


def _run_once(planner: Planner) -> None:
    """Step until a table was published or refused.

    Raises:
        PopsteerError: it was refused, or nothing came to plan with.
    """
    until = time.monotonic() + ONCE_PATIENCE_S
    while time.monotonic() < until:
        planner.step(now_ms())
        if planner.refused:
            raise PopsteerError(f"the table was refused: {planner.refused}")
        if planner.published:
            return
        time.sleep(STEP_S)
    raise PopsteerError("no table: there are no measurements to plan with; do the probes run?")


@contextlib.contextmanager
def _on_signals(end: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT end the loop between two steps; handlers are put back afterwards."""

    def handle(_number: int, _frame: object) -> None:
        end()

    old = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
