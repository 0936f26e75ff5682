"""A record without samples passes everywhere, and what stands still grows old."""

import pytest
import structlog
from prometheus_client import CollectorRegistry

from popsteer import samples
from popsteer.config import Aggregate, Aws, Config, Telemetry
from popsteer.heartbeat import METRIC, Ages, Alarm, Stage, bounds_s, heartbeat, lane, lane_of
from popsteer.names import SourceId
from popsteer.samples import Kind

NOW_MS = 1_700_000_000_000


@pytest.mark.parametrize("kind", Kind)
def test_its_bytes_give_it_back(kind: Kind) -> None:
    sent = heartbeat(SourceId("fra1.rtt"), kind, NOW_MS)

    record = samples.encode(sent)
    taken = samples.decode(record)

    assert (taken.kind, samples.rows(taken), taken.header) == (kind, 0, sent.header)
    assert len(record) < 2_500


def test_lanes_that_never_fall_silent() -> None:
    assert lane("fra1", Kind.RTT) == "fra1.rtt"
    sources = ["fra1.rtt", "fra1.rtt~3", "replay.signal", "node-1.dns0", "fra1.demand", "rtt"]
    assert [lane_of(source) for source in sources] == [
        "fra1.rtt",
        "fra1.rtt",
        "replay.signal",
        "",
        "",
        "",
    ]


def test_a_bound_is_the_window_and_what_is_configured() -> None:
    config = Config(
        aws=Aws(bulk_stream="b", urgent_stream="u"),
        aggregate=Aggregate(bulk_window_s=10, urgent_window_s=1),
        telemetry=Telemetry(heartbeat_age_s_max=20.0),
    )
    assert bounds_s(config) == {"b": 30, "u": 21}


def test_ages_grow_while_nothing_comes() -> None:
    clock = [NOW_MS]
    registry = CollectorRegistry()
    registry.register(Ages(lambda: {(Stage.FOLD, "bulk"): NOW_MS - 500}, lambda: clock[0]))

    def age_s() -> float | None:
        return registry.get_sample_value(METRIC, {"stage": "fold", "stream": "bulk"})

    assert age_s() == 0.5
    clock[0] += 90_000
    assert age_s() == 90.5


def test_the_alarm_rings_once_and_says_when_it_is_over() -> None:
    alarm = Alarm({"bulk": 25.0, "urgent": 16.0})
    log = structlog.get_logger()

    with structlog.testing.capture_logs() as logs:
        alarm.look({"bulk": NOW_MS - 25_000, "urgent": NOW_MS}, NOW_MS, log)
        assert logs == []
        for later_ms in (26_000, 27_000):
            alarm.look({"bulk": NOW_MS - later_ms, "urgent": NOW_MS}, NOW_MS, log)
        alarm.look({"bulk": NOW_MS, "urgent": NOW_MS}, NOW_MS, log)

    assert [(line["event"], line["stream"]) for line in logs] == [
        ("stale", "bulk"),
        ("fresh", "bulk"),
    ]
    assert (logs[0]["age_s"], logs[0]["bound_s"]) == (26.0, 25.0)
