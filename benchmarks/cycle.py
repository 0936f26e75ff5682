"""The planner's part of `popsteer bench pipeline`: a whole cycle, from partials to a table.

The real planner over a store in memory: partials as the fold writes them come in, a signed table
goes out. Times are CPU seconds; the solver's are told apart, for `popsteer bench solver` is about
those. DuckDB does the sums and medians of the same partials beside it, and has to agree.
"""

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aggregator.backups import backups
from aggregator.compare import answers
from aggregator.histogram import LOST, bucket_value_us
from aggregator.market import crew
from aggregator.merge import RttWindow, rtt_windows
from aggregator.partials import RttPartial, decode, window_prefix
from aggregator.planner import Planner
from aggregator.policy import POLICIES, Policy
from aggregator.prefixes import Prefixes
from aggregator.solve import Assignment, Problem
from aggregator.weights import moved_us, weighted
from benchmarks.cycle_world import T0_MS, WINDOW_MS, WINDOWS_A_ROUND, CycleWorld
from benchmarks.figure import Figure
from popsteer.samples import Kind
from popsteer.signing import Signer, verifier
from popsteer.store import MemoryStore
from popsteer.table import CURRENT_KEY

SHARDS = 4
CYCLES = 2
"""Warm ones, of which the last is told: the first compiles what no other did."""
UNLIMITED = float("inf")
GAP_MAX = 0.15
"""Percent of the bound that a table may cost more."""


@dataclass(slots=True)
class Stopwatch:
    """CPU and wall seconds of one call after another."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    def time(self, work: Callable[[], object]) -> "Stopwatch":
        """Do it and add up."""
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        work()
        self.cpu_s += time.process_time() - cpu_s
        self.wall_s += time.perf_counter() - wall_s
        return self


@dataclass(slots=True)
class NotingStore(MemoryStore):
    """Notes when a table came into force."""

    in_force_cpu_s: float = 0.0
    in_force_wall_s: float = 0.0

    def swap(self, key: str, body: bytes, etag: str) -> str:
        """See `ObjectStore.swap`."""
        # Not by super(): a slotted dataclass is another class than the one written here.
        new = MemoryStore.swap(self, key, body, etag)
        if key == CURRENT_KEY:
            self.in_force_cpu_s, self.in_force_wall_s = time.process_time(), time.perf_counter()
        return new


class TimedPolicy:
    """A policy that notes how long it and the choice of backups take."""

    def __init__(self, solve: Policy) -> None:
        self._solve = solve
        self.spent = Stopwatch()
        self.extra = Stopwatch()
        """The backups once more, which are otherwise chosen while rows are ranked."""
        self.judging = Stopwatch()
        """What the gap takes."""
        self.gap = -math.inf
        """Of the bound, how much more an assignment costs, moves included; the worst of all."""

    def __call__(self, problem: Problem) -> Assignment:
        """The policy's assignment."""
        solved: list[Assignment] = []
        self.spent = Stopwatch().time(lambda: solved.append(self._solve(problem)))
        with crew() as workers:
            self.extra = Stopwatch().time(lambda: backups(problem, solved[0], workers))
        gaps: list[float] = []
        self.judging = Stopwatch().time(lambda: gaps.append(_gap(problem, solved[0])))
        self.gap = max(self.gap, *gaps)
        return solved[0]


def _gap(problem: Problem, found: Assignment) -> float:
    demand = problem.demand_bps
    cost = weighted(found.share, problem.cost_us)
    cost += moved_us(found.share, problem.present, problem.move_us)
    known = ~np.isnan(cost)
    mean_us = float(demand[known] @ cost[known]) / float(demand[known].sum())
    return mean_us / found.moving_bound_us - 1


class Run:
    """A planner, its world and its store, stepped window by window."""

    def __init__(self, world: CycleWorld, policy: str, timed: TimedPolicy) -> None:
        self.world = world
        self.store = NotingStore()
        self.policy = timed
        signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
        trusted = verifier((signer.public_hex,))
        self.planner = Planner(world.config(policy), self.store, signer, trusted, world.targets())
        self._window = 0

    def report(self) -> int:
        """Another window's partials; gives the RTT rows."""
        self._window += 1
        world, in_force = self.world, self.planner.publisher.in_force
        said = answers(in_force.table if in_force else None, world.net, world.plen, world.pops)
        return world.report(self.store, self._window - 1, SHARDS, said)

    def read(self) -> Stopwatch:
        """Read and learn what was reported."""
        known = self.planner.known

        def read() -> None:
            known.read_signals()
            known.read_bulk(self.now_ms)

        return Stopwatch().time(read)

    def step(self) -> Stopwatch:
        """Whatever else a step does: loads, sheds, POP state, overview, and a table when due."""
        return Stopwatch().time(lambda: self.planner.step(self.now_ms))

    def plan(self) -> Stopwatch:
        """A table at once."""
        return Stopwatch().time(lambda: self.planner.latency_step(self.now_ms, force=True))

    @property
    def now_ms(self) -> int:
        """The end of the last window."""
        return T0_MS + self._window * WINDOW_MS

    def partials(self) -> list[RttPartial]:
        """Of the last window."""
        keys = self.store.list(window_prefix(Kind.RTT, self.now_ms - WINDOW_MS))
        decoded = [decode(self.store.objects[key]) for key in keys]
        return [partial for partial in decoded if isinstance(partial, RttPartial)]

    def bytes_of(self, prefix: str) -> int:
        """Size of the newest object."""
        return len(self.store.objects[self.store.list(prefix)[-1]])


