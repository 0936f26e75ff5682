"""One small world and its runs, for all tests of the module that asks."""

from dataclasses import replace

import pytest

from benchmarks.simulator.bench import DEFAULT, SHOWER, Cell, Run, delayed, run_policies
from benchmarks.simulator.options import SHORT, Options, Span

SMALL = Options(seed=1, timeline=SHORT, pops=40, prefixes=1_200, caches=2_500)


def silent(_: str) -> None:
    """Nobody listens."""


@pytest.fixture(scope="session")
def shower_runs() -> dict[str, Run]:
    """The default policy and the naive one through the same three quarters of an hour."""
    cell = Cell("small world", SMALL)
    return {run.policy: run for run in run_policies(cell, [DEFAULT, SHOWER], None, silent)}


@pytest.fixture(scope="session")
def delayed_run() -> Run:
    """The default policy with all delays tripled, up to the end of the flash crowd."""
    line = replace(SHORT, end_s=1_800, path_s=1_800, fail=Span(1_800, 1_800))
    line = replace(line, poison=Span(1_800, 1_800))
    cell = delayed(Cell("small world", replace(SMALL, timeline=line)), 3)
    return next(run_policies(cell, [DEFAULT], None, silent))
