"""What the planner measures of itself, for Prometheus; read when it is asked for."""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.planner import Planner
from popsteer.heartbeat import Ages, Newest, Stage


class Pulse(Collector):
    """Freshness, tables, and what the store refuses."""

    def __init__(
        self, planner: Planner, bulk: str, bounds_s: Mapping[str, float], now_ms: Callable[[], int]
    ) -> None:
        self._planner = planner
        self._bulk = bulk
        self._bounds_s = bounds_s
        self._now_ms = now_ms
        self._ages = Ages(self._newest, now_ms)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry, in a thread of its own."""
        planner, now = self._planner, self._now_ms()
        yield from self._ages.collect()
        silent = GaugeMetricFamily(
            "popsteer_planner_lanes_silent", "Agents' lanes not heard of", labels=["stream"]
        )
        for stream, bound_s in self._bounds_s.items():
            silent.add_metric([stream], len(planner.known.heard.silent(stream, bound_s, now)))
        yield silent
        tables = CounterMetricFamily(
            "popsteer_planner_tables", "Tables by what the guard said", labels=["outcome"]
        )
        tables.add_metric(["published"], planner.latency.published)
        tables.add_metric(["refused"], planner.latency.refusals)
        yield tables
        in_force = planner.publisher.in_force
        yield GaugeMetricFamily(
            "popsteer_planner_table_generation",
            "Of the table in force",
            in_force.pointer.generation if in_force else 0,
        )
        yield GaugeMetricFamily(
            "popsteer_planner_chores_failing",
            "What the store refuses at present",
            len(planner.chores.failing),
        )

    def _newest(self) -> Newest:
        known, in_force = self._planner.known, self._planner.publisher.in_force
        newest = {(Stage.PLANNER, stream): ms for stream, ms in known.heard.newest_ms().items()}
        if in_force is not None and in_force.table.meta.window_last_ms:
            newest[Stage.TABLE, self._bulk] = in_force.table.meta.window_last_ms
        return newest
