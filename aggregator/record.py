"""Reads the streams for a while and writes a recording; beside the KCL, and disturbing nobody.

It takes no lease and keeps no checkpoint: GetRecords from every shard, the ones that a reshard
brings too. Kinesis grants five reads a second and shard to all readers, the KCL among them, so
this one asks once a second.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from aggregator import recording
from aggregator.recording import FILE_MS, About, Recorded
from popsteer import orders, routes
from popsteer.aws import kinesis
from popsteer.clock import SECOND_MS
from popsteer.config import Config
from popsteer.errors import ConfigError, PopsteerError, SetupError
from popsteer.store import ObjectStore

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient

POLL_S = 1.0
SHARDS_EVERY = 5
"""Polls between two looks for new shards."""
RECORDS_MAX = 10_000
BUSY = {"ProvisionedThroughputExceededException", "LimitExceededException"}

Clock = Callable[[], int]


@dataclass(slots=True)
class _Reader:
    """One shard, from its first record of interest on."""

    stream: str
    shard: str
    iterator: str | None
    read_to_ms: int = 0
    """Everything that arrived before was read; the shard has ended where there is no iterator."""


class Recorder:
    """Owns the readers of all shards and the records that wait for their file to be whole."""

    def __init__(self, config: Config, folder: Path, first_ms: int, last_ms: int) -> None:
        self._client: KinesisClient = kinesis(config.aws)
        self._streams = (config.aws.bulk_stream, config.aws.urgent_stream)
        self._folder = folder
        self._first_ms, self._last_ms = first_ms, last_ms
        self._readers: dict[tuple[str, str], _Reader] = {}
        self._waiting: dict[int, list[Recorded]] = {}
        self.records = 0

    def poll(self, now_ms: int, look_for_shards: bool) -> None:
        """Read every shard once; write the files that are whole.

        Raises:
            PopsteerError: Kinesis does not answer, or has no such stream.
        """
        try:
            if look_for_shards:
                self._find_shards()
            for reader in self._readers.values():
                self._read(reader, now_ms)
        except (ClientError, BotoCoreError) as error:
            raise PopsteerError(f"Kinesis: {error}") from None
        self._write(self.read_to_ms)

    @property
    def read_to_ms(self) -> int:
        """Everything that arrived before was read, on every shard that still lives."""
        living = [r.read_to_ms for r in self._readers.values() if r.iterator is not None]
        return min(living, default=self._last_ms)

    def finish(self) -> None:
        """Write what is left and say that the recording is whole."""
        self._write(self._last_ms + FILE_MS)
        about = About(first_ms=self._first_ms, last_ms=self._last_ms, records=self.records)
        recording.write_about(self._folder, about)

    def _find_shards(self) -> None:
        for stream in self._streams:
            for page in self._client.get_paginator("list_shards").paginate(StreamName=stream):
                for shard in page["Shards"]:
                    which = stream, shard["ShardId"]
                    if which not in self._readers:
                        self._readers[which] = self._reader(*which)

    def _reader(self, stream: str, shard: str) -> _Reader:
        answer = self._client.get_shard_iterator(
            StreamName=stream,
            ShardId=shard,
            ShardIteratorType="AT_TIMESTAMP",
            Timestamp=datetime.fromtimestamp(self._first_ms / SECOND_MS, UTC),
        )
        return _Reader(stream, shard, answer["ShardIterator"], self._first_ms)

    def _read(self, reader: _Reader, now_ms: int) -> None:
        """Until the tip of the shard, or the end of the recording."""
        while reader.iterator is not None and reader.read_to_ms < self._last_ms:
            try:
                answer = self._client.get_records(ShardIterator=reader.iterator, Limit=RECORDS_MAX)
            except ClientError as error:
                if error.response["Error"]["Code"] in BUSY:
                    return
                raise
            reader.iterator = answer.get("NextShardIterator")
            for record in answer["Records"]:
                self._keep(
                    Recorded(
                        round(record["ApproximateArrivalTimestamp"].timestamp() * SECOND_MS),
                        reader.stream,
                        record["PartitionKey"],
                        int(record["SequenceNumber"]),
                        record["Data"],
                    )
                )
            behind_ms = answer.get("MillisBehindLatest", 0)
            reader.read_to_ms = max(reader.read_to_ms, now_ms - behind_ms)
            if behind_ms == 0:
                return

    def _keep(self, record: Recorded) -> None:
        if self._first_ms <= record.arrival_ms < self._last_ms:
            start_ms = record.arrival_ms // FILE_MS * FILE_MS
            self._waiting.setdefault(start_ms, []).append(record)

    def _write(self, read_to_ms: int) -> None:
        for start_ms in sorted(self._waiting):
            if start_ms + FILE_MS <= read_to_ms:
                records = self._waiting.pop(start_ms)
                self.records += len(records)
                recording.write_file(self._folder, start_ms, records)


def record(
    config: Config,
    config_path: Path,
    store: ObjectStore,
    folder: Path,
    since_ms: int,
    for_ms: int,
    clock: Clock,
) -> Iterator[tuple[float, int]]:
    """Record what arrived in the last `since_ms` and arrives in the next `for_ms`.

    Gives the share that is done and the records so far, once a second.

    Raises:
        ConfigError: the folder holds something already.
        SetupError: it cannot be written.
        PopsteerError: Kinesis does not answer.
    """
    started_ms = clock()
    first_ms, last_ms = started_ms - since_ms, started_ms + for_ms
    _prepare(folder, config, config_path)
    recorder = Recorder(config, folder, first_ms, last_ms)
    polls = 0
    while True:
        now_ms = clock()
        # What was put just before now may not be readable yet: look once more a second later.
        recorder.poll(now_ms - SECOND_MS, polls % SHARDS_EVERY == 0)
        polls += 1
        if recorder.read_to_ms >= last_ms:
            break
        yield (now_ms - started_ms) / max(for_ms, 1), recorder.records
        time.sleep(POLL_S)
    _keep_orders(store, folder, first_ms, last_ms)
    _keep_routes(store, folder)
    recorder.finish()
    yield 1.0, recorder.records


def _prepare(folder: Path, config: Config, config_path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ConfigError(f"{folder}: is not empty; name a new folder for the recording")
        shutil.copyfile(config_path, folder / recording.CONFIG)
        if config.plan.targets:
            shutil.copyfile(config.path(config.plan.targets), folder / recording.TARGETS)
        if config.aggregate.locations:
            shutil.copyfile(config.path(config.aggregate.locations), folder / recording.LOCATIONS)
        (folder / recording.RECORDS).mkdir()
        (folder / recording.ORDERS).mkdir()
    except OSError as error:
        raise SetupError(f"{error.filename}: {error.strerror}") from None


def _keep_routes(store: ObjectStore, folder: Path) -> None:
    """They change slowly: a replay has them all along."""
    for key in store.list(routes.KEY_PREFIX):
        stored = store.read(key)
        if stored is not None:
            kept = folder / recording.ROUTES / key.removeprefix(routes.KEY_PREFIX)
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(stored.body)


def _keep_orders(store: ObjectStore, folder: Path, first_ms: int, last_ms: int) -> None:
    """Every version of the orders within the recording, and the one in force at its start."""
    keys = [(orders.logged_at_ms(key), key) for key in store.list(orders.LOG_PREFIX)]
    before = [one for one in keys if one[0] < first_ms][-1:]
    for at_ms, key in before + [one for one in keys if first_ms <= one[0] < last_ms]:
        stored = store.read(key)
        if stored is not None:
            (folder / recording.ORDERS / f"{at_ms:013d}.json").write_bytes(stored.body)
