"""How the streams are, in few numbers: for CloudWatch, and for an alarm in the log.

Prometheus has every shard; here is one number per stream and measure, so that CloudWatch costs
some fifteen metrics however many shards, sources and POPs there are. Every agent sends all the
time, so the newest sample that is written tells how fresh the whole way from probe to partial is.
Pure but for `report`.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError
from prometheus_client import CollectorRegistry, Metric

from popsteer.clock import now_ms
from popsteer.telemetry import Logger

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient

PERIOD_S = 10.0
PUTS_EVERY = 6
"""CloudWatch keeps one-minute resolution."""
PREFIX = "popsteer_aggregator_"
COUNTERS = {
    "samples_total": "Samples",
    "duplicates_total": "Duplicates",
    "quarantined_total": "Quarantined",
    "lost_total": "Lost",
    "conflicts_total": "Conflicts",
    "crashes_total": "Crashes",
    "restarts_total": "Restarts",
}
"""What is summed over shards, sources and reasons, and its name in CloudWatch."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One stream at one moment; the ages are of its worst shard, None before any window."""

    behind_s: float | None
    watermark_age_s: float | None
    data_age_s: float | None
    totals: Mapping[str, float]
    """Since the start, by name in CloudWatch."""


def vitals(metrics: Iterable[Metric], now_s: float) -> dict[str, Vitals]:
    """The streams in a registry of `aggregator.gauges`."""
    gauges: dict[str, dict[str, list[float]]] = {}
    totals: dict[str, dict[str, float]] = {}
    for sample in (s for metric in metrics for s in metric.samples if "stream" in s.labels):
        name, stream = sample.name.removeprefix(PREFIX), sample.labels["stream"]
        gauges.setdefault(stream, {})
        total = totals.setdefault(stream, dict.fromkeys(COUNTERS.values(), 0.0))
        if name in COUNTERS:
            total[COUNTERS[name]] += sample.value
        else:
            gauges[stream].setdefault(name, []).append(sample.value)

    def oldest(stream: str, name: str) -> float | None:
        times_s = gauges[stream].get(name)
        return None if times_s is None else now_s - min(times_s)

    return {
        stream: Vitals(
            behind_s=max(gauges[stream].get("behind_seconds", []), default=None),
            watermark_age_s=oldest(stream, "watermark_seconds"),
            data_age_s=oldest(stream, "newest_sample_seconds"),
            totals=total,
        )
        for stream, total in totals.items()
    }


def datums(vital: Vitals, before: Vitals | None) -> list[dict[str, Any]]:
    """What CloudWatch is told of a stream: its gauges, and how its counters rose since."""
    gauges = {
        "Behind": vital.behind_s,
        "WatermarkAge": vital.watermark_age_s,
        "DataAge": vital.data_age_s,
    }
    told = [
        {"MetricName": name, "Value": value, "Unit": "Seconds"}
        for name, value in gauges.items()
        if value is not None
    ]
    earlier = before.totals if before is not None else {}
    return told + [
        {"MetricName": name, "Value": total - earlier.get(name, 0.0), "Unit": "Count"}
        for name, total in vital.totals.items()
    ]


async def report(
    registry: CollectorRegistry,
    bounds_s: Mapping[str, float],
    client: "CloudWatchClient | None",
    log: Logger,
    stop: asyncio.Event,
) -> None:
    """Until told to stop: look at the streams, tell CloudWatch, ring when data is too old.

    Args:
        registry: Of `aggregator.gauges`.
        bounds_s: By stream, the age above which its newest written sample is an alarm.
        client: None: nobody reads CloudWatch.
        log: Where the alarm rings, once, and falls silent.
        stop: Ends it.
    """
    stale: set[str] = set()
    before: dict[str, Vitals] = {}
    rounds = 0
    while not stop.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), PERIOD_S)
        seen, rounds = vitals(registry.collect(), now_ms() / 1_000), rounds + 1
        stale = _ring(seen, bounds_s, stale, log)
        if client is not None and rounds % PUTS_EVERY == 0:
            told = {stream: datums(vital, before.get(stream)) for stream, vital in seen.items()}
            if await asyncio.to_thread(put, client, told, log):
                before = seen


def _ring(
    seen: Mapping[str, Vitals], bounds_s: Mapping[str, float], stale: set[str], log: Logger
) -> set[str]:
    """Log each stream that became stale or fresh; gives those that are stale now."""
    ages_s = {s: v.data_age_s for s, v in seen.items() if v.data_age_s is not None}
    now_stale = {s for s, age_s in ages_s.items() if age_s > bounds_s.get(s, float("inf"))}
    for stream in now_stale - stale:
        log.error("stale", stream=stream, age_s=round(ages_s[stream], 1), bound_s=bounds_s[stream])
    for stream in stale - now_stale:
        log.info("fresh", stream=stream)
    return now_stale


def put(client: "CloudWatchClient", told: Mapping[str, list[dict[str, Any]]], log: Logger) -> bool:
    """One call per stream, whose name is the namespace; False when CloudWatch did not answer."""
    try:
        for stream, data in told.items():
            client.put_metric_data(Namespace=stream, MetricData=data)  # type: ignore[arg-type]
    except (ClientError, BotoCoreError) as error:
        log.warning("metrics_refused", error=str(error))
        return False
    return True
