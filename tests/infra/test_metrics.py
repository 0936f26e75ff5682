"""What is documented and alarmed on is what the processes really export, and nothing else."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from aggregator.gauges import Gauges
from aggregator.lines import Line
from aggregator.pulse import Pulse
from benchmarks.scene import make_scene
from console.dashboard.health import PopRow, Status
from console.dashboard.live import Snapshot
from console.dashboard.metrics import exposition
from console.published import View
from popsteer.config import Config
from popsteer.config_file import parse
from popsteer.heartbeat import Ages, Stage, bounds_s
from popsteer.lanes import Sequences
from popsteer.sink import Sink
from popsteer.sink_metrics import SinkCollector
from popsteer.spill import Spill
from popsteer.vitals import VITALS, datums, read
from resolver.counts import Counts, NodeMetrics
from resolver.node import Node

INFRA = Path(__file__).parents[2] / "infra"
ALARMS = json.loads((INFRA / "terraform" / "alarms.json").read_text())
RULES = INFRA / "prometheus" / "alerts.yml"
CONFIG = Config()
BULK, URGENT = CONFIG.aws.bulk_stream, CONFIG.aws.urgent_stream
STREAMS = {"bulk": BULK, "urgent": URGENT}
NAME = re.compile(r"popsteer_[a-z_]+")
STANDS_ALONE = {
    "dns": {"listen": "127.0.0.1:0"},
    "pop": [{"id": "fra1", "ipv4": ["192.0.2.1"]}],
    "service": [{"name": "www.z.example."}],
}
THROTTLED = "ProvisionedThroughputExceededException"
LABELS_KNOWN = {
    *("stream", "shard", "stage", "reason", "outcome", "code"),
    *("rcode", "pop", "transport", "rung", "quantile", "le"),
}
"""None of them has a value per prefix, agent, source or client."""


def _aggregator(registry: CollectorRegistry) -> None:
    gauges = Gauges(registry)
    cut = {"records": 1, "samples": 9, "duplicates": 1, "quarantined": {"clock": 1}}
    times = {"window_ms": 0, "age_ms": 11_000, "heard_ms": 9_000}
    for stream in STREAMS.values():
        where = {"stream": stream, "shard": "s1"}
        gauges.observe(Line("cut", fields={**where, **cut, **times}))
        gauges.observe(Line("progress", fields={**where, "behind_ms": 5, "heard_ms": 9_500}))
        gauges.observe(Line("lost", fields={**where, "source": "fra1.rtt", "records": 2}))
        gauges.observe(Line("conflict", fields=where))
        gauges.observe(Line("crashed", fields=where))
        gauges.restarts.labels(stream).inc()


def _planner(registry: CollectorRegistry) -> None:
    scene = make_scene()
    scene.run(12)
    registry.register(Pulse(scene.planner, BULK, bounds_s(CONFIG), lambda: scene.now_ms))


def _node(registry: CollectorRegistry, folder: Path) -> None:
    counts = Counts(rcodes=Counter(NOERROR=1), pops=Counter(fra1=1), transports=Counter(udp=1))
    node = Node(parse(STANDS_ALONE, folder / "popsteer.toml"), lambda _: None)
    signed = {"dnssec_left_seconds": 0.0}
    gauges = node.gauges() | signed
    registry.register(NodeMetrics(counts, Counter(signature=1), lambda: gauges, node.rung))
    newest = {(Stage.NODE_STATE, stream): 0 for stream in STREAMS.values()}
    newest[Stage.NODE_TABLE, BULK] = 0
    registry.register(Ages(lambda: newest, lambda: 1_000))


def _probe(registry: CollectorRegistry, folder: Path) -> Iterator[None]:
    sink = Sink(lambda _u, r: [""] * len(r), Sequences(folder / "s", 1), Spill(folder / "d", 1_000))
    sink.counts.errors[THROTTLED] = 1
    registry.register(SinkCollector(sink))
    newest = {(Stage.STREAM, stream): 0 for stream in STREAMS.values()}
    registry.register(Ages(lambda: newest, lambda: 1_000))
    yield
    sink.close()


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[CollectorRegistry]]:
    """What each process exports once everything has happened to it."""
    made = [CollectorRegistry() for _ in range(4)]
    _aggregator(made[0])
    _planner(made[1])
    _node(made[2], tmp_path_factory.mktemp("node"))
    probe = _probe(made[3], tmp_path_factory.mktemp("probe"))
    next(probe)
    yield made
    next(probe, None)


@pytest.fixture(scope="module")
def exported(registries: list[CollectorRegistry]) -> dict[str, set[str]]:
    """The labels of every sample of every process, the console's too."""
    found: dict[str, set[str]] = {}
    for registry in registries:
        for sample in (s for metric in registry.collect() for s in metric.samples):
            found.setdefault(sample.name, set()).update(sample.labels)
    for family in text_string_to_metric_families(_console()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return {name: labels for name, labels in found.items() if not name.endswith("_created")}


def _console() -> str:
    names = ("rtt_p50_ms", "rtt_p95_ms", "loss", "samples_per_min", "load_bps", "age_s")
    full = dict.fromkeys(names, 1.0)
    row = PopRow(id="fra1", health="Up", why="", capacity_bps=1.0, **full)  # type: ignore[arg-type]
    line = Status(
        stale=False,
        waiting=False,
        problems=(),
        now_ms=0,
        data_age_s=1,
        table_generation=1,
        table_age_s=1,
        state_age_s=1,
        latency_ms=1,
        heartbeat_age_s={BULK: 1.0},
    )
    snapshot = Snapshot(View(), line, (row,))
    return exposition(lambda: snapshot)().decode()


def _told(registries: list[CollectorRegistry]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Name and dimensions of everything that CloudWatch is told."""
    return {
        (one["MetricName"], frozenset((d["Name"], d["Value"]) for d in one["Dimensions"]))
        for registry in registries
        for one in datums(read(registry.collect()), {})
    }


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_watches_what_is_told(name: str, registries: list[CollectorRegistry]) -> None:
    alarm, told = ALARMS[name], _told(registries)
    streams = alarm.get("streams")
    for stream in streams or [None]:
        extra = {} if stream is None else {"Stream": STREAMS[stream]}
        watched = alarm["metric"], frozenset((alarm["dimensions"] | extra).items())
        assert watched in told
    assert alarm["missing"] in ("breaching", "notBreaching")
    assert ("over" in alarm) is (streams is None)
    counts = next(v for v in VITALS if v.name == alarm["metric"]).sample.endswith("_total")
    assert alarm["statistic"] == ("Sum" if counts else "Maximum")


def test_bounds_of_heartbeats_are_those_of_the_configuration() -> None:
    bounds = bounds_s(CONFIG)
    assert ALARMS["heartbeat-late"]["streams"] == {k: bounds[s] for k, s in STREAMS.items()}


def test_every_vital_is_exported_by_somebody(registries: list[CollectorRegistry]) -> None:
    assert {name for name, _ in _told(registries)} == {vital.name for vital in VITALS}


def test_rules_of_prometheus_watch_what_is_exported(exported: dict[str, set[str]]) -> None:
    named = set(NAME.findall(RULES.read_text()))
    assert named
    assert not named - exported.keys()
    lost = {
        vital.sample for vital in VITALS if vital.name in {a["metric"] for a in ALARMS.values()}
    }
    assert not lost - named, "every alarm of CloudWatch has a rule"


def test_labels_have_few_values(exported: dict[str, set[str]]) -> None:
    assert not {label for labels in exported.values() for label in labels} - LABELS_KNOWN


def test_names_end_with_their_unit(exported: dict[str, set[str]]) -> None:
    other_units = re.compile(r"_(ms|us|s|bps|pct|percent|kb|mb)(_total)?$")
    assert not [name for name in exported if other_units.search(name)]
    ages = [name for name in exported if "_age" in name or "_delay" in name]
    assert not [name for name in ages if not name.endswith("_seconds")]


def test_the_table_of_metrics_is_complete(exported: dict[str, set[str]]) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (INFRA / "METRICS.md").read_text().splitlines()
        if line.startswith("| `popsteer_")
    ]
    listed = {row[0].strip("`"): row for row in rows}
    ends = re.compile(r"_(bucket|count|sum)$")
    assert set(listed) == {ends.sub("", name) for name in exported}
    vitals = {vital.sample: vital.name for vital in VITALS}
    for name, row in listed.items():
        assert row[2].strip("`") == vitals.get(name, ""), f"{name} in CloudWatch"
        labels = exported.get(name, set())
        assert set(filter(None, row[1].split(", "))) == labels - {"le"}, f"labels of {name}"
