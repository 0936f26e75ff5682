"""The matrix: every fault, one after another on one stage, and the table of what came out."""

import math
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from benchmarks.faults.kinesis_local import chosen as chosen_aws
from benchmarks.faults.scenarios import FAULTS
from benchmarks.faults.scene import Fault, Outcome, Scale, play
from benchmarks.faults.stage import Stage
from benchmarks.figure import Figure, finite, report
from popsteer.errors import ConfigError

WARM_UP = Scale(samples=20_000, offer_s=1.0, outage_s=0.0)
LONG = Scale(samples=1_000_000, offer_s=12.0, outage_s=20.0)


class Matrix:
    """Plays faults; a stage that a fault has left in disorder is replaced by a fresh one."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._seed = seed
        self._stack = ExitStack()
        self._stage: Stage | None = None
        self._run = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, fault: Fault, scale: Scale) -> Outcome:
        """Play one."""
        if self._stage is None or self._stage.broken:
            self._stack.close()
            folder = self._folder / f"stage-{self._run}"
            stage = Stage(folder, self._seed + self._run, chosen_aws(folder / "aws"))
            self._stage = self._stack.enter_context(stage)
            # So that no fault meets, or is measured with, what is still starting.
            self._play(FAULTS[0], WARM_UP)
        return self._play(fault, scale)

    def _play(self, fault: Fault, scale: Scale) -> Outcome:
        assert self._stage is not None
        self._run += 1
        return play(self._stage, fault, self._run, scale)


def chosen(only: str | None) -> list[Fault]:
    """The faults whose name contains a text; all without one.

    Raises:
        ConfigError: none does.
    """
    found = [fault for fault in FAULTS if only is None or only.lower() in fault.name.lower()]
    if not found:
        names = ", ".join(fault.name for fault in FAULTS)
        raise ConfigError(f"--only {only}: no such fault; there are {names}")
    return found


def run(
    screen: Console,
    json_path: Path | None,
    seed: int,
    samples: int,
    outage_s: float,
    only: str | None,
    times: int,
) -> int:
    """Play the matrix so many times, print it, write JSON; gives the exit code."""
    # A SIGTERM ends what was started here as a Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    scale = Scale(samples, LONG.offer_s, outage_s)
    rounds: list[list[Outcome]] = []
    for number in range(times):
        with tempfile.TemporaryDirectory(prefix="popsteer-faults-") as folder:
            outcomes = list(_round(screen, Path(folder), seed + 1_000 * number, scale, only))
        rounds.append(outcomes)
        screen.print(table(outcomes, f"fault matrix, seed {seed + 1_000 * number}"))
    figures = figures_of([outcome for outcomes in rounds for outcome in outcomes])
    content = [[facts(outcome) for outcome in outcomes] for outcomes in rounds]
    return report(screen, figures, json_path, rounds=content)


def _round(
    screen: Console, folder: Path, seed: int, scale: Scale, only: str | None
) -> Iterator[Outcome]:
    with Matrix(folder, seed) as matrix:
        for fault in chosen(only):
            if fault.needs_real and not chosen_aws(folder).as_real:
                screen.print(f"{fault.name}: not played, this AWS has no limits and no disk")
                continue
            begun_s = time.monotonic()
            outcome = matrix.play(fault, scale)
            took_s = time.monotonic() - begun_s
            screen.print(f"{line(outcome)} ({took_s:.0f} s)", highlight=False, soft_wrap=True)
            yield outcome


def line(outcome: Outcome) -> str:
    """An outcome for people."""
    said = (
        f"{outcome.fault}: sent {outcome.sent:,}, counted {outcome.counted:,}, "
        f"quarantined {outcome.quarantined:,}, wrong {outcome.wrong:,}, "
        f"recovered in {outcome.recovery_s:.1f} s"
    )
    return f"{said}; {outcome.error}" if outcome.error else said


def table(outcomes: Sequence[Outcome], title: str) -> Table:
    """The matrix."""
    shown = Table("fault", "sent", "counted", "quarantined", "wrong", "recovery s", "", title=title)
    shown.columns[0].no_wrap = True
    for one in outcomes:
        numbers = (one.sent, one.counted, one.quarantined, one.wrong)
        texts = [f"{number:,}" for number in numbers]
        verdict = "ok" if one.good else one.error or "WRONG"
        shown.add_row(one.fault, *texts, f"{one.recovery_s:.1f}", verdict)
    return shown


def facts(outcome: Outcome) -> dict[str, str | float | None]:
    """An outcome for programs; a recovery that never came is null."""
    recovery_s = finite(round(outcome.recovery_s, 2))
    return {**asdict(outcome), "recovery_s": recovery_s, "good": outcome.good}


def figures_of(outcomes: Sequence[Outcome]) -> list[Figure]:
    """The whole in a few figures; the bound is that every outcome is exact."""
    recovery_s = max((one.recovery_s for one in outcomes), default=0.0)
    return [
        Figure("faults", len(outcomes), math.inf, ""),
        Figure("not exact", sum(not outcome.good for outcome in outcomes), 0, ""),
        Figure("samples sent", sum(outcome.sent for outcome in outcomes), math.inf, ""),
        Figure("samples counted", sum(outcome.counted for outcome in outcomes), math.inf, ""),
        Figure("samples quarantined", sum(one.quarantined for one in outcomes), math.inf, ""),
        Figure("longest recovery, s", recovery_s, math.inf, "s"),
    ]
