"""No lane of an agent falls silent, and busy lanes pay nothing for it."""

from popsteer.heartbeat import heartbeat
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind, rows
from probes.heart import Heart

RTT, SIGNAL = SourceId("fra1.rtt"), SourceId("fra1.signal")
T0_MS = 1_700_000_000_000


class Lanes:
    """What was offered, and a clock."""

    def __init__(self) -> None:
        self.now_ms = T0_MS
        self.offered: list[Batch] = []
        self.heart = Heart({RTT: Kind.RTT}, self._take, lambda: self.now_ms)

    def _take(self, batch: Batch) -> bool:
        self.offered.append(batch)
        return True

    def pass_ms(self, ms: int) -> list[tuple[SourceId, int]]:
        """Let time go by in quarters of a period; gives the heartbeats meanwhile."""
        before = len(self.offered)
        for _ in range(ms // 250):
            self.now_ms += 250
            self.heart.beat()
        fresh = self.offered[before:]
        assert all(rows(batch) == 0 for batch in fresh)
        return [(batch.header.source, batch.header.t0_ms) for batch in fresh]


def test_a_silent_lane_beats_every_second_from_the_start() -> None:
    lanes = Lanes()
    assert lanes.pass_ms(3_000) == [(RTT, T0_MS + ms) for ms in (250, 1_250, 2_250)]


def test_a_lane_that_speaks_does_not_beat() -> None:
    lanes = Lanes()
    lanes.pass_ms(250)
    for _ in range(10):
        lanes.heart.offer(heartbeat(RTT, Kind.RTT, lanes.now_ms))
        assert lanes.pass_ms(750) == []


def test_a_lane_that_has_spoken_once_never_falls_silent() -> None:
    lanes = Lanes()
    lanes.heart.offer(heartbeat(SIGNAL, Kind.SIGNAL, lanes.now_ms))
    told = lanes.pass_ms(2_000)
    assert [source for source, _ in told].count(SIGNAL) == 2
    assert {batch.kind for batch in lanes.offered if batch.header.source == SIGNAL} == {Kind.SIGNAL}


def test_a_clock_that_is_set_back_stops_no_heart() -> None:
    lanes = Lanes()
    lanes.pass_ms(1_000)
    lanes.now_ms -= 3_600_000
    assert len(lanes.pass_ms(2_000)) == 2
