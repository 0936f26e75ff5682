"""The record processor as a real process, driven through its stdin and stdout as the JVM does."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator import settings
from aggregator.partials import RttPartial, decode, kind_prefix
from aggregator.settings import BULK_KINDS, ConsumerSettings
from popsteer.aws import kinesis
from popsteer.config import Aws
from popsteer.names import SourceId
from popsteer.samples import Header, Kind, RttBatch, encode
from popsteer.store import ObjectStore, s3_store

T0_MS = 1_700_000_000_000
SHARD = "shardId-000000000000"


@dataclass
class Child:
    """A record processor and the MultiLangDaemon's side of the protocol."""

    process: subprocess.Popen[str]

    def say(self, action: str, **fields: Any) -> list[dict[str, Any]]:
        """Send an action; gives the checkpoints that it asked for before it was done."""
        self._send({"action": action, **fields})
        asked = []
        while (answer := self._read())["action"] != "status":
            asked.append(answer)
            self._send(
                {
                    "action": "checkpoint",
                    "sequenceNumber": answer["sequenceNumber"],
                    "subSequenceNumber": None,
                }
            )
        assert answer["responseFor"] == action
        return asked

    def _send(self, document: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(document) + "\n")
        self.process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, "the record processor ended"
            if line.strip():
                document: dict[str, Any] = json.loads(line)
                return document


@pytest.fixture
def stream(local_aws: Aws, request: pytest.FixtureRequest) -> str:
    name = str(request.node.name).replace("_", "-")[:60]
    kinesis(local_aws).create_stream(StreamName=name, ShardCount=1)
    return name


@pytest.fixture
def store(local_aws: Aws) -> ObjectStore:
    return s3_store(local_aws)


@pytest.fixture
def child(local_aws: Aws, stream: str, tmp_path: Path) -> Iterator[Child]:
    consumer = ConsumerSettings(
        aws=local_aws,
        stream=stream,
        kinds=BULK_KINDS,
        window_ms=10_000,
        grace_ms=500,
        subjects=("fra1",),
    )
    settings.save(consumer, tmp_path / "consumer.json")
    with (
        (tmp_path / "stderr").open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "aggregator.child"],
            env={**os.environ, settings.VARIABLE: str(tmp_path / "consumer.json")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        yield Child(process)
        process.kill()


def initialized(child: Child) -> Child:
    child.say("initialize", shardId=SHARD, sequenceNumber="TRIM_HORIZON", subSequenceNumber=0)
    return child


def record(place: int, data: bytes | None = None) -> dict[str, Any]:
    arrival_ms = T0_MS + 4_000 * place
    one = np.ones(1, np.uint32)
    batch = RttBatch(
        Header(SourceId("fra1.rtt"), place, arrival_ms, ("fra1",)),
        0 * one,
        one.astype(np.uint64) << np.uint64(40),
        np.full(1, 24, np.uint8),
        np.zeros(1, np.uint16),
        one * np.uint32(20_000),
        np.zeros(1, np.uint8),
        np.zeros(1, np.uint8),
    )
    return {
        "sequenceNumber": str(10**55 + place),
        "subSequenceNumber": 0,
        "approximateArrivalTimestamp": arrival_ms,
        "partitionKey": "fra1.rtt",
        "data": base64.b64encode(encode(batch) if data is None else data).decode(),
        "action": "record",
    }


def samples_of(store: ObjectStore, stream: str) -> list[int]:
    keys = [k for k in store.list(kind_prefix(Kind.RTT)) if f"/{stream}-" in k]
    partials = [decode(stored.body) for k in keys if (stored := store.read(k))]
    return [int(p.count.sum()) for p in partials if isinstance(p, RttPartial)]


def test_windows_are_written_then_checkpointed(
    child: Child, store: ObjectStore, stream: str
) -> None:
    initialized(child)
    records = [record(0), record(1), record(2, b"malformed"), record(3), record(4), record(5)]

    asked = child.say("processRecords", records=records, millisBehindLatest=1)

    assert [a["sequenceNumber"] for a in asked] == [str(10**55 + 4)]
    assert samples_of(store, stream) == [2, 2]

    ended = child.say("shardEnded")

    assert [a["sequenceNumber"] for a in ended] == [None]
    assert samples_of(store, stream) == [2, 2, 1]


def test_a_stop_leaves_the_half_window_to_the_next(
    child: Child, store: ObjectStore, stream: str
) -> None:
    initialized(child)
    child.say("processRecords", records=[record(0)], millisBehindLatest=1)

    asked = child.say("shutdownRequested")

    assert asked == []
    assert samples_of(store, stream) == []


def test_an_error_ends_the_process_and_tells_why(child: Child, tmp_path: Path) -> None:
    initialized(child)
    broken = {**record(0), "data": "not base64!"}
    broken["sequenceNumber"] = "no number"

    child._send({"action": "processRecords", "records": [broken], "millisBehindLatest": 1})

    assert child.process.wait(20) == 1
    last = json.loads((tmp_path / "stderr").read_text().splitlines()[-1])
    assert last["event"] == "crashed"
    assert "no number" in last["error"]


def test_the_end_of_input_ends_it(child: Child) -> None:
    initialized(child)
    assert child.process.stdin is not None
    child.process.stdin.close()

    assert child.process.wait(20) == 0


def test_a_child_whose_daemon_is_gone_ends_before_it_has_loaded() -> None:
    """The daemon's end of stdin closes at once; no import is waited for."""
    code = (
        "import os, sys, time\n"
        "from aggregator.child import watch\n"
        "watch(0)\n"
        "time.sleep(60)\n"  # stands for imports on a busy machine
        "sys.exit(3)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    assert child.stdin is not None
    child.stdin.write(b"unread")

    child.stdin.close()

    assert child.wait(30) == 0
