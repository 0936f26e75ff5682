"""The kernel is what a crowd of caches does, and the two witnesses of what was answered agree."""

import numpy as np
import pytest

from aggregator.flight import PUBLISHED_MS, VIOLATORS_SIGMA, Flight, Kernel, Reported
from benchmarks.scene import T0_MS

KERNEL = Kernel(20.0)


def crowd(kernel: Kernel, n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """[n] TTLs of caches and when, after time 0, each asks first."""
    dice = np.random.default_rng(4)
    drawn = dice.lognormal(np.log(kernel.violators_ttl_s), VIOLATORS_SIGMA, n)
    ttl = np.where(dice.random(n) < kernel.violators_share, drawn, kernel.ttl_s)
    return ttl, dice.random(n) * ttl


def test_the_kernel_is_what_caches_do() -> None:
    _, first = crowd(KERNEL)

    age = np.array([0.0, 5.0, 19.0, 30.0, 300.0, 1_800.0])

    expected = [(first > one).mean() for one in age]
    assert KERNEL.kept(age) == pytest.approx(expected, abs=0.005)


def test_before_an_answer_everything_and_in_the_end_nothing_is_kept() -> None:
    kept = KERNEL.kept(np.array([-100.0, 0.0, 1e9]))

    assert kept == pytest.approx([1, 1, 0], abs=1e-6)
    assert (np.diff(KERNEL.kept(np.arange(4_000.0))) <= 0).all()


def test_a_new_table_shows_as_caches_ask() -> None:
    flight = Flight(KERNEL)
    flight.tell(np.array([100.0, 0.0]), T0_MS)
    flight.tell(np.array([0.0, 100.0]), T0_MS + 60_000)

    published_ms = T0_MS + 60_000 + PUBLISHED_MS
    ages_s = np.array([0, 10, 20, 600])
    loads = np.array([flight.load_bps(published_ms + 1_000 * int(age)) for age in ages_s])

    assert loads.sum(axis=1) == pytest.approx(100)
    assert loads[:, 0] == pytest.approx(100 * KERNEL.kept(ages_s))


def test_what_caches_still_hold_ahead_is_the_old_answers_part() -> None:
    flight = Flight(KERNEL)
    flight.tell(np.array([60.0, 40.0]), T0_MS)

    held = flight.load_bps(T0_MS + 100_000, ahead_s=30.0)

    assert held == pytest.approx(np.array([60.0, 40.0]) * KERNEL.kept(np.array(30.0)))


def told(reported: Reported, slots: range, bits: list[float]) -> None:
    for slot in slots:
        end_ms = np.full(len(bits), T0_MS + (slot + 1) * 10_000)
        reported.add(end_ms, np.arange(len(bits)), np.array(bits) * 10)


def test_reports_of_a_steady_world_are_its_load() -> None:
    reported = Reported(2, KERNEL)
    told(reported, range(8), [30.0, 10.0])

    assert reported.known_ms == T0_MS + 70_000
    assert reported.load_bps(reported.known_ms) == pytest.approx([30.0, 10.0])


def test_reports_follow_a_move_but_for_what_is_kept() -> None:
    reported = Reported(2, KERNEL)
    told(reported, range(360), [100.0, 0.0])
    told(reported, range(360, 370), [0.0, 100.0])

    load = reported.load_bps(reported.known_ms)

    assert load[0] == pytest.approx(100 * KERNEL.kept(np.array(90.0)), rel=0.02)
    assert load.sum() == pytest.approx(100)


def test_a_clock_far_off_neither_fills_memory_nor_hides_the_present() -> None:
    reported = Reported(1, KERNEL)
    reported.add(np.array([T0_MS, 10_000]), np.array([0, 0]), np.array([10.0, 1e9]))
    told(reported, range(5), [1.0])

    assert reported.load_bps(reported.known_ms) == pytest.approx([1.0])
