"""Recording from a real stream, across a reshard, beside whoever else reads it."""

import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from aggregator import record as recorder
from aggregator import recording
from aggregator.record import record
from popsteer import clock, orders, routes
from popsteer.aws import kinesis
from popsteer.config import Aws, Config
from popsteer.errors import ConfigError, PopsteerError
from popsteer.orders import Order, OrderKind
from popsteer.store import s3_store

MINUTE_MS = 60_000


@pytest.fixture
def config(local_aws: Aws) -> Config:
    """Streams of this test alone, of two shards each."""
    name = f"record-{time.monotonic_ns()}"
    aws = replace(local_aws, bulk_stream=f"{name}-bulk", urgent_stream=f"{name}-urgent")
    for stream in (aws.bulk_stream, aws.urgent_stream):
        kinesis(aws).create_stream(StreamName=stream, ShardCount=2)
    return Config(aws=aws)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "popsteer.toml"
    path.write_text("[dns]\n")
    return path


def put(config: Config, stream: str, numbers: range) -> None:
    client = kinesis(config.aws)
    for number in numbers:
        client.put_record(
            StreamName=stream, PartitionKey=f"lane{number % 7}", Data=f"{stream} {number}".encode()
        )


def kept(folder: Path) -> list[bytes]:
    return sorted(record.data for record in recording.read(folder))


def test_what_arrived_before_and_after_is_kept_across_a_split(
    config: Config, config_file: Path, tmp_path: Path
) -> None:
    bulk, urgent = config.aws.bulk_stream, config.aws.urgent_stream
    client, folder = kinesis(config.aws), tmp_path / "recording"
    put(config, bulk, range(40))
    shard = client.list_shards(StreamName=bulk)["Shards"][0]
    low = int(shard["HashKeyRange"]["StartingHashKey"])
    high = int(shard["HashKeyRange"]["EndingHashKey"])
    client.split_shard(
        StreamName=bulk,
        ShardToSplit=shard["ShardId"],
        NewStartingHashKey=str((low + high) // 2),
    )
    put(config, bulk, range(40, 60))

    ahead_ms = 0

    def now_ms() -> int:
        return clock.now_ms() + ahead_ms

    store = s3_store(config.aws)
    steps = record(config, config_file, store, folder, MINUTE_MS, MINUTE_MS, now_ms)
    next(steps)
    put(config, urgent, range(5))
    ahead_ms = MINUTE_MS + 2_000
    *_, (share, records) = steps

    expected = [f"{bulk} {n}" for n in range(60)] + [f"{urgent} {n}" for n in range(5)]
    assert kept(folder) == sorted(text.encode() for text in expected)
    assert (share, records) == (1.0, 65)
    assert recording.read_about(folder).records == 65
    assert (folder / recording.CONFIG).read_text() == config_file.read_text()


def test_the_orders_in_force_are_kept(config: Config, config_file: Path, tmp_path: Path) -> None:
    store, now_ms = s3_store(config.aws), clock.now_ms()
    order = Order(
        id=f"freeze-{now_ms}",
        kind=OrderKind.FREEZE,
        owner="test",
        reason="test",
        created_ms=now_ms,
        expires_ms=now_ms + 1_000,
    )
    orders.give(store, order, now_ms)
    put(config, config.aws.bulk_stream, range(1))

    list(record(config, config_file, store, tmp_path / "kept", MINUTE_MS, 0, clock.now_ms))

    files = sorted((tmp_path / "kept" / recording.ORDERS).iterdir())
    assert order in orders.decode(files[-1].read_bytes()).orders


def test_the_routes_are_kept(config: Config, config_file: Path, tmp_path: Path) -> None:
    store, body = s3_store(config.aws), b"to,link\n0.0.0.0/0,transit\n"
    store.create(routes.key("fra1"), body)
    put(config, config.aws.bulk_stream, range(1))

    list(record(config, config_file, store, tmp_path / "kept", MINUTE_MS, 0, clock.now_ms))

    assert (tmp_path / "kept" / recording.ROUTES / "fra1.csv").read_bytes() == body


def test_known_locations_are_kept(config: Config, config_file: Path, tmp_path: Path) -> None:
    named = tmp_path / "places.csv"
    named.write_text("prefix,latitude,longitude\n192.0.2.0/24,50,8\n")
    located = replace(config, aggregate=replace(config.aggregate, locations=str(named)))

    next(record(located, config_file, s3_store(config.aws), tmp_path / "x", 1, 0, clock.now_ms))

    assert (tmp_path / "x" / recording.LOCATIONS).read_text() == named.read_text()


def test_a_folder_in_use_is_refused(config: Config, config_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not empty"):
        next(record(config, config_file, s3_store(config.aws), tmp_path, 1, 0, clock.now_ms))


def test_a_stream_that_is_not_there_is_named(
    local_aws: Aws, config_file: Path, tmp_path: Path
) -> None:
    lost = Config(aws=replace(local_aws, bulk_stream="no-such-stream"))

    with pytest.raises(PopsteerError, match="no-such-stream"):
        next(recorder.record(lost, config_file, s3_store(lost.aws), tmp_path / "x", 1, 0, int))
