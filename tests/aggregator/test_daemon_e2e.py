"""The aggregator as people run it: the real MultiLangDaemon over a local AWS.

`POPSTEER_TEST_AWS=kinesis-local` runs it over kinesis-local and DynamoDB Local instead of the
embedded one, where Node, Java and the packages are at hand.
"""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from aggregator.partials import Partial, RttPartial, SignalPartial, decode, kind_prefix
from benchmarks.faults.kinesis_local import chosen
from benchmarks.faults.processes import all_processes
from benchmarks.faults.proxy import Proxy
from popsteer.aws import kinesis
from popsteer.config import Aws
from popsteer.errors import SetupError
from popsteer.names import SourceId
from popsteer.samples import (
    BULK_STREAM,
    URGENT_STREAM,
    Header,
    Kind,
    RttBatch,
    Signal,
    SignalBatch,
    encode,
)
from popsteer.store import s3_store

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

STOP_S_MAX = 12.0


@dataclass
class Sender:
    """Sends known samples and remembers how many of each should be counted."""

    aws: Aws
    records: int = 0
    bad: int = 0
    numbers: Counter[str] = field(default_factory=Counter)
    rtts: Counter[tuple[int, str]] = field(default_factory=Counter)
    signals: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    @cached_property
    def client(self) -> "KinesisClient":
        """To the streams."""
        return kinesis(self.aws)

    def send_rtt(self, lane: str, *, twice: bool = False) -> None:
        """A record of a lane; sent twice, the second is a retry."""
        n = 200
        net = self.rng.integers(1, 9, n).astype(np.uint64) << np.uint64(40)
        zero = np.zeros(n, np.uint8)
        batch = RttBatch(
            Header(SourceId(lane), self._number(lane), int(time.time() * 1000) - 500, ("fra1",)),
            np.arange(n, dtype=np.uint32),
            net,
            np.full(n, 24, np.uint8),
            zero.astype(np.uint16),
            self.rng.integers(1_000, 90_000, n).astype(np.uint32),
            zero,
            (self.rng.random(n) < 0.1).astype(np.uint8),
        )
        for one in net:
            self.rtts[int(one), "fra1"] += 1
        for _ in range(1 + twice):
            self._put(BULK_STREAM, lane, encode(batch))

    def send_signal(self) -> None:
        """One `up` of the POP."""
        one = np.zeros(1, np.uint32)
        header = Header(
            SourceId("fra1.signal"), self._number("s"), int(time.time() * 1000), ("fra1",)
        )
        up = np.full(1, Signal.UP, np.uint8)
        batch = SignalBatch(header, one, one.astype(np.uint16), up, np.ones(1))
        self.signals += 1
        self._put(URGENT_STREAM, "fra1.signal", encode(batch))

    def send_malformed(self, lane: str) -> None:
        """Bytes that are no record."""
        self.bad += 1
        self._put(BULK_STREAM, lane, b"malformed")

    def _number(self, lane: str) -> int:
        self.numbers[lane] += 1
        return self.numbers[lane]

    def _put(self, stream: str, key: str, data: bytes) -> None:
        self.client.put_record(StreamName=stream, PartitionKey=key, Data=data)
        self.records += 1


@dataclass
class Aggregator:
    """`popsteer aggregate` and what it leaves in S3."""

    folder: Path
    aws: Aws

    def start(self) -> subprocess.Popen[bytes]:
        """Start it; its lines go to a file."""
        config = self.folder / "popsteer.toml"
        config.write_text(
            f'[[pop]]\nid = "fra1"\n[aws]\nendpoint = "{self.aws.endpoint}"\n'
            '[aggregate]\nworker_id = "here"\n'
        )
        with (self.folder / "lines").open("ab") as lines:
            return subprocess.Popen(
                [sys.executable, "-m", "console.cli", "aggregate", "--config", str(config)],
                stderr=lines,
            )

    def partials(self, kind: Kind) -> list[Partial]:
        """All that is written."""
        store = s3_store(self.aws)
        bodies = [store.read(key) for key in store.list(kind_prefix(kind))]
        return [decode(stored.body) for stored in bodies if stored is not None]

    def records(self) -> int:
        """How many records the written partials account for."""
        written = [*self.partials(Kind.RTT), *self.partials(Kind.SIGNAL)]
        return sum(p.origin.records for p in written)

    def processes(self, program: str) -> list[int]:
        """Living processes of this aggregator that run `program`."""
        mark = str(self.folder)
        return [pid for pid, own, line in all_processes() if mark in own and program in line]


def wait_for(what: Callable[[], Any], why: str, timeout_s: float = 90) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline_s, why
        time.sleep(0.3)


@pytest.fixture
def aggregator(tmp_path: Path) -> Iterator[Aggregator]:
    try:
        local = chosen(tmp_path / "aws")
    except SetupError as reason:
        pytest.skip(str(reason))
    local.start()
    try:
        with Proxy(local.address) as proxy:
            yield Aggregator(tmp_path, Aws(endpoint=proxy.endpoint))
    finally:
        local.stop()


def test_every_sample_counts_once_through_a_kill_in_mid_window(aggregator: Aggregator) -> None:
    sender = Sender(aggregator.aws)
    process = aggregator.start()
    try:
        for round_number in range(60):
            for lane in ("fra1.rtt", "ams1.rtt", "lon1.rtt"):
                sender.send_rtt(lane, twice=round_number % 10 == 3)
            sender.send_signal()
            if round_number == 20:
                sender.send_malformed("fra1.rtt")
                wait_for(aggregator.records, "nothing was written")
            if round_number == 40:
                victims = aggregator.processes("aggregator.child")
                os.kill(victims[0], signal.SIGKILL)
            time.sleep(0.2)
        wait_for(lambda: aggregator.records() >= sender.records, "records are missing")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(STOP_S_MAX)

    assert code == 0
    assert aggregator.processes("") == []
    counted: Counter[tuple[int, str]] = Counter()
    for partial in aggregator.partials(Kind.RTT):
        assert isinstance(partial, RttPartial)
        for net, pop, count in zip(partial.net, partial.pop, partial.count, strict=True):
            counted[int(net), partial.pops[pop]] += int(count)
    assert counted == sender.rtts
    signals = [p for p in aggregator.partials(Kind.SIGNAL) if isinstance(p, SignalPartial)]
    assert sum(int(p.count.sum()) for p in signals) == sender.signals
    assert aggregator.records() == sender.records
    refused = [p.origin.quarantined for p in aggregator.partials(Kind.RTT)]
    assert sum((Counter(r) for r in refused), Counter()) == {"arrow": sender.bad}


def test_a_killed_supervisor_leaves_no_process(aggregator: Aggregator) -> None:
    process = aggregator.start()
    try:
        wait_for(lambda: len(aggregator.processes("aggregator.child")) >= 3, "no processors")
    finally:
        process.kill()
        process.wait()

    wait_for(lambda: aggregator.processes("") == [], "processes were left behind", 20)
