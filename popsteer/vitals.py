"""What CloudWatch is told: a few numbers a process, taken from its Prometheus metrics.

Prometheus has everything; here is what alarms rest on (infra/terraform/alarms.json), summed over
shards, reasons and workers, so that it costs some forty metrics however many agents, POPs and
nodes there are. `VITALS` is the whole list; each process tells those of them that it has. Values
of many machines meet in CloudWatch: the statistic of an alarm (Sum or Maximum) joins them.
Pure but for `tell`.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from prometheus_client import REGISTRY, CollectorRegistry, Metric

from popsteer.config import Config
from popsteer.heartbeat import METRIC
from popsteer.telemetry import Logger, logger

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient

PERIOD_S = 60.0
"""CloudWatch keeps one-minute resolution."""
DATUMS_MAX = 1_000
"""PutMetricData takes no more in one call."""


@dataclass(frozen=True, slots=True)
class Vital:
    """One metric in both places."""

    sample: str
    """The sample's name in Prometheus; `_total` is a counter, of which CloudWatch gets the rise."""
    name: str
    unit: str
    labels: tuple[str, ...] = ()
    """Labels that become dimensions, capitalised; over the others counters add up, and of gauges
    the highest counts."""

    @property
    def rises(self) -> bool:
        """Whether it is a counter."""
        return self.sample.endswith("_total")


def _aggregator(sample: str, name: str, unit: str = "Count") -> Vital:
    return Vital(f"popsteer_aggregator_{sample}", name, unit, ("stream",))


VITALS = (
    Vital(METRIC, "HeartbeatAge", "Seconds", ("stage", "stream")),
    Vital("popsteer_planner_lanes_silent", "LanesSilent", "Count", ("stream",)),
    Vital("popsteer_planner_tables_total", "Tables", "Count", ("outcome",)),
    Vital("popsteer_sink_records_total", "SinkRecords", "Count", ("outcome",)),
    Vital("popsteer_sink_refused_total", "SinkRefused", "Count", ("code",)),
    Vital("popsteer_sink_backlog_bytes", "SinkBacklog", "Bytes"),
    _aggregator("samples_total", "Samples"),
    _aggregator("duplicates_total", "Duplicates"),
    _aggregator("quarantined_total", "Quarantined"),
    _aggregator("lost_total", "Lost"),
    _aggregator("conflicts_total", "Conflicts"),
    _aggregator("crashes_total", "Crashes"),
    _aggregator("restarts_total", "Restarts"),
    _aggregator("behind_seconds", "Behind", "Seconds"),
    _aggregator("watermark_age_seconds", "WatermarkAge", "Seconds"),
    Vital("popsteer_dns_faults_total", "DnsFaults", "Count"),
    Vital("popsteer_dns_table_refused_total", "DnsRefused", "Count"),
)
_BY_SAMPLE = {vital.sample: vital for vital in VITALS}

Key = tuple[Vital, tuple[str, ...]]
"""A vital and the values of its dimensions."""


def read(metrics: Iterable[Metric]) -> dict[Key, float]:
    """The vitals among the metrics of a registry."""
    values: dict[Key, float] = {}
    for sample in (s for metric in metrics for s in metric.samples):
        vital = _BY_SAMPLE.get(sample.name)
        if vital is None:
            continue
        key = vital, tuple(sample.labels[label] for label in vital.labels)
        if vital.rises:
            values[key] = values.get(key, 0.0) + sample.value
        else:
            values[key] = max(values.get(key, 0.0), sample.value)
    return values


def datums(values: Mapping[Key, float], before: Mapping[Key, float]) -> list[dict[str, Any]]:
    """What CloudWatch is told: gauges as they are, counters by how they rose since `before`."""
    return [
        {
            "MetricName": vital.name,
            "Dimensions": [
                {"Name": name.capitalize(), "Value": label}
                for name, label in zip(vital.labels, labels, strict=True)
            ],
            "Value": value - before.get((vital, labels), 0.0) if vital.rises else value,
            "Unit": vital.unit,
        }
        for (vital, labels), value in values.items()
    ]


def put(
    client: "CloudWatchClient", namespace: str, told: list[dict[str, Any]], log: Logger
) -> bool:
    """Tell it; False when CloudWatch did not take it."""
    try:
        for at in range(0, len(told), DATUMS_MAX):
            data: Any = told[at : at + DATUMS_MAX]
            client.put_metric_data(Namespace=namespace, MetricData=data)
    except (ClientError, BotoCoreError) as error:
        log.warning("metrics_refused", error=str(error))
        return False
    return True


def tell(config: Config, registry: CollectorRegistry = REGISTRY) -> None:
    """From now on tell CloudWatch every `PERIOD_S`, in a thread that dies with the process."""
    if config.telemetry.namespace:
        threading.Thread(
            target=_tell, args=(config, registry, logger()), name="vitals", daemon=True
        ).start()


def _tell(config: Config, registry: CollectorRegistry, log: Logger) -> None:
    # boto3 takes half a second to import, which no process should wait for.
    from popsteer.aws import cloudwatch

    client, pause = cloudwatch(config.aws), threading.Event()
    before: dict[Key, float] = {}
    while not pause.wait(PERIOD_S):
        try:
            values = read(registry.collect())
        except RuntimeError:
            continue  # a label came into being while we looked; its process does not wait for us
        # A period that was refused is told with the next one.
        if put(client, config.telemetry.namespace, datums(values, before), log):
            before = values
