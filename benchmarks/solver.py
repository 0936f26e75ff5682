"""`popsteer bench solver`: time, quality and memory of the assignment, beside its peers.

Each part runs in a process of its own, so that its peak memory is its own and the peers' is not
counted. Every solution is checked against the market itself: loads are summed anew, and the bound
is the one that the prices prove. Times are the best of a few runs; what was compiled before is
told, not timed. What an overload costs is part of a solution's cost; where there is one, a maximum
flow tells whether it could have been avoided.
"""

import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

from aggregator.market import Crew, Ints, Market, crew
from aggregator.newton import overflow_cost
from aggregator.prices import Cleared, clear
from benchmarks.figure import Figure, report
from benchmarks.solver_peers import Peer, flow, has_flow, highs, unavoidable
from benchmarks.solver_world import Shape, changed, make_market

THREADS = 2
MOVE_US = 1_500.0
"""What a row must gain before it moves, in the warm runs."""
WARM_UP_ROWS = 5_000
OVER_MAX = 1e-6
"""Load over capacity that counts as none: the rounding of float32 sums."""
NONE = float("inf")
GAP_MAX, SHORT_GAP_MAX = 0.15, 1.0
"""Percent of the bound that a solution may cost more; the second where not all demand fits."""
COLD_S_MAX, WARM_S_MAX, MANY_S_MAX, MEMORY_GB_MAX = 2.0, 0.3, 10.0, 1.0
PROMISED = Shape()
"""The sizes for which these are meant; for a larger or fuller instance they grow with it."""
FREE_MIN = 0.05
"""Of all capacity: what is free at the least, as far as times go by it."""
MANY_ROWS = 5_000_000
CHANGE = 0.01
RUNS, MANY_RUNS = 3, 2
WARM_RUNS = 2
"""Times as many as cold ones: they are short."""
Result = TypeVar("Result")
INK = {"popsteer": "#2a6fdb", "HiGHS": "#c2571a", "OR-Tools flow": "#3c8a4e"}


@dataclass(frozen=True, slots=True)
class Solved:
    """How one solution came out."""

    name: str
    rows: int
    wall_s: float
    cpu_s: float
    gap: float
    """Of the bound, how much more the solution costs; moving and overload included."""
    over_share: float
    """Of all demand, what lies above capacities."""
    must_share: float
    """Of all demand, what fits nowhere."""
    moved_share: float
    mean_us: float


@dataclass(frozen=True, slots=True)
class Part:
    """What one process measured."""

    solved: tuple[Solved, ...]
    compile_s: float
    memory_bytes: float


def run(
    json_path: Path | None = None,
    plots_dir: Path | None = None,
    rows: int = 1_000_000,
    many_rows: int = MANY_ROWS,
    highs_rows: int = 100_000,
    flow_rows: int = 1_000_000,
    pops: int = 600,
    candidates: int = 8,
    utilisation: float = 0.75,
    change: float = CHANGE,
    seed: int = 1,
) -> int:
    """Solve cold and warm, compare with HiGHS and min-cost flow; print the bounds, write JSON.

    Args:
        json_path: File for the figures.
        plots_dir: Folder for a picture of time against rows (SVG and PNG); needs matplotlib.
        rows: Prefixes of the main instance.
        many_rows: Prefixes of the largest one; 0 leaves it out.
        highs_rows: Prefixes of the one that HiGHS solves, too; 0 leaves it out.
        flow_rows: Prefixes of the one that OR-Tools solves, too; 0 leaves it out.
        pops: POPs, each with two to six links.
        candidates: POPs that a prefix can be sent to.
        utilisation: Demand over the capacity of all POPs.
        change: Share of rows and capacities that are another in the warm run.
        seed: Of everything random.

    Returns:
        The exit code: 1 when a bound is missed.
    """
    screen = Console()
    shape = Shape(rows, pops, candidates, seed, utilisation)
    main = _apart(_measure, shape, change, RUNS)
    screen.print(f"compiled or loaded in {main.compile_s:.1f} s, not part of any time below")
    solved = list(main.solved)
    figures = _main_figures(main, shape, change)
    if many_rows:
        many = _apart(_measure, replace(shape, rows=many_rows), change, MANY_RUNS).solved
        longer = max(many_rows / MANY_ROWS, 1.0) * _larger(replace(shape, rows=0))
        figures += _judgement(many[0], f"{many_rows:,} rows, cold", MANY_S_MAX * longer)
        solved += many
    peers, beside = _compared(screen, shape, highs_rows, flow_rows, solved)
    figures += beside
    _show(screen, solved, peers)
    if plots_dir is not None:
        screen.print(f"wrote {_draw(solved, peers, plots_dir)}")
    more = {"solved": [asdict(s) for s in solved], "peers": [asdict(p) for p in peers]}
    return report(screen, figures, json_path, **more)


