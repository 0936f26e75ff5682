"""When the planner last heard of each agent's lane: the marks in partials tell.

Owns these times; an age is theirs and the asker's. See `popsteer.heartbeat`. A lane of a configured
POP that has spoken once is expected for good: silence ends when it speaks, or when the POP leaves
the configuration.
"""

from collections.abc import Iterable, Mapping, Sequence

from aggregator.partials import Partial
from popsteer.clock import SECOND_MS
from popsteer.heartbeat import lane_of
from popsteer.overview import HeartbeatView

SILENT_NAMED_MAX = 5


class Heard:
    """The newest time of each lane, by stream."""

    def __init__(self, pops: Sequence[str]) -> None:
        self._pops = frozenset(pops)
        self._lanes: dict[str, dict[str, int]] = {}
        self._since_ms = 0

    def begin(self, streams: Iterable[str], now_ms: int) -> None:
        """Start to listen: before this nobody could be heard, so silence counts from here."""
        self._lanes = {stream: {} for stream in streams}
        self._since_ms = now_ms

    def observe(self, partials: Iterable[Partial]) -> None:
        """Learn when the sources of these partials last spoke."""
        for partial in partials:
            heard_ms = self._lanes.setdefault(partial.origin.stream, {})
            for source, mark in partial.origin.marks.items():
                if lane := lane_of(source):
                    heard_ms[lane] = max(heard_ms.get(lane, -1), mark.heard_ms)

    def newest_ms(self) -> dict[str, int]:
        """By stream, when the newest lane spoke; the start where none has since."""
        # Also asked by the thread that serves metrics: look at copies.
        lanes = {stream: list(heard.values()) for stream, heard in list(self._lanes.items())}
        return {stream: max([self._since_ms, *times]) for stream, times in lanes.items()}

    def silent(self, stream: str, bound_s: float, now_ms: int) -> list[str]:
        """Lanes of configured POPs that have not spoken for longer than a bound, by name."""
        before_ms = now_ms - bound_s * SECOND_MS
        return sorted(
            lane
            for lane, heard_ms in list(self._lanes.get(stream, {}).items())
            if max(heard_ms, self._since_ms) < before_ms and self._is_expected(lane)
        )

    def views(self, bounds_s: Mapping[str, float], now_ms: int) -> dict[str, HeartbeatView]:
        """What people see of each stream."""
        views = {}
        for stream, newest_ms in self.newest_ms().items():
            silent = self.silent(stream, bounds_s.get(stream, float("inf")), now_ms)
            views[stream] = HeartbeatView(
                newest_ms=newest_ms,
                lanes=len(self._lanes[stream]),
                silent=len(silent),
                silent_lanes=tuple(silent[:SILENT_NAMED_MAX]),
            )
        return views

    def _is_expected(self, lane: str) -> bool:
        return lane.rpartition(".")[0] in self._pops
