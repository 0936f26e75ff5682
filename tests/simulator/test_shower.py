"""The shower test: no loop may swing, whatever happens, and the test must be able to fail.

Everybody turns the tap at once when what they feel is late. The default policy goes through a
step of load, a flash crowd, changed paths, a dead POP and poison, and is measured against what
was necessary. A failure prints the seed.
"""

import pytest

from aggregator.policy import DEFAULT
from benchmarks.simulator.bench import (
    OSCILLATION_MAX,
    SHOWER,
    Run,
    shower_bounds,
    stability_bounds,
)

Runs = dict[tuple[str, int], Run]

pytestmark = [pytest.mark.xdist_group("shower"), pytest.mark.timeout(300)]
"""One worker makes the runs once; a busy machine may take minutes for the minute of CPU."""


@pytest.mark.parametrize("seed", [1, 2])
def test_the_default_policy_keeps_every_bound(shower_runs: Runs, seed: int) -> None:
    run = shower_runs[DEFAULT, seed]

    missed = [bound for bound in shower_bounds(run) if not bound.good]

    assert not missed, f"seed {run.cell.options.seed}: {missed}"
    assert not run.refused


def test_it_stays_calm_with_delays_tripled(delayed_run: Run) -> None:
    missed = [bound for bound in stability_bounds(delayed_run) if not bound.good]

    assert not missed, f"seed {delayed_run.cell.options.seed}: {missed}"


def test_naive_feedback_fails_the_same_test(shower_runs: Runs) -> None:
    run = shower_runs[SHOWER, 1]

    missed = {bound.name.partition(": ")[2] for bound in shower_bounds(run) if not bound.good}

    assert {"oscillation", "oscillation in the calm", "demand moved a minute"} <= missed
    assert run.score.oscillation > 2 * OSCILLATION_MAX


def test_the_default_policy_is_worth_its_price(shower_runs: Runs) -> None:
    default, naive = shower_runs[DEFAULT, 1].score, shower_runs[SHOWER, 1].score

    assert default.mean_ms < naive.mean_ms
    assert default.p99_ms < naive.p99_ms
    assert default.overload_share < naive.overload_share / 5


def test_the_same_seed_gives_the_same_run(shower_runs: Runs) -> None:
    from dataclasses import replace

    from benchmarks.simulator.bench import Work, run_policies

    cell = shower_runs[SHOWER, 1].cell
    shorter = replace(cell.options, timeline=replace(cell.options.timeline, end_s=700))
    again = run_policies(Work(replace(cell, options=shorter), (SHOWER,), None))[0]

    assert (again.trace.used == shower_runs[SHOWER, 1].trace.used[:700]).all()


@pytest.mark.parametrize("policy", [DEFAULT, SHOWER])
def test_demand_is_conserved(shower_runs: Runs, policy: str) -> None:
    run = shower_runs[policy, 1]

    line = run.cell.options.timeline
    assert (run.trace.over[1:] >= run.trace.over_fresh[1:] - 1e-12).all()
    assert run.trace.used[line.warm_s :].sum(axis=1).min() > 0
    assert run.trace.histogram.sum() > 0
