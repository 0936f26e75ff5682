import time

import pytest

from popsteer import clock


def test_now_is_epoch_milliseconds() -> None:
    before = time.time() * 1_000
    now = clock.now_ms()
    assert before - 1 <= now <= time.time() * 1_000 + 1


@pytest.mark.parametrize(
    ("then_ms", "now_ms", "age_s"), [(0, 1_500, 1.5), (7, 7, 0.0), (2_000, 1_000, 0.0)]
)
def test_age_is_never_negative(then_ms: int, now_ms: int, age_s: float) -> None:
    assert clock.age_s(then_ms, now_ms) == age_s
