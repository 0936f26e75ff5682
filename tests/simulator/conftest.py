"""One small world and its runs, for all tests of the module that asks."""

from dataclasses import replace

import pytest

from aggregator.policy import DEFAULT
from benchmarks.simulator.bench import SHOWER, Cell, Run, Work, delayed, run_policies
from benchmarks.simulator.options import SHORT, Options, Span

SMALL = Options(timeline=SHORT, pops=40, prefixes=1_200, caches=2_500)
SEEDS = (1, 2)


@pytest.fixture(scope="session")
def shower_runs() -> dict[tuple[str, int], Run]:
    """By policy and seed: the default one in two worlds, the naive one in the first alone."""
    runs = {}
    for seed in SEEDS:
        cell = Cell("small world", replace(SMALL, seed=seed))
        policies = (DEFAULT, SHOWER) if seed == SEEDS[0] else (DEFAULT,)
        for run in run_policies(Work(cell, policies, None)):
            runs[run.policy, seed] = run
    return runs


@pytest.fixture(scope="session")
def delayed_run() -> Run:
    """The default policy with all delays tripled, up to the end of the flash crowd."""
    line = replace(SHORT, end_s=1_800, path_s=1_800, fail=Span(1_800, 1_800))
    line = replace(line, poison=Span(1_800, 1_800))
    cell = delayed(Cell("small world", replace(SMALL, timeline=line)), 3)
    return run_policies(Work(cell, (DEFAULT,), None))[0]
