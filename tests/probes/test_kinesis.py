"""The sink and the agent against a real local Kinesis: limits, an outage, a whole run."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from console.localaws.provision import make_stream
from popsteer import samples, targets, world
from popsteer.aws import kinesis
from popsteer.config import Aws
from popsteer.names import Prefix, SourceId, prefix_arrays
from popsteer.samples import Batch, Header, Kind, RttBatch, Signal, SignalBatch
from popsteer.sink import Sink, open_sink

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

READY = "ready "


def read_all(client: "KinesisClient", stream: str) -> list[Batch]:
    found: list[Batch] = []
    for shard in client.list_shards(StreamName=stream)["Shards"]:
        iterator = client.get_shard_iterator(
            StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while True:
            try:
                answer = client.get_records(ShardIterator=iterator, Limit=1_000)
            except client.exceptions.ProvisionedThroughputExceededException:
                time.sleep(0.25)  # a shard is read five times a second at the most
                continue
            found += [samples.decode(record["Data"]) for record in answer["Records"]]
            if not answer["Records"] and not answer["MillisBehindLatest"]:
                break
            iterator = answer["NextShardIterator"]
    return found


@contextmanager
def limited_aws(folder: Path, listen: str = "127.0.0.1:0") -> Iterator[Aws]:
    """An embedded AWS whose shards take 1 MB/s and 1,000 records/s, as real ones do."""
    command = [sys.executable, "-m", "console.localaws", "--listen", listen, "--limits"]
    command += ["--data", str(folder), "--bulk-shards", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            line = child.stdout.readline()
            assert line.startswith(READY)
            yield Aws(endpoint=line.removeprefix(READY).strip())
        finally:
            child.kill()


async def until(condition: Callable[[], bool], deadline_s: float) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 -- the condition is state of another process
            await asyncio.sleep(0.05)


def incompressible(lane: int, number: int, rows: int = 1_000) -> RttBatch:
    rng = np.random.default_rng([lane, number])
    return RttBatch(
        Header(SourceId(f"pop{lane}.rtt"), 0, number, ("fra1",)),
        dt_ms=rng.integers(0, 2**32, rows, np.uint32),
        net=rng.integers(0, 2**32, rows, np.uint64) << np.uint64(32),
        plen=np.full(rows, 32, np.uint8),
        subject=np.zeros(rows, np.uint16),
        rtt_us=rng.integers(0, 60_000_000, rows).astype(np.uint32),
        method=np.zeros(rows, np.uint8),
        lost=np.zeros(rows, np.uint8),
    )


def kept_once(batches: list[Batch]) -> Counter[tuple[str, int]]:
    """(lane, t0) of the records above the high-water mark of their source."""
    marks: dict[str, int] = {}
    kept: Counter[tuple[str, int]] = Counter()
    for batch in batches:
        head = batch.header
        if head.sequence > marks.get(head.source, -1):
            marks[head.source] = head.sequence
            kept[head.source.partition("~")[0], head.t0_ms] += 1
    return kept


async def stop(sink: Sink, task: asyncio.Task[None]) -> None:
    await sink.drain(30)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    sink.close()


async def test_a_throttled_shard_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with limited_aws(tmp_path / "aws") as aws:
        sink = open_sink(aws, tmp_path / "sink", 1 << 26)
        task = asyncio.create_task(sink.run())
        for number in range(40):
            for lane in range(5):
                assert sink.offer(incompressible(lane, number))
        await until(lambda: sink.backlog_bytes == 0, 60)
        await stop(sink, task)
        assert sink.counts.errors["ProvisionedThroughputExceededException"] > 0
        kept = kept_once(read_all(kinesis(aws), aws.bulk_stream))
    assert kept == Counter({(f"pop{i}.rtt", n): 1 for i in range(5) for n in range(40)})
    assert sink.lost == 0


async def test_an_outage_of_kinesis_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with limited_aws(tmp_path / "aws") as aws:
        sink = open_sink(aws, tmp_path / "sink", 1 << 26)
        task = asyncio.create_task(sink.run())
        for number in range(5):
            sink.offer(incompressible(0, number, rows=50))
        await until(lambda: sink.backlog_bytes == 0, 60)
        before = kept_once(read_all(kinesis(aws), aws.bulk_stream))
    for number in range(5, 10):
        sink.offer(incompressible(0, number, rows=50))
    await until(lambda: sink.counts.spilled >= 5, 60)
    listen = aws.endpoint.removeprefix("http://")
    with limited_aws(tmp_path / "fresh", listen) as again:
        sink.offer(incompressible(0, 10, rows=50))
        await until(lambda: sink.backlog_bytes == 0, 60)
        await stop(sink, task)
        after = kept_once(read_all(kinesis(again), again.bulk_stream))
    assert before + after == Counter({("pop0.rtt", n): 1 for n in range(11)})


class LoadHandler(BaseHTTPRequestHandler):
    """A POP's load report."""

    def do_GET(self) -> None:
        """Answer."""
        body = json.dumps(
            {"load_bps": 2.5e9, "load_rps": 70.0, "links": {"transit": 1e9}, "more": 1}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def load_report() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), LoadHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def agent(config: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from pathlib import Path; from popsteer.config_file import load; "
        "from probes.agent import run; run(load(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def signals_of(batches: list[Batch]) -> dict[tuple[str, Signal], float]:
    """The last value of each."""
    return {
        (batch.header.subjects[subject], Signal(which)): value
        for batch in batches
        if isinstance(batch, SignalBatch)
        for subject, which, value in zip(
            batch.subject.tolist(), batch.signal.tolist(), batch.value.tolist(), strict=True
        )
    }


def streams(aws: Aws, name: str) -> Aws:
    own = Aws(endpoint=aws.endpoint, bulk_stream=f"{name}-bulk", urgent_stream=f"{name}-urgent")
    for stream in (own.bulk_stream, own.urgent_stream):
        make_stream(kinesis(own), stream, 1)
    return own


def config_text(aws: Aws, rest: str) -> str:
    return f"""
data = "state"
[aws]
endpoint = "{aws.endpoint}"
bulk_stream = "{aws.bulk_stream}"
urgent_stream = "{aws.urgent_stream}"
{rest}"""


async def test_an_agent_measures_its_targets_and_its_pop(local_aws: Aws, tmp_path: Path) -> None:
    aws = streams(local_aws, "agent")
    net, plen = prefix_arrays([Prefix.parse("127.0.0.0/24"), Prefix.parse("127.0.1.0/24")])
    addresses = ("127.0.0.1", "127.0.1.1")
    targets.save(tmp_path / "targets.csv", targets.Targets(net, plen, addresses, np.zeros(2)))
    with load_report() as port:
        config = tmp_path / "agent.toml"
        config.write_text(
            config_text(
                aws,
                f"""
[probe]
pop = "fra1"
targets = "targets.csv"
methods = ["tcp"]
port = {port}
interval_s = 0.2
signal_period_s = 0.2
load_url = "http://{{address}}:{port}/load"
[[pop]]
id = "fra1"
ipv4 = ["127.0.0.1"]
capacity_bps = 100e9
[[pop.link]]
id = "loopback"
interface = "lo"
capacity_bps = 40e9
[[pop.link]]
id = "transit"
capacity_bps = 10e9
""",
            )
        )
        with agent(config) as child:
            client = kinesis(aws)
            wanted = ("fra1/loopback", Signal.TX_BPS)
            # A heartbeat comes before any sample.
            await until(lambda: any(len(b.dt_ms) for b in read_all(client, aws.bulk_stream)), 60)
            await until(lambda: wanted in signals_of(read_all(client, aws.urgent_stream)), 60)
            child.send_signal(signal.SIGTERM)
            _, said = child.communicate(timeout=20)
            assert child.returncode == 0, said
    rtt = [b for b in read_all(client, aws.bulk_stream) if isinstance(b, RttBatch)]
    assert {batch.header.source for batch in rtt} == {"fra1.rtt"}
    assert {n for batch in rtt for n in batch.net.tolist()} == set(net.tolist())
    near = [batch.rtt_us[batch.net == net[0]] for batch in rtt]
    # One of them may wait for a busy machine.
    assert 0 < np.median(np.concatenate(near)) < 500_000
    last = signals_of(read_all(client, aws.urgent_stream))
    assert last["fra1", Signal.UP] == 1
    assert last["fra1", Signal.LOAD_BPS] == 2.5e9
    assert last["fra1", Signal.LOAD_RPS] == 70
    assert last["fra1", Signal.CAPACITY_BPS] == 100e9
    assert last["fra1/transit", Signal.TX_BPS] == 1e9
    assert last["fra1/loopback", Signal.CAPACITY_BPS] == 40e9
    assert ("fra1/loopback", Signal.DROPS_PER_S) in last
    ended = json.loads(said.strip().splitlines()[-1])
    assert ended["event"] == "agent ended"
    assert ended["on_disk_bytes"] == 0


async def test_a_replay_asks_every_pop_and_a_refusal_is_down(
    local_aws: Aws, tmp_path: Path
) -> None:
    aws = streams(local_aws, "replay")
    world.save(tmp_path / "world.npz", own := world.generate(3, 200, seed=2))
    with load_report() as port:
        pops = "".join(
            f'[[pop]]\nid = "{pop}"\nipv4 = ["127.0.0.{1 + number}"]\n'
            for number, pop in enumerate(own.pops)
        )
        config = tmp_path / "replay.toml"
        # The listener is on 127.0.0.1 alone: the other two POPs refuse.
        config.write_text(
            config_text(
                aws,
                f"""
[probe]
source = "replay"
world = "world.npz"
signal_period_s = 0.2
load_url = "http://{{address}}:{port}/load"
{pops}""",
            )
        )
        client = kinesis(aws)
        with agent(config) as child:
            await until(lambda: len(read_all(client, aws.bulk_stream)) >= 3, 30)
            await until(lambda: len(signals_of(read_all(client, aws.urgent_stream))) >= 5, 30)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=20)
            assert child.returncode == 0, said
    batches = read_all(client, aws.bulk_stream)
    assert {batch.header.source for batch in batches} == {f"{pop}.rtt" for pop in own.pops}
    assert all(batch.kind is Kind.RTT for batch in batches)
    last = signals_of(read_all(client, aws.urgent_stream))
    assert [last[pop, Signal.UP] for pop in own.pops] == [1, 0, 0]
    assert last[own.pops[0], Signal.LOAD_BPS] == 2.5e9
    assert (own.pops[1], Signal.LOAD_BPS) not in last
