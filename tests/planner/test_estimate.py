"""What windows do to an estimate."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.candidates import candidates
from aggregator.estimate import Estimates, Estimator
from aggregator.inference import Surroundings, inferred
from aggregator.merge import RttWindow
from aggregator.prefixes import Prefixes
from benchmarks.scene import T0_MS
from popsteer.evidence import Source
from popsteer.names import Prefix, prefix_arrays

POPS = 4
STEP_MS = 10_000


def window(number: int, rtt_us: list[float | None], late: int = 0) -> RttWindow:
    """One probe to each POP from prefix 0; None is lost, NaN is not measured."""
    measured = [i for i, rtt in enumerate(rtt_us) if rtt is None or not np.isnan(rtt)]
    lost = np.array([rtt_us[i] is None for i in measured])
    median = np.array([np.nan if rtt_us[i] is None else rtt_us[i] for i in measured], np.float64)
    return RttWindow(
        T0_MS + (number - late) * STEP_MS,
        np.array(measured),
        median,
        np.where(lost, 1e6, 0.0),
        np.where(lost, 0.0, 1.0),
        np.where(lost, 1.0, 0.0),
    )


def learnt(windows: list[list[float | None]], estimator: Estimator | None = None) -> Estimates:
    estimator = Estimator(30, 600) if estimator is None else estimator
    for number, rtt_us in enumerate(windows):
        estimator.observe(window(number, rtt_us), POPS)
    return estimator.at(T0_MS + (len(windows) - 1) * STEP_MS)


def steady(rtt_us: float, n: int, seed: int = 1, noise: float = 0.03) -> list[list[float | None]]:
    rng = np.random.default_rng(seed)
    return [(rtt_us * rng.lognormal(0, noise, POPS)).tolist() for _ in range(n)]


def test_a_steady_path_is_known_within_its_spread() -> None:
    known = learnt(steady(50_000, 20))

    assert np.abs(known.rtt_us - 50_000).max() < known.spread_us.max() < 5_000
    assert (known.samples > 4).all()
    assert (known.age_s == 0).all()


def test_one_wild_window_moves_nothing() -> None:
    calm = steady(50_000, 12)
    before = learnt(calm).rtt_us

    after = learnt([*calm, [400_000.0, 1_000.0, None, 50_000.0]])

    assert np.abs(after.rtt_us[:3] - before[:3]).max() == 0


@pytest.mark.parametrize("factor", [0.6, 1.4, 6.0])
def test_a_real_change_is_followed_in_two_windows(factor: float) -> None:
    after = learnt([*steady(50_000, 12), *steady(50_000 * factor, 2, seed=9)])

    assert np.abs(after.rtt_us / (50_000 * factor) - 1).max() < 0.1


def test_good_news_is_believed_by_fifths() -> None:
    calm = steady(50_000, 12)
    lie = steady(500, 40, seed=9)

    levels = [float(learnt([*calm, *lie[:n]]).rtt_us.max()) for n in range(0, 40, 2)]

    falls = np.array(levels[1:]) / np.array(levels[:-1])
    assert falls[np.array(levels[1:]) > 5_000].min() > 0.75
    assert levels[5] > 15_000
    assert levels[-1] == pytest.approx(500, rel=0.3)


def test_a_lie_in_small_steps_gains_little_on_one_at_once() -> None:
    calm = steady(50_000, 12)
    steps = [pair for n in range(1, 6) for pair in steady(50_000 * 0.55**n, 2, seed=n)]

    patient = float(learnt([*calm, *steps]).rtt_us.min())

    assert patient > 0.5 * float(learnt([*calm, *steady(500, 10, seed=9)]).rtt_us.min())


def test_the_way_back_to_what_was_known_is_short() -> None:
    after = learnt([*steady(50_000, 12), *steady(500_000, 8), *steady(50_000, 3, seed=9)])

    assert np.abs(after.rtt_us / 50_000 - 1).max() < 0.1


def test_the_smaller_of_two_changes_is_believed() -> None:
    calm = steady(50_000, 12, noise=0.001)
    level = 90_000.0

    after = learnt([*calm, [900_000.0] * POPS, [level] * POPS])

    assert after.rtt_us == pytest.approx(level)


def test_two_partials_of_one_window_confirm_nothing() -> None:
    estimator = Estimator(30, 600)
    calm = steady(50_000, 12)
    before = learnt(calm, estimator).rtt_us

    for _ in range(2):
        estimator.observe(window(12, [400_000.0] * POPS), POPS)

    assert np.array_equal(estimator.at(T0_MS + 12 * STEP_MS).rtt_us, before)


def test_lost_probes_to_one_pop_are_a_long_rtt() -> None:
    gone: list[float | None] = [None, 50_000.0, 50_000.0, 50_000.0]

    after = learnt([*steady(50_000, 12), gone, gone])

    assert after.rtt_us[0] >= 1e6
    assert after.loss[0] > 0.3
    assert after.rtt_us[1:].max() < 60_000


def test_a_path_that_is_alone_and_lost_is_long() -> None:
    nan = float("nan")
    calm: list[list[float | None]] = [[row[0], nan, nan, nan] for row in steady(50_000, 12)]

    after = learnt([*calm, *[[None, nan, nan, nan]] * 3])

    assert after.rtt_us[0] > 900_000


def test_opposite_surprises_confirm_nothing() -> None:
    calm = steady(50_000, 12)
    before = learnt(calm).rtt_us

    after = learnt([*calm, [400_000.0] * POPS, [10_000.0] * POPS])

    assert (after.rtt_us == before).all()


def test_a_silent_target_says_nothing_of_its_paths() -> None:
    calm = steady(50_000, 12)
    before = learnt(calm)

    silence: list[list[float | None]] = [[None] * POPS] * 3
    after = learnt([*calm, *silence])

    assert np.array_equal(after.rtt_us, before.rtt_us)
    assert (after.age_s == 30).all()


def test_what_never_answered_is_unknown_and_never_zero() -> None:
    known = learnt([[None, 40_000.0, 41_000.0, float("nan")]] * 5)

    assert known.key.tolist() == [1, 2]
    assert (known.rtt_us > 30_000).all()


def test_an_estimate_that_is_too_old_is_unknown_and_forgotten() -> None:
    estimator = Estimator(30, 600)
    learnt(steady(50_000, 3), estimator)
    late_ms = T0_MS + 20_000 + 601_000

    assert len(estimator.at(late_ms - 2_000)) == POPS
    assert len(estimator.at(late_ms)) == 0
    estimator.forget(late_ms)
    assert len(estimator) == 0


def test_spread_grows_while_nothing_is_heard() -> None:
    estimator = Estimator(30, 600)
    soon = learnt(steady(50_000, 10), estimator)

    later = estimator.at(T0_MS + 9 * STEP_MS + 120_000)

    assert (later.spread_us > 1.5 * soon.spread_us).all()
    assert (later.samples < 0.1 * soon.samples).all()


def test_late_windows_hardly_move_what_is_known_since() -> None:
    estimator = Estimator(30, 600)
    before = learnt(steady(50_000, 12), estimator).rtt_us

    estimator.observe(window(11, [49_000.0] * POPS, late=10), POPS)

    after = estimator.at(T0_MS + 11 * STEP_MS)
    assert np.array_equal(after.rtt_us, before)
    assert (after.samples > 0).all()


@given(st.lists(st.lists(st.one_of(st.none(), st.floats(100, 5e6)), min_size=4, max_size=4)))
@settings(max_examples=200)
def test_whatever_comes_estimates_are_sane(windows: list[list[float | None]]) -> None:
    known = learnt(windows)

    seen = [rtt for row in windows for rtt in row if rtt is not None]
    assert (known.rtt_us >= min(seen, default=0) * (1 - 1e-6)).all()
    assert (known.rtt_us <= max([1e6, *seen]) * (1 + 1e-6)).all()
    assert np.isfinite(known.spread_us).all()
    assert ((known.loss >= 0) & (known.loss <= 1 + 1e-9)).all()


def test_a_prefix_without_its_own_estimate_borrows_that_of_the_wider_one() -> None:
    prefixes = Prefixes()
    rows = prefixes.add(
        *prefix_arrays([Prefix.parse(t) for t in ("10.0.0.0/16", "10.0.1.0/24", "10.1.0.0/24")])
    )
    wide, narrow, _ = rows.tolist()
    known = Estimates(
        np.array(sorted([wide * 2, wide * 2 + 1, narrow * 2])),
        np.array([20_000.0, 30_000.0, 15_000.0]) if wide < narrow else np.zeros(3),
        np.full(3, 500.0),
        np.full(3, 5.0),
        np.zeros(3),
        np.zeros(3),
    )
    if wide > narrow:
        known.rtt_us[:] = [15_000.0, 20_000.0, 30_000.0]

    found = candidates(inferred(known, prefixes, 2, Surroundings()), 2)

    at = found.row.tolist().index(narrow)
    assert len(found) == 2
    assert found.pop[at].tolist() == [0, 1]
    assert found.rtt_us[at].tolist() == [15_000.0, 30_000.0]
    assert found.source[at].tolist() == [Source.MEASURED, Source.WIDER]
    assert found.spread_us[at, 1] > 15_000
