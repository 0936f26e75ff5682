"""Many shards become few numbers, and CloudWatch gets them."""

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from popsteer.aws import cloudwatch
from popsteer.config import Aws
from popsteer.vitals import VITALS, Key, datums, put, read


def named(values: dict[Key, float]) -> dict[tuple[str, ...], float]:
    return {(vital.name, *labels): value for (vital, labels), value in values.items()}


def told(registry: CollectorRegistry, before: dict[Key, float]) -> dict[str, float]:
    return {one["MetricName"]: one["Value"] for one in datums(read(registry.collect()), before)}


def test_shards_and_reasons_add_up_and_the_worst_shard_counts() -> None:
    registry = CollectorRegistry()
    labels = ("stream", "shard")
    behind = Gauge("popsteer_aggregator_behind_seconds", "", labels, registry=registry)
    reasons = ("stream", "reason")
    refused = Counter("popsteer_aggregator_quarantined", "", reasons, registry=registry)
    behind.labels("bulk", "s1").set(0.7)
    behind.labels("bulk", "s2").set(30)
    behind.labels("urgent", "s1").set(0.1)
    refused.labels("bulk", "clock").inc(2)
    refused.labels("bulk", "pop").inc(1)

    values = read(registry.collect())

    assert named(values) == {
        ("Behind", "bulk"): 30,
        ("Behind", "urgent"): 0.1,
        ("Quarantined", "bulk"): 3,
    }


def test_cloudwatch_is_told_how_counters_rose(local_aws: Aws) -> None:
    registry = CollectorRegistry()
    lost = Counter("popsteer_aggregator_lost", "", ("stream",), registry=registry)
    backlog = Gauge("popsteer_sink_backlog_bytes", "", registry=registry)
    lost.labels("bulk").inc(5)
    backlog.set(1_000)
    before = read(registry.collect())
    lost.labels("bulk").inc(2)

    told = datums(read(registry.collect()), before)

    assert {one["MetricName"]: one["Value"] for one in told} == {"Lost": 2, "SinkBacklog": 1_000}
    client = cloudwatch(local_aws)
    assert put(client, "vitals-test", told, structlog.get_logger())
    stored = client.list_metrics(Namespace="vitals-test")["Metrics"]
    assert {(m["MetricName"], *(d["Value"] for d in m["Dimensions"])) for m in stored} == {
        ("Lost", "bulk"),
        ("SinkBacklog",),
    }


def test_a_cloudwatch_that_is_away_is_no_error() -> None:
    away = cloudwatch(Aws(endpoint="http://127.0.0.1:9"))
    nothing = [{"MetricName": "Lost", "Value": 0.0, "Unit": "Count"}]

    with structlog.testing.capture_logs() as logs:
        assert not put(away, "vitals-test", nothing, structlog.get_logger())

    assert [line["event"] for line in logs] == ["metrics_refused"]


def test_names_are_told_once_and_say_their_unit() -> None:
    assert len({vital.name for vital in VITALS}) == len({v.sample for v in VITALS}) == len(VITALS)
    ends = {"Seconds": "_seconds", "Bytes": "_bytes"}
    for vital in VITALS:
        assert vital.sample.endswith(ends.get(vital.unit, "")), vital