def _compared(
    screen: Console, shape: Shape, highs_rows: int, flow_rows: int, solved: list[Solved]
) -> tuple[list[Peer], list[Figure]]:
    """What the peers found, and how much more ours costs; solutions of their sizes are added."""
    peers, figures = [], []
    wanted: list[tuple[int, Callable[[Shape], Peer]]] = [(highs_rows, highs)]
    if has_flow():
        wanted.append((flow_rows, flow))
    else:
        screen.print("OR-Tools is not installed: no minimum cost flow beside it")
    for count, peer in wanted:
        if not count:
            continue
        found = replace(_apart(peer, replace(shape, rows=count)), rows=count)
        if math.isnan(found.mean_us):
            screen.print(f"{found.name} found no solution in {found.wall_s:.0f} s: left out")
            continue
        peers.append(found)
        figures.append(_beside(found, shape, solved))
    return peers, figures


def _beside(peer: Peer, shape: Shape, solved: list[Solved]) -> Figure:
    """How much more our solution costs; where there is none of that size yet, it is added."""
    if all(one.rows != peer.rows for one in solved):
        solved += _apart(_measure, replace(shape, rows=peer.rows), 0.0, 1).solved
    ours = next(one for one in solved if one.rows == peer.rows)
    more = 100 * (ours.mean_us / peer.mean_us - 1)
    # Peers pay the same for each bit too much: what they overload is not what we do.
    bound = 0.1 if ours.must_share <= OVER_MAX else NONE
    return Figure(f"over {peer.name}'s optimum, {peer.rows:,} rows", more, bound, "%")


def _main_figures(part: Part, shape: Shape, change: float) -> list[Figure]:
    """What is promised of the main instance; without a change there is no warm solution."""
    larger = _larger(shape)
    limits = COLD_S_MAX * larger, WARM_S_MAX * larger * max(change / CHANGE, 1.0)
    figures = []
    for one, wall_s_max in zip(part.solved, limits, strict=False):
        figures += _judgement(one, one.name, wall_s_max)
    figures += [
        Figure(f"{one.name}, moved", 100 * one.moved_share, NONE, "%") for one in part.solved[1:]
    ]
    memory = MEMORY_GB_MAX * max(shape.rows / PROMISED.rows, 1.0)
    memory *= max(shape.candidates / PROMISED.candidates, 1.0)
    return [*figures, Figure("memory, instance included", part.memory_bytes / 1e9, memory, "GB")]


def _judgement(one: Solved, name: str, wall_s_max: float) -> list[Figure]:
    """Of one solution. What does not fit takes the time that it takes, and overflows."""
    fits = one.must_share <= OVER_MAX
    figures = [
        Figure(name, one.wall_s, wall_s_max if fits else NONE, "s"),
        Figure(f"{name}, processor time", one.cpu_s, NONE, "s"),
        Figure(f"{name}, certified gap", 100 * one.gap, GAP_MAX if fits else SHORT_GAP_MAX, "%"),
        Figure(f"{name}, overload", one.over_share, OVER_MAX if fits else NONE, ""),
    ]
    if not fits:
        figures.append(Figure(f"{name}, overload that no one avoids", one.must_share, NONE, ""))
    return figures


def _larger(shape: Shape) -> float:
    """By how much an instance is larger than the one that the bounds are for; 1 if it is not."""
    each = (
        shape.rows / PROMISED.rows,
        shape.candidates / PROMISED.candidates,
        # Of every POP and link the method knows how it goes with every other.
        (shape.pops / PROMISED.pops) ** 2,
        # The fuller, the more of them are scarce.
        (1 - PROMISED.utilisation) / max(1 - shape.utilisation, FREE_MIN),
    )
    return math.prod(max(one, 1.0) for one in each)


