"""Time as a value: milliseconds since the epoch, UTC.

Pure code takes `now_ms` as an argument; only the rims of processes call these functions.
"""

import time

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS


def now_ms() -> int:
    """Wall clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000


def age_s(then_ms: int, now_ms: int) -> float:
    """Seconds from `then_ms` to `now_ms`, never below zero (clocks step)."""
    return max(0, now_ms - then_ms) / SECOND_MS
