"""The agent's heart: what its sources offer passes through, and no lane falls silent.

See `popsteer.heartbeat` for what a heartbeat is and who listens.
"""

from collections.abc import Callable, Mapping

from popsteer.clock import SECOND_MS, now_ms
from popsteer.heartbeat import PERIOD_S, heartbeat
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind
from probes.signals import beats

LOOKS_PER_PERIOD = 4
"""How finely silence is noticed."""


class Heart:
    """Owns when each lane last spoke; `lanes` are those that must speak before any sample does."""

    def __init__(
        self,
        lanes: Mapping[SourceId, Kind],
        offer: Callable[[Batch], bool],
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._offer = offer
        self._clock = clock
        self._kinds = dict(lanes)
        self._spoke_ms = dict.fromkeys(lanes, 0)

    def offer(self, batch: Batch) -> bool:
        """As the sink's; the lane has spoken."""
        source = batch.header.source
        self._kinds[source] = batch.kind
        self._spoke_ms[source] = self._clock()
        return self._offer(batch)

    async def run(self) -> None:
        """Beat until cancelled."""
        async for _ in beats(PERIOD_S / LOOKS_PER_PERIOD, 0.0):
            self.beat()

    def beat(self) -> None:
        """A heartbeat for each lane that was silent for a period, or whose clock stepped back."""
        now = self._clock()
        for source, spoke_ms in list(self._spoke_ms.items()):
            if not 0 <= now - spoke_ms < PERIOD_S * SECOND_MS:
                self.offer(heartbeat(source, self._kinds[source], now))
