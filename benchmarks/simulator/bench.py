"""Many runs: every policy in the same worlds, and the bounds that the default one must keep."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from aggregator.policy import POLICIES
from benchmarks.figure import Figure
from benchmarks.simulator.baselines import BASELINES
from benchmarks.simulator.options import Options
from benchmarks.simulator.oracle import ORACLE, Oracle
from benchmarks.simulator.reference import Reference, furnished
from benchmarks.simulator.score import Best, Score, Trace, score
from benchmarks.simulator.simulation import Simulation
from benchmarks.simulator.steering import Production, Steering

SHOWER = "naive-feedback"

RECOVERY_FLASH_S = 60
RECOVERY_FAIL_S = 90
OSCILLATION_MAX = 0.015
MOVED_FACTOR_MAX = 2.0
MISROUTED_MAX = 0.007
OVERLOAD_FRESH_MIN_MAX = 0.1
"""Minutes; a few seconds of noise above a full POP's capacity are no overload of its own."""
SPEED_MIN = 500.0

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Each process keeps to one core, so that two runs at once do not disturb each other."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One world in which all policies run."""

    name: str
    options: Options


@dataclass(frozen=True, slots=True)
class Run:
    """One policy in one cell."""

    cell: Cell
    policy: str
    score: Score
    trace: Trace
    refused: tuple[str, ...]
    """What the guard said of tables that it refused."""


@dataclass(frozen=True, slots=True)
class Work:
    """Policies to run in one cell, by one process."""

    cell: Cell
    policies: tuple[str, ...]
    world: Path | None


def steering_of(reference: Reference, policy: str) -> Steering:
    """The oracle, a baseline by its name, or the production planner with one of its policies."""
    if policy == ORACLE:
        return Oracle(reference)
    if policy in BASELINES:
        return BASELINES[policy](reference.setting)
    return Production(reference.setting, policy)


def run_policies(work: Work) -> list[Run]:
    """Policies in one world, against the same reference."""
    cell = work.cell
    reference = furnished(cell.options, work.world)
    line = cell.options.timeline
    counts = (line.warm_s, line.end_s)
    best = Best(reference.moved_per_min(*counts), reference.far(*counts))
    runs = []
    for policy in work.policies:
        steering = steering_of(reference, policy)
        trace = Simulation(reference.setting, steering, reference).run()
        figures = score(trace, line, best, (RECOVERY_FLASH_S, RECOVERY_FAIL_S))
        refused = tuple(steering.refused) if isinstance(steering, Production) else ()
        runs.append(Run(cell, policy, figures, trace, refused))
    return runs


def run_all(works: Sequence[Work], processes: int) -> Iterator[tuple[Work, list[Run]]]:
    """Each piece of work as it is done, several at a time."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=fresh) as pool:
            doing = {pool.submit(run_policies, work): work for work in works}
            for done in as_completed(doing):
                yield doing[done], done.result()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def all_policies() -> list[str]:
    """What no policy can beat, baselines, then what production offers."""
    return [ORACLE, *BASELINES, *POLICIES]


def delayed(cell: Cell, factor: int) -> Cell:
    """The same world, but everything is measured and published later."""
    return Cell(f"{cell.name}, delay x{factor}", cell.options.delayed(factor))


def with_ttl(cell: Cell, headroom: float, ttl_s: int) -> Cell:
    """The same world with other capacities and another TTL."""
    options = replace(cell.options, headroom=headroom, ttl_s=ttl_s)
    return Cell(f"headroom {headroom:g}, TTL {ttl_s} s", options)


def stability_bounds(run: Run) -> list[Figure]:
    """No sustained oscillation."""
    name, figures = f"{run.policy} ({run.cell.name})", run.score
    return [
        Figure(f"{name}: oscillation", figures.oscillation, OSCILLATION_MAX, ""),
        Figure(f"{name}: oscillation in the calm", figures.oscillation_calm, OSCILLATION_MAX, ""),
    ]


def shower_bounds(run: Run) -> list[Figure]:
    """All that the shower test asks of a policy."""
    name, figures = f"{run.policy} ({run.cell.name})", run.score
    fresh_min, flash_s = figures.overload_fresh_min, figures.recovery_flash_s
    allowed = MOVED_FACTOR_MAX * figures.necessary_share_per_min
    return [
        *stability_bounds(run),
        Figure(f"{name}: demand moved a minute", figures.moved_share_per_min, allowed, ""),
        Figure(f"{name}: misrouted", figures.misrouted_share, MISROUTED_MAX, ""),
        Figure(f"{name}: overload without violators", fresh_min, OVERLOAD_FRESH_MIN_MAX, "min"),
        Figure(f"{name}: recovery from the flash", flash_s, RECOVERY_FLASH_S, "s"),
        Figure(f"{name}: recovery from the failure", figures.recovery_fail_s, RECOVERY_FAIL_S, "s"),
    ]