def figures(prefixes: int, pops: int, measured: int, seed: int, policy: str) -> list[Figure]:
    """A world of so many prefixes with so many measured POPs each; a cold start, then cycles."""
    title, own = POLICIES[policy]
    timed = TimedPolicy(own)
    POLICIES[policy] = title, timed
    try:
        world = CycleWorld.make(prefixes, pops, measured, seed)
        return _figures(Run(world, policy, timed))
    finally:
        POLICIES[policy] = title, own


def _figures(run: Run) -> list[Figure]:
    for _ in range(WINDOWS_A_ROUND):
        run.report()
    read, cold = run.read(), run.step()
    told = [Figure("cold: read a minute and plan", read.cpu_s + cold.cpu_s, UNLIMITED, "CPU s")]
    for _ in range(CYCLES):
        rows = run.report()
        read, plan = run.read(), run.plan()
    told += _cycle(run, rows, read, plan)
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_024
    told.append(Figure("memory of the planner and its world", rss_mb, UNLIMITED, "MB"))
    return told + _merge(run)


def _cycle(run: Run, rows: int, read: Stopwatch, plan: Stopwatch) -> list[Figure]:
    store, spent, again = run.store, run.policy.spent, run.policy.extra
    judging, gap = run.policy.judging, 100 * run.policy.gap
    solver_s = spent.cpu_s + again.cpu_s
    after_cpu_s = time.process_time() - store.in_force_cpu_s
    after_wall_s = time.perf_counter() - store.in_force_wall_s
    # The backups are chosen twice here: once in their place, once to see what they cost.
    cpu_s = read.cpu_s + plan.cpu_s - after_cpu_s - again.cpu_s - judging.cpu_s
    wall_s = read.wall_s + plan.wall_s - after_wall_s - again.wall_s - judging.wall_s
    table_mb = run.bytes_of("tables/0") / 1e6
    return [
        Figure("tables refused", CYCLES + 1 - run.planner.published, 0, ""),
        *(
            [Figure("certified gap, moves included", gap, GAP_MAX, "%")]
            if math.isfinite(gap)
            else []
        ),
        Figure("read, merge and estimate, a million pairs", read.cpu_s / rows * 1e6, 2, "CPU s"),
        Figure("new partials to a published table", wall_s, 5, "s"),
        Figure("the same on both cores", cpu_s, UNLIMITED, "CPU s"),
        Figure("of it the solver", solver_s, UNLIMITED, "CPU s"),
        Figure("of it all but the solver", cpu_s - solver_s, 4, "CPU s"),
        Figure("evidence and measurement plan, afterwards", after_cpu_s, UNLIMITED, "CPU s"),
        Figure("table", table_mb, UNLIMITED, "MB"),
        Figure("evidence", run.bytes_of("evidence/") / 1e6, 4 * table_mb, "MB"),
    ]


def _merge(run: Run) -> list[Figure]:
    """Sums and medians of a window, ours and DuckDB's."""
    partials, pops = run.partials(), run.planner.fleet.pops
    prefixes = Prefixes()
    merged: list[RttWindow] = []
    ours = Stopwatch().time(lambda: merged.extend(rtt_windows(partials, prefixes, pops)))
    rows = pa.concat_tables([_arrow(partial) for partial in partials])
    found: list[pa.Table] = []
    theirs = Stopwatch().time(lambda: found.append(_by_duckdb(rows)))
    (window,) = merged
    each = 1e6 / len(window.key)
    wrong = _differing(window, prefixes, len(pops), found[0])
    return [
        Figure("merge alone, a million pairs", ours.cpu_s * each, UNLIMITED, "CPU s"),
        Figure("the same by DuckDB", theirs.cpu_s * each, UNLIMITED, "CPU s"),
        Figure("pairs on which DuckDB disagrees", wrong, 0, ""),
    ]


def _arrow(partial: RttPartial) -> pa.Table:
    """The rows as DuckDB takes them; a lost probe took longer than any."""
    rank = np.where(partial.bucket == LOST, np.iinfo(np.int16).max, partial.bucket)
    columns = ("net", "plen", "pop", "count")
    return pa.table({name: getattr(partial, name) for name in columns} | {"rank": rank})


def _by_duckdb(rows: pa.Table) -> pa.Table:
    """The lower median and the count of each pair; every row is one probe."""
    with duckdb.connect() as database:
        database.register("probe", rows)
        query = """
            SELECT net, plen, pop, quantile_disc(rank, 0.5) AS rank, sum(count) AS count
            FROM probe GROUP BY net, plen, pop ORDER BY plen, net, pop
        """
        return database.sql(query).to_arrow_table()


def _differing(window: RttWindow, prefixes: Prefixes, pops: int, theirs: pa.Table) -> int:
    """Pairs whose median or count is not what DuckDB found."""
    row, pop = np.divmod(window.key, pops)
    order = np.lexsort((pop, prefixes.net[row], prefixes.plen[row]))
    if len(order) != len(theirs):
        return abs(len(order) - len(theirs))
    rank = theirs["rank"].to_numpy()
    median = bucket_value_us(np.where(rank == np.iinfo(np.int16).max, LOST, rank).astype(np.int16))
    count = (window.answered + window.lost)[order]
    same = np.isclose(window.median_us[order], median, rtol=1e-9, equal_nan=True)
    same &= count == theirs["count"].to_numpy().astype(np.float64)
    same &= prefixes.net[row[order]] == theirs["net"].to_numpy()
    return int((~same).sum())
