"""What became of a sink's records, as Prometheus metrics that are read when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from popsteer.sink import Sink


class SinkCollector(Collector):
    """The counts of one sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def collect(self) -> Iterator[Metric]:
        """Fresh numbers."""
        counts = self._sink.counts
        records = CounterMetricFamily(
            "popsteer_sink_records", "Records by what became of them", labels=["outcome"]
        )
        for outcome in ("accepted", "spilled", "drained"):
            records.add_metric([outcome], getattr(counts, outcome))
        records.add_metric(["lost"], self._sink.lost)
        yield records
        yield CounterMetricFamily("popsteer_sink_samples", "Samples offered", counts.samples)
        yield CounterMetricFamily("popsteer_sink_bytes", "Bytes accepted", counts.accepted_bytes)
        refused = CounterMetricFamily(
            "popsteer_sink_refused", "Attempts that were not accepted", labels=["code"]
        )
        for code, times in list(counts.errors.items()):
            refused.add_metric([code], times)
        yield refused
        yield GaugeMetricFamily(
            "popsteer_sink_backlog_bytes", "Waiting in memory and on disk", self._sink.backlog_bytes
        )
