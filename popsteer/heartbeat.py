"""Heartbeats: no lane of an agent is ever silent, so silence means that something stands still.

A lane that has nothing to say sends a record without samples once a second. Nothing sets it apart
from the others: it takes the lane's very way (outbox, disk, shard, record processor), its number
tells when the record before it was lost, and its time stands in its source's mark in every partial
(`aggregator.seen`). So the newest time of a lane is how far the stream has come, wherever one
looks, and its age grows by itself when nothing comes any more. Without samples it adds to no count
and no sum. Each process tells the age at the stages that it owns.
"""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from popsteer.batch import empty
from popsteer.clock import age_s
from popsteer.config import Config
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind
from popsteer.telemetry import Logger

PERIOD_S = 1.0
METRIC = "popsteer_heartbeat_age_seconds"
KINDS = (Kind.RTT, Kind.SIGNAL)
"""Whose lanes never fall silent; demand comes when somebody asks."""


class Stage(StrEnum):
    """How far the newest heartbeat has come, in the order of its way."""

    STREAM = "stream"
    """Accepted by Kinesis, as its agent knows."""
    FOLD = "fold"
    """Read by a record processor."""
    PARTIAL = "partial"
    """Written to S3."""
    PLANNER = "planner"
    """Merged by the planner."""
    TABLE = "table"
    """The newest window in the table in force, as the planner knows."""
    NODE_STATE = "node-state"
    """In the POP state that a DNS node acts on."""
    NODE_TABLE = "node-table"
    """The newest window in the table that a DNS node serves."""


Newest = Mapping[tuple[Stage, str], int]
"""By stage and stream the time of the newest heartbeat there, epoch ms."""


def lane(agent: str, kind: Kind) -> SourceId:
    """The lane of an agent for a kind."""
    return SourceId(f"{agent}.{kind.value}")


def lane_of(source: str) -> str:
    """The lane behind a source or a spare one of it; "" for lanes that may fall silent."""
    own = source.partition("~")[0]
    agent, _, kind = own.rpartition(".")
    return own if agent and kind in KINDS else ""


def heartbeat(source: SourceId, kind: Kind, now_ms: int) -> Batch:
    """What a silent lane sends."""
    return empty(kind, source, now_ms)


def bounds_s(config: Config) -> dict[str, float]:
    """By stream, the age above which its heartbeat at the planner is an alarm."""
    late_s, window = config.telemetry.heartbeat_age_s_max, config.aggregate
    return {
        config.aws.bulk_stream: window.bulk_window_s + late_s,
        config.aws.urgent_stream: window.urgent_window_s + late_s,
    }


class Ages(Collector):
    """The ages of a process's stages, worked out at every scrape: a stall needs no event."""

    def __init__(self, newest: Callable[[], Newest], now_ms: Callable[[], int]) -> None:
        self._newest = newest
        self._now_ms = now_ms

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `Collector`."""
        family = GaugeMetricFamily(
            METRIC, "Age of the newest heartbeat that has come so far", labels=["stage", "stream"]
        )
        for (stage, stream), newest_ms in sorted(self._newest().items()):
            family.add_metric([stage.value, stream], age_s(newest_ms, self._now_ms()))
        yield family


class Alarm:
    """Rings once when a stream's heartbeat is older than its bound, and once when it is back."""

    def __init__(self, bounds: Mapping[str, float]) -> None:
        self._bounds_s = dict(bounds)
        self._stale: set[str] = set()

    def look(self, newest_ms: Mapping[str, int], now_ms: int, log: Logger) -> None:
        """See how old the newest heartbeat of each stream is."""
        ages_s = {stream: age_s(newest, now_ms) for stream, newest in newest_ms.items()}
        stale = {stream for stream, age in ages_s.items() if age > self._bounds_s[stream]}
        for stream in sorted(stale - self._stale):
            bound_s = self._bounds_s[stream]
            log.error("stale", stream=stream, age_s=round(ages_s[stream], 1), bound_s=bound_s)
        for stream in sorted(self._stale & (ages_s.keys() - stale)):
            log.info("fresh", stream=stream)
        self._stale = stale
