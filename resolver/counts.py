"""What a node counts of its answers, and how Prometheus reads it.

Workers count for themselves and hand the counts over once a second; the node adds them up.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from resolver.answer import Answer

LATENCY_BOUNDS_US = (25, 50, 100, 200, 400, 800, 1_600, 5_000, 20_000)


@dataclass(slots=True)
class Counts:
    """Sums since they were last taken."""

    rcodes: Counter[str] = field(default_factory=Counter)
    pops: Counter[str] = field(default_factory=Counter)
    """Steered answers."""
    transports: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    """Packets that get no answer: too short, or responses."""
    latency_us: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS_US) + 1))
    """Answers by time spent, one per bound and one beyond."""
    latency_us_sum: float = 0.0
    faults: int = 0
    """Answers that failed by a fault of ours."""
    tcp_evicted: int = 0

    def add_answer(self, answer: Answer, transport: str, spent_us: float) -> None:
        """One response was made."""
        self.rcodes[answer.rcode.name] += 1
        self.transports[transport] += 1
        if answer.served is not None:
            self.pops[answer.served.pop] += 1
        self.latency_us[bisect_left(LATENCY_BOUNDS_US, spent_us)] += 1
        self.latency_us_sum += spent_us

    def add_compiled(self, rcodes: Counter[str], pops: Counter[str], unanswered: int) -> None:
        """What a loop of the compiled path answered, all over UDP."""
        self.rcodes += rcodes
        self.pops += pops
        self.transports["udp"] += rcodes.total()
        self.unanswered += unanswered

    def add(self, other: "Counts") -> None:
        """All of another's."""
        self.rcodes += other.rcodes
        self.pops += other.pops
        self.transports += other.transports
        self.unanswered += other.unanswered
        self.latency_us = [a + b for a, b in zip(self.latency_us, other.latency_us, strict=True)]
        self.latency_us_sum += other.latency_us_sum
        self.faults += other.faults
        self.tcp_evicted += other.tcp_evicted


class NodeMetrics(Collector):
    """The sums and the freshness of a node as Prometheus families."""

    def __init__(
        self,
        counts: Counts,
        refusals: Counter[str],
        gauges: Callable[[], dict[str, float]],
        rung: Callable[[], str],
    ) -> None:
        self._counts = counts
        self._refusals = refusals
        self._gauges = gauges
        self._rung = rung

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        counts = self._counts
        yield _counter("queries", "Responses by response code", "rcode", counts.rcodes)
        yield _counter("steered", "Steered answers by POP", "pop", counts.pops)
        yield _counter("transport", "Responses by transport", "transport", counts.transports)
        yield _counter("table_refused", "Tables and states not taken", "reason", self._refusals)
        for name, text, value in (
            ("unanswered", "Packets that get no answer", counts.unanswered),
            ("faults", "Answers that failed by a fault of ours", counts.faults),
            ("tcp_evicted", "Connections closed to make room", counts.tcp_evicted),
        ):
            yield CounterMetricFamily(f"popsteer_dns_{name}", text, value=value)
        yield self._latency()
        for name, gauge in self._gauges().items():
            yield GaugeMetricFamily(f"popsteer_dns_{name}", name.replace("_", " "), value=gauge)
        rung = GaugeMetricFamily("popsteer_dns_rung", "What answers rest on", labels=["rung"])
        rung.add_metric([self._rung()], 1)
        yield rung

    def _latency(self) -> Metric:
        total, buckets = 0, []
        bounds = [f"{bound / 1e6:g}" for bound in LATENCY_BOUNDS_US]
        for bound, count in zip([*bounds, "+Inf"], self._counts.latency_us, strict=True):
            total += count
            buckets.append((bound, total))
        return HistogramMetricFamily(
            "popsteer_dns_answer_seconds",
            "Time from a query read to its response written",
            buckets=buckets,
            sum_value=self._counts.latency_us_sum / 1e6,
        )


def _counter(name: str, text: str, label: str, values: Counter[str]) -> Metric:
    family = CounterMetricFamily(f"popsteer_dns_{name}", text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family
