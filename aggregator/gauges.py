"""What the aggregator measures of itself, for Prometheus, from what its record processors tell.

Few labels: streams and shards, and reasons out of a fixed list. See docs of prometheus_client.
"""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from aggregator.lines import Line


class Gauges:
    """The metrics of one aggregator process."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"popsteer_aggregator_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            labels = ("stream", "shard")
            return Gauge(f"popsteer_aggregator_{name}", text, labels, registry=registry)

        self.restarts = counter("restarts", "Daemons that ended and were started again", "stream")
        self._records = counter("records", "Records in written windows", "stream")
        self._samples = counter("samples", "Samples in written windows", "stream")
        self._duplicates = counter("duplicates", "Records dropped as seen before", "stream")
        self._refused = counter("quarantined", "Records refused", "stream", "reason")
        self._conflicts = counter("conflicts", "Same key, other bytes: a bug", "stream")
        self._lost = counter("lost", "Records that never came, by sequence", "stream", "source")
        self._crashes = counter("crashes", "Record processors that ended themselves", "stream")
        self._behind = gauge("behind_seconds", "How far reading is behind the stream's end")
        self._watermark = gauge("watermark_seconds", "Start of the newest written window, epoch")
        self._newest = gauge("newest_sample_seconds", "Time of the newest sample written, epoch")
        self._age = gauge("age_seconds", "Age of the oldest record of a window when written")

    def observe(self, line: Line) -> None:
        """Count what a line tells."""
        fields = line.fields
        stream, shard = str(fields.get("stream", "")), str(fields.get("shard", ""))
        match line.event:
            case "progress":
                self._behind.labels(stream, shard).set(fields["behind_ms"] / 1000)
            case "cut":
                self._records.labels(stream).inc(fields["records"])
                self._samples.labels(stream).inc(fields["samples"])
                self._duplicates.labels(stream).inc(fields["duplicates"])
                for reason, count in fields["quarantined"].items():
                    self._refused.labels(stream, reason).inc(count)
                self._watermark.labels(stream, shard).set(fields["window_ms"] / 1000)
                self._newest.labels(stream, shard).set(fields["newest_ms"] / 1000)
                self._age.labels(stream, shard).set(fields["age_ms"] / 1000)
            case "lost":
                # A source has a series of its own once it has lost something: rarely any.
                self._lost.labels(stream, fields["source"]).inc(fields["records"])
            case "conflict":
                self._conflicts.labels(stream).inc()
            case "crashed":
                self._crashes.labels(stream).inc()
            case "lease_lost" | "ended":
                # The shard is another worker's now, or nobody's: its last value would look stale.
                for known in (self._behind, self._watermark, self._newest, self._age):
                    known.remove(stream, shard)
            case _:
                pass
