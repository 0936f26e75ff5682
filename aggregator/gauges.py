"""What the aggregator measures of itself, for Prometheus, from what its record processors tell.

Few labels: streams and shards, and reasons out of a fixed list; sources stand in the log. Ages are
worked out at every scrape, so that a processor that stands still and tells nothing grows old.
See docs of prometheus_client.
"""

import time
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from aggregator.lines import Line
from popsteer.heartbeat import Ages, Newest, Stage


class Gauges:
    """The metrics of one aggregator process."""

    def __init__(
        self,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], float] = time.time,
    ) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"popsteer_aggregator_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            labels = ("stream", "shard")
            return Gauge(f"popsteer_aggregator_{name}", text, labels, registry=registry)

        self._clock = clock
        self.restarts = counter("restarts", "Daemons that ended and were started again", "stream")
        self._records = counter("records", "Records in written windows", "stream")
        self._samples = counter("samples", "Samples in written windows", "stream")
        self._duplicates = counter("duplicates", "Records dropped as seen before", "stream")
        self._refused = counter(
            "quarantined", "Records refused; of reason light, samples", "stream", "reason"
        )
        self._conflicts = counter("conflicts", "Same key, other bytes: a bug", "stream")
        self._lost = counter("lost", "Records that never came, by sequence", "stream")
        self._crashes = counter("crashes", "Record processors that ended themselves", "stream")
        self._behind = gauge("behind_seconds", "How far reading is behind the stream's end")
        self._watermark = gauge("watermark_age_seconds", "Age of the start of the newest window")
        self._delay = gauge("cut_delay_seconds", "Age of a window's start when it was written")
        self._heard_ms: dict[tuple[Stage, str], dict[str, int]] = {}
        """By stage and stream the newest heartbeat of each shard."""
        self._told_s: dict[str, dict[str, float]] = {}
        """By stream, when each shard's processor last told of its progress."""
        registry.register(Ages(self.newest, lambda: int(clock() * 1_000)))

    def newest(self) -> Newest:
        """See `popsteer.heartbeat.Ages`; a shard that stands still shows in `behind_seconds`."""
        # Scraped by a thread of its own: look at copies.
        heard = {stage: list(shards.values()) for stage, shards in list(self._heard_ms.items())}
        return {stage: max(times) for stage, times in heard.items() if times}

    def silent_s(self, stream: str) -> float:
        """For how long a processor of a stream has told nothing, the most silent one."""
        told_s = self._told_s.get(stream, {}).values()
        return self._clock() - min(told_s, default=self._clock())

    def observe(self, line: Line) -> None:
        """Count what a line tells."""
        fields = line.fields
        stream, shard = str(fields.get("stream", "")), str(fields.get("shard", ""))
        match line.event:
            case "resumed":
                self._told_s.setdefault(stream, {})[shard] = self._clock()
            case "progress":
                # What the shard was read up to; nothing told is time passing, not a good sign.
                self._told_s.setdefault(stream, {})[shard] = self._clock()
                self._since(self._behind, stream, shard, self._clock() - fields["behind_ms"] / 1000)
                self._hear(Stage.FOLD, stream, shard, fields["heard_ms"])
            case "cut":
                self._records.labels(stream).inc(fields["records"])
                self._samples.labels(stream).inc(fields["samples"])
                self._duplicates.labels(stream).inc(fields["duplicates"])
                for reason, count in fields["quarantined"].items():
                    self._refused.labels(stream, reason).inc(count)
                self._since(self._watermark, stream, shard, fields["window_ms"] / 1000)
                self._delay.labels(stream, shard).set(fields["age_ms"] / 1000)
                self._hear(Stage.PARTIAL, stream, shard, fields["heard_ms"])
            case "lost":
                self._lost.labels(stream).inc(fields["records"])
            case "conflict":
                self._conflicts.labels(stream).inc()
            case "crashed":
                self._crashes.labels(stream).inc()
            case "lease_lost" | "ended":
                self._drop(stream, shard)
            case _:
                pass

    def forget(self, stream: str) -> None:
        """The stream's daemon has ended: its shards are whoever's takes them next."""
        for known in (self._behind, self._watermark, self._delay):
            known.remove_by_labels({"stream": stream})
        self._told_s.pop(stream, None)
        for stage in (Stage.FOLD, Stage.PARTIAL):
            self._heard_ms.pop((stage, stream), None)

    def _since(self, gauge: Gauge, stream: str, shard: str, then_s: float) -> None:
        gauge.labels(stream, shard).set_function(lambda: max(0.0, self._clock() - then_s))

    def _hear(self, stage: Stage, stream: str, shard: str, heard_ms: int) -> None:
        heard = self._heard_ms.setdefault((stage, stream), {})
        if heard_ms >= 0:
            heard[shard] = heard_ms

    def _drop(self, stream: str, shard: str) -> None:
        """The shard is another worker's now, or nobody's: its last value would look stale."""
        for known in (self._behind, self._watermark, self._delay):
            known.remove(stream, shard)
        self._told_s.get(stream, {}).pop(shard, None)
        for stage in (Stage.FOLD, Stage.PARTIAL):
            self._heard_ms.get((stage, stream), {}).pop(shard, None)
