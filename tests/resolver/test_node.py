"""A node on an embedded AWS: it takes what the planner publishes and reports what it answers."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from popsteer import samples
from popsteer import state as pop_state
from popsteer.aws import kinesis
from popsteer.config import Aws, Config, Dns, Health, Pop, Service, TableSource, Trust
from popsteer.errors import ConfigError
from popsteer.heartbeat import Stage
from popsteer.names import Prefix
from popsteer.samples import DemandBatch
from popsteer.signing import Signer
from popsteer.state import PopState, State
from popsteer.store import s3_store
from popsteer.table import (
    CANDIDATES_MAX,
    CURRENT_KEY,
    NO_POP,
    Pointer,
    Table,
    TableMeta,
    build,
    encode,
)
from resolver.answer import Client, Transport, answer
from resolver.cookies import CookieSecret
from resolver.node import Node, lane
from resolver.shelf import Shelf, Shelved
from resolver.snapshot import Rung
from resolver.tables import View
from resolver.wire import Rcode
from resolver.worker import Worker

DEADLINE_S = 30
HEARD_MS = 1_700_000_000_000
STREAMS = ("resolver-bulk", "resolver-urgent")
SIGNER = Signer(Ed25519PrivateKey.generate())
QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\3www\1z\7example\0\0\1\0\1"
CLIENT = Client(bytes((198, 51, 100, 7)), Transport.UDP)


@pytest.fixture
def config(local_aws: Aws, tmp_path: Path) -> Config:
    aws = msgspec.structs.replace(local_aws, bulk_stream=STREAMS[0], urgent_stream=STREAMS[1])
    client = kinesis(aws)
    present = client.list_streams()["StreamNames"]
    for name in STREAMS:
        if name not in present:
            client.create_stream(StreamName=name, ShardCount=1)
            client.get_waiter("stream_exists").wait(StreamName=name)
    return Config(
        dns=Dns(node="test-node", demand_period_s=0.1),
        pop=(Pop(id="fra1", ipv4=("192.0.2.1",)), Pop(id="nyc1", ipv4=("192.0.2.2",))),
        service=(Service(name="www.z.example.", query_bits=7.0),),
        aws=aws,
        table=TableSource(poll_s=0.05),
        trust=Trust(public_keys=(SIGNER.public_hex,)),
        folder=str(tmp_path),
    )


def one_row(generation: int, best: int) -> Table:
    """A table whose one row ranks one POP first and the other behind it."""
    prefix = Prefix.parse("198.51.100.0/24")
    pop = np.full((1, CANDIDATES_MAX), NO_POP, np.uint16)
    pop[0, :2] = best, 1 - best
    share = np.zeros((1, CANDIDATES_MAX), np.uint8)
    share[0, 0] = 255
    net, plen = np.array([prefix.net], np.uint64), np.array([prefix.plen], np.uint8)
    meta = TableMeta(generation=generation, window_last_ms=HEARD_MS - 9_000)
    return build(meta, ("fra1", "nyc1"), net, plen, pop, share, np.full_like(pop, 10))


def publish(config: Config, generation: int, best: int) -> None:
    """Put such a table in force."""
    body = encode(one_row(generation, best), SIGNER)
    store = s3_store(config.aws)
    key = f"tables/resolver-{generation}.arrow"
    assert store.create(key, body)
    digest = hashlib.sha256(body).hexdigest()
    pointer = Pointer(generation=generation, key=key, sha256=digest, created_ms=0)
    before = store.read(CURRENT_KEY)
    store.swap(CURRENT_KEY, msgspec.json.encode(pointer), before.etag if before else "")


def tell(config: Config, generation: int, **pops: PopState) -> None:
    now = time.time_ns() // 1_000_000
    said = State(
        generation=generation,
        created_ms=now,
        expires_ms=now + 60_000,
        pops=pops,
        heartbeat_ms={"popsteer-urgent": HEARD_MS},
    )
    store = s3_store(config.aws)
    before = store.read(pop_state.KEY)
    store.swap(pop_state.KEY, pop_state.encode(said, SIGNER), before.etag if before else "")


def demand_in_stream(config: Config) -> dict[tuple[str, str], tuple[int, float]]:
    """All demand so far, by prefix and POP."""
    client = kinesis(config.aws)
    shard = client.list_shards(StreamName=STREAMS[0])["Shards"][0]["ShardId"]
    iterator = client.get_shard_iterator(
        StreamName=STREAMS[0], ShardId=shard, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for record in client.get_records(ShardIterator=iterator)["Records"]:
        batch = samples.decode(record["Data"])
        assert isinstance(batch, DemandBatch)
        assert batch.header.source == "test-node.dns0"
        for row in range(samples.rows(batch)):
            prefix = str(Prefix(int(batch.net[row]), int(batch.plen[row])))
            key = prefix, batch.header.subjects[batch.subject[row]]
            queries, bits = found.get(key, (0, 0.0))
            found[key] = queries + int(batch.queries[row]), bits + float(batch.bits[row])
    return found


@pytest.fixture
async def running(config: Config) -> AsyncIterator[tuple[Node, Worker]]:
    worker = Worker(config, [], CookieSecret(b"x"), lane(config, 0))
    node = Node(config, worker.update)
    task = asyncio.create_task(node.run())
    yield node, worker
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 -- what is awaited has no event to wait on
            await asyncio.sleep(0.02)


def steered_to(worker: Worker) -> str:
    made = answer(QUERY, CLIENT, worker.snapshot, 0, 0)
    assert made is not None
    assert made.served is not None
    return made.served.pop


async def test_tables_states_and_demand_through_aws(
    running: tuple[Node, Worker], config: Config
) -> None:
    node, worker = running
    assert worker.snapshot.rung is Rung.STATIC
    await asyncio.to_thread(publish, config, 1, 1)
    await until(lambda: worker.snapshot.rung is Rung.LIVE)
    assert steered_to(worker) == "nyc1"
    await asyncio.to_thread(tell, config, 1, nyc1=PopState(up=False))
    await until(lambda: steered_to(worker) == "fra1")
    await asyncio.to_thread(tell, config, 2, nyc1=PopState())
    await until(lambda: steered_to(worker) == "nyc1")
    await asyncio.to_thread(publish, config, 2, 0)
    await until(lambda: steered_to(worker) == "fra1")
    assert node.gauges()["table_generation"] == 2
    assert node.newest() == {
        (Stage.NODE_STATE, "popsteer-urgent"): HEARD_MS,
        (Stage.NODE_TABLE, config.aws.bulk_stream): HEARD_MS - 9_000,
    }

    for _ in range(3):
        assert worker.respond(QUERY, ("198.51.100.7", 5_353), Transport.UDP) is not None
    node.take(worker.report(with_demand=True))
    expected = {("198.51.100.0/24", "fra1"): (3, 21.0)}
    async with asyncio.timeout(DEADLINE_S):
        while await asyncio.to_thread(demand_in_stream, config) != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert node.counts.pops == {"fra1": 3}
    assert node.rung() == "live"


class Away:
    """A source whose poll hangs until it is let go."""

    def __init__(self) -> None:
        self.hangs = threading.Event()
        self.let_go = threading.Event()

    def start(self) -> View:
        """Nothing."""
        return View()

    def poll(self, view: View, now_ms: int) -> View:  # noqa: ARG002 -- the seam's form
        """Hang."""
        self.hangs.set()
        assert self.let_go.wait(DEADLINE_S)
        return view


def test_a_node_stops_though_its_source_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away()
    monkeypatch.setattr("resolver.node.open_source", lambda *_: away)

    async def run_and_stop() -> None:
        node = Node(Config(folder=str(tmp_path)), lambda _: None)
        task = asyncio.create_task(node.run())
        await until(away.hangs.is_set)
        task.cancel()
        await asyncio.wait([task])

    began_s = time.monotonic()
    asyncio.run(run_and_stop())
    assert time.monotonic() - began_s < DEADLINE_S / 3
    away.let_go.set()


class Telling:
    """A source that says what it is given."""

    def __init__(self) -> None:
        self.view = View()

    def start(self) -> View:
        """Nothing."""
        return View()

    def poll(self, view: View, now_ms: int) -> View:
        """What is said now."""
        table = self.view.table or view.table
        return View(table, self.view.state, now_ms)


async def test_a_drain_waits_for_no_table_that_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, compiling, let_go = Telling(), threading.Event(), threading.Event()
    monkeypatch.setattr("resolver.node.open_source", lambda *_: source)
    put = Shelf.put

    def slowly(shelf: Shelf, table: Table) -> Shelved:
        compiling.set()
        assert let_go.wait(DEADLINE_S)
        return put(shelf, table)

    monkeypatch.setattr(Shelf, "put", slowly)
    config = Config(
        pop=(Pop(id="fra1", ipv4=("192.0.2.1",)), Pop(id="nyc1", ipv4=("192.0.2.2",))),
        service=(Service(name="www.z.example."),),
        table=TableSource(poll_s=0.01),
        folder=str(tmp_path),
    )
    worker = Worker(config, [], CookieSecret(b"x"), lane(config, 0))
    node = Node(config, worker.update)
    task = asyncio.create_task(node.run())
    assert steered_to(worker) == "fra1"

    now = time.time_ns() // 1_000_000
    drained = {"fra1": PopState(drained=True), "nyc1": PopState()}
    said = State(generation=1, created_ms=now, expires_ms=now + 60_000, pops=drained)
    source.view = View(one_row(1, 0), None)
    await until(compiling.is_set)
    source.view = View(source.view.table, said)
    await until(lambda: steered_to(worker) == "nyc1")
    assert node.gauges()["table_generation"] == 0
    let_go.set()

    await until(lambda: node.gauges()["table_generation"] == 1)
    assert steered_to(worker) == "nyc1"
    task.cancel()
    await asyncio.wait([task])


def geographic(tmp_path: Path, file: Path) -> Config:
    return Config(
        pop=(
            Pop(id="nyc1", ipv4=("192.0.2.2",), location=(40.7, -74.0)),
            Pop(id="lon1", ipv4=("192.0.2.1",), location=(51.5, -0.1)),
        ),
        service=(Service(name="www.z.example."),),
        table=TableSource(geography=str(file)),
        folder=str(tmp_path),
    )


async def test_a_node_without_a_table_goes_by_geography(tmp_path: Path, mmdb: Path) -> None:
    config = geographic(tmp_path, mmdb)
    worker = Worker(config, [], CookieSecret(b"x"), lane(config, 0))
    node = Node(config, worker.update)
    assert node.rung() == "static"
    task = asyncio.create_task(node.run())
    await until(lambda: worker.snapshot.rung is Rung.GEOGRAPHY)
    task.cancel()
    await asyncio.wait([task])
    british = Client(bytes((2, 125, 160, 217)), Transport.UDP)
    made = answer(QUERY, british, worker.snapshot, 0, 0)
    assert made is not None
    assert made.served is not None
    assert (made.served.pop, node.rung()) == ("lon1", "geography")


def test_a_geography_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "bad.mmdb").write_bytes(b"no database")
    for name in ("bad.mmdb", "gone.mmdb"):
        with pytest.raises(ConfigError, match=rf"table\.geography = .*{name}"):
            Node(geographic(tmp_path, tmp_path / name), lambda _: None)


def test_a_node_that_doubts_its_checks_follows_its_policy_until_they_pass(tmp_path: Path) -> None:
    config = Config(
        pop=(Pop(id="fra1", ipv4=("127.0.0.1",)), Pop(id="nyc1", ipv4=("127.0.0.1",))),
        service=(Service(name="www.z.example."),),
        health=Health(all_down="servfail"),
        folder=str(tmp_path),
    )
    kept = config.data_dir / "resolver" / "health.json"
    worker = Worker(config, [], CookieSecret(b"x"), lane(config, 0))

    def rcode_with(beliefs: dict[str, bool]) -> int:
        kept.parent.mkdir(parents=True, exist_ok=True)
        known = {f"{pop} 127.0.0.1": up for pop, up in beliefs.items()}
        kept.write_bytes(msgspec.json.encode(known))
        worker.update(Node(config, lambda _: None).update())
        made = answer(QUERY, CLIENT, worker.snapshot, 0, 0)
        assert made is not None
        return made.rcode

    assert rcode_with({"fra1": False, "nyc1": False}) == Rcode.SERVFAIL
    assert rcode_with({"fra1": False, "nyc1": True}) == Rcode.NOERROR
    assert steered_to(worker) == "nyc1"
