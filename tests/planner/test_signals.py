"""The columns of signals say what one reading after another would."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.signals import NEVER, SMOOTHING_S, Signals
from benchmarks.scene import T0_MS, signal_partial
from popsteer.names import pop_of
from popsteer.samples import Signal

SUBJECTS = ("a", "b", "a/x", "c/y", "b/x")
SAMPLE = st.tuples(
    st.sampled_from(SUBJECTS),
    st.sampled_from([Signal.UP, Signal.LOAD_BPS, Signal.TX_BPS, Signal.CAPACITY_BPS]),
    st.integers(0, 20),
    st.integers(0, 20),
    st.floats(0, 1e12),
    st.integers(1, 5),
)
Sample = tuple[str, Signal, int, int, float, int]


class Plain:
    """The slow obvious twin: a dict, one reading after another."""

    def __init__(self) -> None:
        self.readings: dict[tuple[str, Signal], tuple[float, int]] = {}
        self.heard: dict[str, int] = {}

    def take(self, subject: str, signal: Signal, value: float, at_ms: int) -> None:
        """Learn one."""
        old = self.readings.get((subject, signal))
        if old is not None and at_ms <= old[1]:
            return
        if old is not None and signal not in {Signal.UP, Signal.CAPACITY_BPS}:
            kept = math.exp(-(at_ms - old[1]) / (SMOOTHING_S * 1_000))
            value = kept * old[0] + (1 - kept) * value
        self.readings[subject, signal] = value, at_ms
        pop = pop_of(subject)
        self.heard[pop] = max(self.heard.get(pop, 0), at_ms)


@given(st.lists(st.lists(SAMPLE, max_size=12), max_size=6))
def test_all_at_once_is_one_after_another(cuts: list[list[Sample]]) -> None:
    signals, plain = Signals(), Plain()
    for number, samples in enumerate(cuts):
        start_ms = T0_MS + number * 5_000
        many = {(subject, Signal.UP): 1.0 for subject, *_ in samples}
        if not samples:
            continue
        partial = signal_partial(start_ms, many, window_ms=5_000)
        columns = list(zip(*samples, strict=True))
        at_ms = [
            start_ms + 1_000 * (late - early) for late, early in zip(*columns[2:4], strict=True)
        ]
        partial = type(partial)(
            partial.origin,
            partial.subjects,
            np.full(len(samples), start_ms),
            np.array([partial.subjects.index(one) for one in columns[0]], np.uint16),
            np.array(columns[1], np.uint8),
            np.array(columns[5], np.uint32),
            np.array(columns[4]) * np.array(columns[5]),
            np.array(columns[4]),
            np.array(columns[4]),
            np.array(at_ms),
        )
        signals.observe([partial])
        for index in np.argsort(at_ms, kind="stable").tolist():
            subject, signal, _, _, value, _ = samples[index]
            plain.take(subject, signal, value, min(at_ms[index], start_ms + 5_000))

    for signal in Signal:
        said = signals.of(SUBJECTS, signal)
        for subject, value, last_ms in zip(SUBJECTS, said.value, said.last_ms, strict=True):
            expected = plain.readings.get((subject, signal), (math.nan, NEVER))
            assert (math.isnan(value), last_ms) == (math.isnan(expected[0]), expected[1])
            assert np.isclose(value, expected[0], rtol=1e-12, equal_nan=True)
    assert signals.heard_ms(("a", "b", "c")).tolist() == [plain.heard.get(p, 0) for p in "abc"]
    assert signals.newest_ms == max(plain.heard.values(), default=0)


def test_a_reading_that_never_came_is_not_a_number() -> None:
    signals = Signals()
    signals.observe([signal_partial(T0_MS, {("a", Signal.LOAD_BPS): 5.0})])

    assert signals.value("a", Signal.LOAD_BPS) == 5
    assert math.isnan(signals.value("a", Signal.UP))
    assert math.isnan(signals.value("b", Signal.LOAD_BPS))
    assert signals.pop_ms("b") == NEVER