def _apart(work: Callable[..., Result], *args: object) -> Result:
    """The result of a function that had a process for itself."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def _measure(shape: Shape, change: float, runs: int) -> Part:
    start = time.perf_counter()
    with crew(THREADS) as workers:
        small = make_market(replace(shape, rows=WARM_UP_ROWS))
        clear(small, workers, clear(small, workers).price_us)
        compile_s = time.perf_counter() - start
        market = make_market(shape)
        cold, first = _best("cold", market, None, runs, workers)
        solved = [replace(cold, rows=shape.rows)]
        if change:
            later = changed(market, change, shape.seed + 1)
            del market
            warm, _ = _best("warm", _sticky(later, first.at), first, WARM_RUNS * runs, workers)
            solved.append(replace(warm, rows=shape.rows))
    memory = 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Part(tuple(solved), compile_s, memory)


def _best(
    name: str, market: Market, before: Cleared | None, runs: int, workers: Crew
) -> tuple[Solved, Cleared]:
    """The fastest of a few equal runs."""
    times, warm = [], None if before is None else before.price_us
    for _ in range(runs):
        start, cpu = time.perf_counter(), time.process_time()
        cleared = clear(market, workers, warm)
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    wall_s, cpu_s = min(times)
    return _judged(name, market, cleared, wall_s, cpu_s, before), cleared


def _judged(
    name: str, market: Market, cleared: Cleared, wall_s: float, cpu_s: float, before: Cleared | None
) -> Solved:
    """What the market itself says of a solution."""
    row, split = np.arange(len(market)), cleared.split
    whole = np.ones(len(market), bool)
    whole[split] = False
    demand = market.demand.astype(np.float64)
    load, all_demand = np.zeros(len(market.capacity)), float(demand.sum())
    for number in (market.pop, market.link):
        load += np.bincount(number[row, cleared.at], demand * whole, len(load))
        part = cleared.part * demand[split, None]
        load += np.bincount(number[split].ravel(), part.ravel(), len(load))
    spent = float(market.cost_us[row, cleared.at] @ (demand * whole))
    spent += float((market.cost_us[split] * part).sum())
    over = float(np.maximum(load - market.capacity, 0.0).sum()) / all_demand
    must = _apart(unavoidable, market) if over > OVER_MAX else 0.0
    moved = 0.0 if before is None else float(demand[before.at != cleared.at].sum()) / all_demand
    gap = (spent + overflow_cost(market.capacity, load)) / cleared.bound - 1
    mean_us = spent / all_demand
    return Solved(name, len(market), wall_s, cpu_s, gap, over, must, moved, mean_us)


def _sticky(market: Market, at: Ints) -> Market:
    """The market in which leaving the present candidate costs something."""
    cost = market.cost_us + np.float32(MOVE_US)
    row = np.arange(len(market))
    cost[row, at] = market.cost_us[row, at]
    return replace(market, cost_us=cost)


def _show(screen: Console, solved: list[Solved], peers: list[Peer]) -> None:
    table = Table("solver", "rows", "wall s", "cpu s", "mean ms", "gap", "overload", "moved")
    for one in solved:
        table.add_row(
            f"popsteer, {one.name}",
            f"{one.rows:,}",
            f"{one.wall_s:.2f}",
            f"{one.cpu_s:.2f}",
            f"{one.mean_us / 1e3:.4f}",
            f"{one.gap:.4%}",
            f"{one.over_share:.5%}",
            f"{one.moved_share:.2%}",
        )
    for peer in peers:
        mean = f"{peer.mean_us / 1e3:.4f}"
        wall, cpu = f"{peer.wall_s:.2f}", f"{peer.cpu_s:.2f}"
        table.add_row(peer.name, f"{peer.rows:,}", wall, cpu, mean, "", "", "")
    screen.print(table)


def _draw(solved: list[Solved], peers: list[Peer], folder: Path) -> str:
    """Time against rows, both logarithmic."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    ours = sorted((one.rows, one.wall_s) for one in solved if one.name == "cold")
    axes.loglog(*zip(*ours, strict=True), marker="o", color=INK["popsteer"], label="popsteer")
    for peer in peers:
        axes.loglog(
            [peer.rows], [peer.wall_s], "s", color=INK.get(peer.name, "grey"), label=peer.name
        )
    axes.set(xlabel="prefixes", ylabel="seconds, cold", title="Assignment of prefixes to POPs")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("svg", "png"):
        figure.savefig(folder / f"solver.{kind}", dpi=150)
    plt.close(figure)
    return str(folder / "solver.svg")
