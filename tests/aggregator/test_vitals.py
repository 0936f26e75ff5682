"""Many shards become few numbers; CloudWatch gets them; an old newest sample rings once."""

import asyncio
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from aggregator import vitals as module
from aggregator.gauges import Gauges
from aggregator.lines import Line
from aggregator.vitals import datums, put, report, vitals
from popsteer.aws import cloudwatch
from popsteer.clock import now_ms
from popsteer.config import Aws

NOW_S = 1_700_000_100.0


def tell_cut(gauges: Gauges, shard: str, newest_s: float, **more: Any) -> None:
    """As a record processor does when it has written a cut."""
    fields = {"records": 1, "samples": 10, "duplicates": 0, "quarantined": {}, "age_ms": 10_500}
    times = {"window_ms": (newest_s - 9) * 1_000, "newest_ms": newest_s * 1_000}
    gauges.observe(
        Line("cut", fields={"stream": "bulk", "shard": shard, **fields, **times, **more})
    )


def test_a_stream_is_as_old_as_its_oldest_shard() -> None:
    registry = CollectorRegistry()
    gauges = Gauges(registry)
    tell_cut(gauges, "s1", NOW_S - 4, quarantined={"clock": 2, "pop": 1})
    tell_cut(gauges, "s2", NOW_S - 30)
    gauges.observe(Line("progress", fields={"stream": "bulk", "shard": "s1", "behind_ms": 700}))
    gauges.observe(Line("lost", fields={"stream": "bulk", "source": "a", "records": 3}))

    seen = vitals(registry.collect(), NOW_S)["bulk"]

    assert (seen.behind_s, seen.watermark_age_s, seen.data_age_s) == (0.7, 39, 30)
    assert (seen.totals["Samples"], seen.totals["Quarantined"], seen.totals["Lost"]) == (20, 3, 3)


def test_cloudwatch_is_told_how_counters_rose(local_aws: Aws) -> None:
    registry = CollectorRegistry()
    gauges = Gauges(registry)
    tell_cut(gauges, "s1", NOW_S)
    before = vitals(registry.collect(), NOW_S)["bulk"]
    tell_cut(gauges, "s1", NOW_S + 10)
    tell_cut(gauges, "s2", NOW_S + 10)
    after = vitals(registry.collect(), NOW_S + 12)["bulk"]
    client, log = cloudwatch(local_aws), structlog.get_logger()

    assert put(client, {"bulk": datums(after, before)}, log)

    told = {one["MetricName"]: one["Value"] for one in datums(after, before)}
    assert told["Samples"] == 20
    assert told["DataAge"] == 2
    stored = {one["MetricName"] for one in client.list_metrics(Namespace="bulk")["Metrics"]}
    assert stored == set(told)


def test_a_cloudwatch_that_is_away_is_no_error() -> None:
    away = cloudwatch(Aws(endpoint="http://127.0.0.1:9"))

    with structlog.testing.capture_logs() as logs:
        assert not put(away, {"bulk": []}, structlog.get_logger())

    assert [line["event"] for line in logs] == ["metrics_refused"]


def test_data_that_grows_old_rings_once_and_says_when_it_is_fresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PERIOD_S", 0.01)
    registry = CollectorRegistry()
    gauges = Gauges(registry)
    tell_cut(gauges, "s1", now_ms() / 1_000 - 60)

    async def watch() -> None:
        stop = asyncio.Event()
        watching = asyncio.create_task(
            report(registry, {"bulk": 25.0}, None, structlog.get_logger(), stop)
        )
        async with asyncio.timeout(10):
            while not logs:  # noqa: ASYNC110 -- a condition with a deadline
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            tell_cut(gauges, "s1", now_ms() / 1_000)
            while len(logs) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        stop.set()
        await watching

    with structlog.testing.capture_logs() as logs:
        asyncio.run(watch())

    assert [line["event"] for line in logs] == ["stale", "fresh"]
