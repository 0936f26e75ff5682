"""The page's figures for Prometheus, read from the newest snapshot at every scrape."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from console.dashboard.health import Health, PopRow, Status
from console.dashboard.live import Snapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Gauges(Collector):
    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Called by the registry."""
        now = self._snapshot()
        yield from _of_system(now.status)
        yield _heartbeats(now.status)
        yield from _of_pops(now.pops)


def _of_system(line: Status) -> Iterator[GaugeMetricFamily]:
    figures: dict[str, tuple[str, float | None]] = {
        "popsteer_stale": ("1 when what is published is too old", float(line.stale)),
        "popsteer_data_age_seconds": ("Since the newest measured window", line.data_age_s),
        "popsteer_table_generation": ("Of the table in force", line.table_generation),
        "popsteer_table_age_seconds": ("Of the table in force", line.table_age_s),
        "popsteer_state_age_seconds": ("Of the POP state", line.state_age_s),
        "popsteer_table_rows": ("Of the table in force", line.rows),
        "popsteer_demand_bits_per_second": ("Of all clients", line.demand_bps),
        "popsteer_overload_ratio": ("Demand above capacity", line.overload_share),
        "popsteer_orders": ("In force", line.orders),
        "popsteer_latency_seconds": (
            "Demand-weighted RTT of the table in force",
            None if line.latency_ms is None else line.latency_ms / 1_000,
        ),
    }
    for name, (text, value) in figures.items():
        if value is not None:
            yield GaugeMetricFamily(name, text, value)


def _heartbeats(line: Status) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "popsteer_stream_age_seconds", "Of the newest heartbeat at the planner", labels=["stream"]
    )
    for stream, age_s in line.heartbeat_age_s.items():
        family.add_metric([stream], age_s)
    return family


def _of_pops(rows: tuple[PopRow, ...]) -> Iterator[GaugeMetricFamily]:
    figures: dict[str, tuple[str, Callable[[PopRow], float | None]]] = {
        "popsteer_pop_up": ("0 when down", lambda row: float(row.health != Health.DOWN)),
        "popsteer_pop_drained": ("By an order", lambda row: float(row.health == Health.DRAINED)),
        "popsteer_pop_shed_ratio": ("Of its answers", lambda row: row.shed),
        "popsteer_pop_load_bits_per_second": ("Measured", lambda row: row.load_bps),
        "popsteer_pop_capacity_bits_per_second": ("0: unlimited", lambda row: row.capacity_bps),
        "popsteer_pop_demand_ratio": ("Of all demand", lambda row: row.demand_share),
        "popsteer_pop_loss_ratio": ("Of its probes", lambda row: row.loss),
        "popsteer_pop_signal_age_seconds": ("Of its newest signal", lambda row: row.age_s),
    }
    for name, (text, value_of) in figures.items():
        family = GaugeMetricFamily(name, text, labels=["pop"])
        for row in rows:
            if (value := value_of(row)) is not None:
                family.add_metric([row.id], value)
        yield family
    yield _rtt(rows)


def _rtt(rows: tuple[PopRow, ...]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "popsteer_pop_rtt_seconds", "To the clients that it serves", labels=["pop", "quantile"]
    )
    for row in rows:
        for quantile, value_ms in (("0.5", row.rtt_p50_ms), ("0.95", row.rtt_p95_ms)):
            if value_ms is not None:
                family.add_metric([row.id, quantile], value_ms / 1_000)
    return family


def exposition(snapshot: Callable[[], Snapshot]) -> Callable[[], bytes]:
    """Gives the text of all metrics, whenever it is called."""
    registry = CollectorRegistry()
    registry.register(_Gauges(snapshot))
    return lambda: generate_latest(registry)
