"""The planner's benchmark at a small size: its figures are told and its peer agrees."""

from aggregator.policy import POLICIES
from benchmarks import cycle


def test_a_small_cycle_is_measured_and_duckdb_agrees() -> None:
    before = dict(POLICIES)

    told = {f.name: f for f in cycle.figures(400, 8, 4, seed=3, policy="greedy")}

    assert told["tables refused"].value == 0
    assert told["pairs on which DuckDB disagrees"].value == 0
    assert told["new partials to a published table"].value > told["of it the solver"].value > 0
    assert told["evidence"].value > 0
    assert before == POLICIES
