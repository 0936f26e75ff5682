"""`popsteer bench policies`: all steering policies in the same closed-loop worlds.

The grid is headroom by TTL; the middle of it (headroom 1.4, TTL 20 s: the planner's defaults on a
fleet with some room) runs for two virtual hours. There the default policy must keep the bounds of
the shower test, with any seed: it stays calm, also when all delays are tripled, while naive
feedback oscillates. The other cells are for comparison: where caches keep an answer for five
minutes, nothing moves within one. A missed bound is exit code 1. Two processes share the work.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.table import Table

from aggregator.policy import DEFAULT
from benchmarks.figure import Figure, finite, report
from benchmarks.simulator.bench import (
    OSCILLATION_MAX,
    SHOWER,
    SPEED_MIN,
    Cell,
    Run,
    Work,
    all_policies,
    delayed,
    run_all,
    shower_bounds,
    stability_bounds,
    with_ttl,
)
from benchmarks.simulator.options import SHORT, Options, Timeline
from benchmarks.simulator.score import MISROUTED_MS
from popsteer.errors import ConfigError

HEADROOMS = (1.15, 1.4, 2.0)
TTLS_S = (20, 60, 300)
DELAY_FACTOR = 3
PROCESSES = 2
PARTS = 3
"""Pieces of work that the policies of a cell are dealt to: progress is told piece by piece."""
FILE_WIDTH = 230
"""Columns, where the output is no terminal: the tables are wide."""
QUICK_POPS, QUICK_PREFIXES, QUICK_CACHES = 40, 1_200, 2_500

COLUMNS = (
    ("mean", "mean_ms", "{:.1f}"),
    ("p50", "p50_ms", "{:.1f}"),
    ("p95", "p95_ms", "{:.0f}"),
    ("p99", "p99_ms", "{:.0f}"),
    ("better", "improved_share", "{:.1%}"),
    ("worse", "worsened_share", "{:.1%}"),
    ("over min", "overload_min", "{:.1f}"),
    ("over", "overload_share", "{:.3%}"),
    ("moved/min", "moved_share_per_min", "{:.2%}"),
    ("needed", "necessary_share_per_min", "{:.2%}"),
    ("flips/h", "flips_per_prefix_h", "{:.2f}"),
    ("osc", "oscillation", "{:.4f}"),
    ("calm", "oscillation_calm", "{:.4f}"),
    ("misrouted", "misrouted_share", "{:.2%}"),
    ("by rank", "misrouted_ranked_share", "{:.2%}"),
    ("far", "far_share", "{:.2%}"),
    ("far best", "far_optimum_share", "{:.2%}"),
    ("flash s", "recovery_flash_s", "{:.0f}"),
    ("fail s", "recovery_fail_s", "{:.0f}"),
)

LEGEND = (
    f"misrouted: users at a live POP that is both more than {MISROUTED_MS:g} ms slower than the "
    f"mean that the optimum under capacities gives their group, and more than {MISROUTED_MS:g} ms "
    "dearer than their best POP, prices of scarce capacity included.\n"
    "by rank: a group's users, the fastest first, compared one by one with those of the optimum; "
    f"more than {MISROUTED_MS:g} ms slower.\n"
    f"far: users more than {MISROUTED_MS:g} ms slower than that mean, at any price; far best: the "
    "same of the optimum itself, which splits groups.\n"
    "oracle: the optimum of the minute, published at once; what it misses is what caches make of "
    "it, and no policy avoids.\n"
    "Where demand does not fit into the POPs near it, they are built larger than the headroom says."
)


def run(
    json_path: Path | None = None,
    plots_dir: Path | None = None,
    quick: bool = False,
    world: Path | None = None,
    seed: int = 1,
    pops: int = 100,
    prefixes: int = 3_500,
    caches: int = 7_000,
    fail_s: int | None = None,
) -> int:
    """Run all policies; print a table and the bounds, write JSON and pictures.

    Args:
        json_path: File for the figures.
        plots_dir: Folder for pictures (SVG and PNG); needs matplotlib.
        quick: A small world, the middle of the grid alone: about a minute.
        world: A world file; without one, a world is generated from the seed.
        seed: Of everything random.
        pops: POPs of the world.
        prefixes: Client prefixes.
        caches: Resolver caches, at least one for each prefix.
        fail_s: When the POP fails, in seconds of virtual time.

    Returns:
        The exit code: 1 when a bound is missed.

    Raises:
        ConfigError: pictures are wanted and matplotlib is not installed.
    """
    if plots_dir is not None and find_spec("matplotlib") is None:
        raise ConfigError("--plots: pictures need matplotlib; `uv sync` installs it")
    screen = Console()
    if not screen.is_terminal:
        screen = Console(width=FILE_WIDTH)
    options = Options(seed=seed, pops=pops, prefixes=prefixes, caches=caches)
    if quick:
        options = _quick(options)
    options = replace(options, timeline=_failing_at(options.timeline, fail_s))
    middle = with_ttl(Cell("", options), options.headroom, options.ttl_s)
    screen.print(f"seed {seed}")
    runs = _runs(screen, Work(middle, (DEFAULT,), world), _works(middle, quick, world))
    _show(screen, runs)
    if plots_dir is not None:
        from benchmarks.simulator.plots import draw

        for file in draw([one for one in runs if one.cell == middle], plots_dir):
            screen.print(f"wrote {file}")
    figures = _bounds(runs, middle) + _told(runs, middle)
    return report(screen, figures, json_path, seed=seed, runs=[_facts(run) for run in runs])


def _works(middle: Cell, quick: bool, world: Path | None) -> list[Work]:
    """Long ones first, so that the processes end together."""
    works = _dealt(middle, world, [one for one in all_policies() if one != DEFAULT])
    works.append(Work(delayed(middle, DELAY_FACTOR), (DEFAULT,), world))
    if not quick:
        works += [work for cell in _grid(middle) for work in _dealt(cell, world, all_policies())]
    return works


def _dealt(cell: Cell, world: Path | None, policies: Sequence[str]) -> list[Work]:
    return [Work(cell, tuple(policies[part::PARTS]), world) for part in range(PARTS)]


def _runs(screen: Console, timed: Work, works: Sequence[Work]) -> list[Run]:
    """All runs in the order of cells and policies, whoever is done first.

    `timed` runs alone, as two processes on the threads of one core slow each other down, and last,
    when the machine code of all that a run may need is on disk.
    """
    begun_s, done = time.monotonic(), 0
    found: list[Run] = []
    total = sum(len(work.policies) for work in (timed, *works))
    screen.print(f"{total} runs in {PROCESSES} processes …")
    for work, runs in chain(run_all(works, PROCESSES), run_all([timed], 1)):
        found += runs
        done += len(runs)
        passed_s = time.monotonic() - begun_s
        names = ", ".join(work.policies)
        screen.print(f"{passed_s:5.0f} s  {done:3}/{total}  {work.cell.name}: {names}")
    cells = list(dict.fromkeys(work.cell for work in (timed, *works)))
    order = all_policies()
    return sorted(found, key=lambda one: (cells.index(one.cell), order.index(one.policy)))


def _quick(options: Options) -> Options:
    """A small world and a short time."""
    return replace(
        options,
        timeline=SHORT,
        pops=QUICK_POPS,
        prefixes=QUICK_PREFIXES,
        caches=QUICK_CACHES,
    )


def _grid(middle: Cell) -> list[Cell]:
    """The other cells; shorter, for the middle one is where time is worth most."""
    short = Cell("", replace(middle.options, timeline=SHORT))
    cells = [with_ttl(short, headroom, ttl_s) for headroom in HEADROOMS for ttl_s in TTLS_S]
    return [cell for cell in cells if cell.name != middle.name]


def _failing_at(line: Timeline, fail_s: int | None) -> Timeline:
    if fail_s is None:
        return line
    length = line.fail.end_s - line.fail.start_s
    return replace(line, fail=replace(line.fail, start_s=fail_s, end_s=fail_s + length))


def _bounds(runs: Sequence[Run], middle: Cell) -> list[Figure]:
    here = {one.policy: one for one in runs if one.cell == middle}
    late = next(one for one in runs if one.cell.name.endswith(f"x{DELAY_FACTOR}"))
    bounds = shower_bounds(here[DEFAULT]) + stability_bounds(late)
    naive = here[SHOWER].score.oscillation
    bounds.append(Figure(f"{SHOWER}: oscillates", naive, OSCILLATION_MAX, "", at_least=True))
    speed, told = here[DEFAULT].score.speed, "virtual over CPU time, planner included"
    bounds.append(Figure(told, speed, SPEED_MIN, "x", at_least=True))
    return bounds


def _told(runs: Sequence[Run], middle: Cell) -> list[Figure]:
    """What is worth knowing beside the bounds."""
    score = next(one for one in runs if one.cell == middle and one.policy == DEFAULT).score
    return [
        Figure("p50_ms", score.p50_ms, math.inf, "ms"),
        Figure("p95_ms", score.p95_ms, math.inf, "ms"),
        Figure("p99_ms", score.p99_ms, math.inf, "ms"),
        Figure("speed_world", score.speed_world, math.inf, "x"),
    ]


def _show(screen: Console, runs: Sequence[Run]) -> None:
    for cell in dict.fromkeys(one.cell for one in runs):
        table = Table("policy", *(title for title, _, _ in COLUMNS), title=cell.name)
        for one in runs:
            if one.cell == cell:
                facts = one.score.facts()
                table.add_row(one.policy, *(shape.format(facts[key]) for _, key, shape in COLUMNS))
        screen.print(table)
    screen.print(LEGEND)


def _facts(run: Run) -> dict[str, object]:
    return {
        "cell": run.cell.name,
        "policy": run.policy,
        "refused": list(run.refused),
        **{name: finite(value) for name, value in run.score.facts().items()},
    }
