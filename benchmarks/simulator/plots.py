"""Pictures of runs, as SVG and PNG: the shower and its cure, and the policies side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aggregator.policy import DEFAULT
from benchmarks.simulator.bench import SHOWER, Run
from benchmarks.simulator.options import Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTH_S = 10
SHOWN_POPS = 12
BAD, GOOD, PLAIN = "#c0392b", "#1a7f5a", "#4c6a92"


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """All pictures of one cell's runs; gives the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    by_policy = {run.policy: run for run in runs}
    written = []
    if {DEFAULT, SHOWER} <= by_policy.keys():
        written += _save(_shower(by_policy[SHOWER], by_policy[DEFAULT]), folder / "shower")
    written += _save(_over_time(runs), folder / "over-time")
    written += _save(_compared(runs), folder / "policies")
    return written


def _save(figure: "Figure", path: Path) -> list[Path]:
    from matplotlib import pyplot as plt

    files = [path.with_suffix(".svg"), path.with_suffix(".png")]
    for file in files:
        figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return files


def _shower(problem: Run, cure: Run) -> "Figure":
    """Utilisation of the POPs that swing most, first under naive feedback, then cured."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(11, 7), sharex=True, sharey=True)
    swing = problem.trace.used.std(axis=0)
    pops = np.argsort(-swing)[:SHOWN_POPS]
    for axis, run, colour, title in (
        (axes[0], problem, BAD, "The shower problem: RTT + queue feedback, delayed"),
        (axes[1], cure, GOOD, f"Its cure: {cure.policy}"),
    ):
        _events(axis, run.cell.options.timeline)
        for pop in pops.tolist():
            used = np.convolve(run.trace.used[:, pop], np.ones(SMOOTH_S) / SMOOTH_S, "valid")
            axis.plot(np.arange(len(used)) / 60, used, color=colour, alpha=0.5, linewidth=0.8)
        axis.axhline(1.0, color="black", linewidth=1, linestyle="--")
        axis.set_ylabel("utilisation of a POP")
        axis.set_title(
            f"{title}   (std {run.score.oscillation:.3f}, p99 {run.score.p99_ms:.0f} ms, "
            f"{run.score.overload_share:.2%} of demand beyond capacity)",
            loc="left",
            fontsize=10,
        )
    axes[1].set_xlabel("minutes")
    axes[1].set_ylim(0, 1.6)
    axes[1].set_xlim(problem.cell.options.timeline.warm_s / 60, None)
    return figure


def _events(axis: "Axes", line: Timeline) -> None:
    for name, span in (
        ("step", line.step), ("flash crowd", line.flash), ("POP down", line.fail),
        ("poison", line.poison),
    ):  # fmt: skip
        axis.axvspan(span.start_s / 60, span.end_s / 60, color="grey", alpha=0.12, linewidth=0)
        axis.text(span.start_s / 60, 0.98, f" {name}", fontsize=8, va="top",
                  transform=axis.get_xaxis_transform())  # fmt: skip
    axis.axvline(line.path_s / 60, color="grey", alpha=0.4, linewidth=1, linestyle=":")


def _over_time(runs: Sequence[Run]) -> "Figure":
    """Latency, overload and movement of all policies."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(11, 9), sharex=True)
    for run in runs:
        minutes = len(run.trace.latency_ms) // 60
        for axis, column, times in (
            (axes[0], run.trace.latency_ms, 1.0),
            (axes[1], run.trace.over, 100.0),
            (axes[2], run.trace.moved, 6_000.0),
        ):
            mean = column[: minutes * 60].reshape(minutes, 60).mean(axis=1) * times
            width = 2.0 if run.policy == DEFAULT else 0.9
            axis.plot(np.arange(minutes), np.maximum(mean, 1e-3), label=run.policy, linewidth=width)
    for axis, label in zip(
        axes, ("mean latency, ms", "beyond capacity, %", "moved, % a minute"), strict=True
    ):
        axis.set_yscale("log")
        axis.set_ylabel(label)
        _events(axis, runs[0].cell.options.timeline)
    axes[2].set_xlim(runs[0].cell.options.timeline.warm_s / 60, None)
    axes[2].set_xlabel("minutes")
    axes[0].legend(fontsize=8, ncol=4)
    return figure


def _compared(runs: Sequence[Run]) -> "Figure":
    from matplotlib import pyplot as plt

    shown = (
        ("p50, ms", "p50_ms"),
        ("p95, ms", "p95_ms"),
        ("p99, ms", "p99_ms"),
        ("oscillation (std)", "oscillation"),
        ("moved a minute", "moved_share_per_min"),
        ("misrouted", "misrouted_share"),
    )
    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    names = [run.policy for run in runs]
    colours = [GOOD if name == DEFAULT else BAD if name == SHOWER else PLAIN for name in names]
    for axis, (title, key) in zip(axes.ravel(), shown, strict=True):
        axis.barh(names, [run.score.facts()[key] for run in runs], color=colours)
        axis.set_title(title, fontsize=10)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8)
    axes[0, 2].set_xscale("log")
    figure.suptitle(f"Policies in the same world ({runs[0].cell.name})")
    figure.tight_layout()
    return figure
