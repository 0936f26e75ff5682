"""A stage: the local AWS, the proxy before it, a worker; faults are played on it one by one.

It owns the processes and ends them all. Between faults it stays as it is, so that what one fault
leaves behind meets the next.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks.faults.local import LocalAws
from benchmarks.faults.processes import ProducerProcess, Worker
from benchmarks.faults.producer import Start
from benchmarks.faults.proxy import Proxy, Service
from benchmarks.faults.watch import Watch
from popsteer import aws as clients
from popsteer.config import Aws
from popsteer.errors import PopsteerError, StoreError
from popsteer.samples import BULK_STREAM

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient

FIRST, OTHER = "first", "other"
LOOK_S = 0.2


class NotMetError(PopsteerError):
    """What had to come about did not, in time or at all."""


class Stage:
    """Use as a context; `workers` holds the living ones by id."""

    def __init__(self, folder: Path, seed: int, local: LocalAws) -> None:
        self.folder = folder
        self.seed = seed
        self.rng = random.Random(seed)
        self.local = local
        self.proxy = Proxy(self.local.address)
        self.workers: dict[str, Worker] = {}
        self.producers: list[ProducerProcess] = []
        self.signals_sent: Counter[str] = Counter()
        """Of all runs that are over."""
        self.broken = False
        """A run ended without exact counts: what follows would be about that one, too."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            self.local.start()
            stack.callback(self.local.stop)
            stack.enter_context(self.proxy)
            stack.callback(self._end_processes)
            self.start_worker(FIRST)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _end_processes(self) -> None:
        for producer in self.producers:
            producer.end()
        for worker in list(self.workers.values()):
            worker.stop()

    @property
    def aws(self) -> Aws:
        """As popsteer sees it: through the proxy."""
        return Aws(endpoint=self.proxy.endpoint)

    def direct(self, service: Service) -> Aws:
        """As the harness sees it: past the proxy."""
        host, port = self.local.address(service)
        return Aws(endpoint=f"http://{host}:{port}")

    @cached_property
    def watch(self) -> Watch:
        """The partials."""
        return Watch(self.direct(Service.S3))

    @cached_property
    def kinesis(self) -> "KinesisClient":
        """Past the proxy."""
        return clients.kinesis(self.direct(Service.KINESIS))

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """Past the proxy."""
        return clients.dynamodb(self.direct(Service.DYNAMODB))

    def start_worker(self, worker_id: str) -> Worker:
        """One more `popsteer aggregate`, or the same again."""
        worker = self.workers.setdefault(worker_id, Worker(self.folder / worker_id, worker_id))
        worker.start(self.aws)
        return worker

    def drop_worker(self, worker_id: str) -> None:
        """End a worker."""
        self.workers.pop(worker_id).stop()

    def start_producer(self, run: int, spill_bytes: int) -> ProducerProcess:
        """A producer for a run."""
        folder = str(self.folder / f"producer-{run}")
        start = Start(self.aws, folder, self.seed, run, 0)
        producer = ProducerProcess(start, spill_bytes)
        producer.launch()
        self.producers.append(producer)
        return producer

    def active(self) -> bool:
        """Whether the bulk stream can be resharded now."""
        answer = self.kinesis.describe_stream_summary(StreamName=BULK_STREAM)
        return answer["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"

    def open_shards(self) -> list[str]:
        """Open shards of the bulk stream, by hash range."""
        pages = self.kinesis.get_paginator("list_shards").paginate(StreamName=BULK_STREAM)
        shards = [shard for page in pages for shard in page["Shards"]]
        living = [s for s in shards if "EndingSequenceNumber" not in s["SequenceNumberRange"]]
        living.sort(key=lambda s: int(s["HashKeyRange"]["StartingHashKey"]))
        return [shard["ShardId"] for shard in living]

    def lease_owners(self) -> dict[str, str]:
        """The worker of each open shard of the bulk stream; "" is none."""
        items = self.dynamodb.scan(TableName=BULK_STREAM, ConsistentRead=True)["Items"]
        owners = {i["leaseKey"]["S"]: i.get("leaseOwner", {}).get("S", "") for i in items}
        suffix = f"-{BULK_STREAM}"
        return {s: owners.get(s, "").removesuffix(suffix) for s in self.open_shards()}

    def processors(self, worker: Worker, stream: str = BULK_STREAM) -> list[int]:
        """A stream's record processors of a worker."""
        return worker.pids("aggregator.child", f"{stream}.json")

    def leases(self) -> dict[str, str]:
        """The counter of each lease of the bulk stream: it moves while its worker renews it."""
        items = self.dynamodb.scan(TableName=BULK_STREAM, ConsistentRead=True)["Items"]
        return {i["leaseKey"]["S"]: i.get("leaseCounter", {}).get("N", "") for i in items}

    def look(self) -> None:
        """Take up new partials, if the store is there."""
        try:
            self.watch.look()
        except StoreError:
            return

    def wait(self, what: Callable[[], object], why: str, timeout_s: float = 90.0) -> None:
        """Wait until something holds.

        Raises:
            NotMetError: it did not, in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not what():
            if time.monotonic() > deadline_s:
                raise NotMetError(f"after {timeout_s:.0f} s: {why}")
            time.sleep(LOOK_S)

    def ready(self) -> None:
        """Wait until every open shard has a living processor.

        Raises:
            NotMetError: one has none.
        """
        self.wait(self._all_read, "shards without a record processor")

    def _all_read(self) -> bool:
        shards = self.open_shards()
        count = sum(len(self.processors(worker)) for worker in self.workers.values())
        return count >= len(shards) and all(self.lease_owners().values())
