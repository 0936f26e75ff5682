"""What several faults do: wait for the right moment, reshard, kill, send in disorder."""

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.faults.processes import BULK_WINDOW_S, Worker
from benchmarks.faults.proxy import Call, Lost, Service
from benchmarks.faults.scene import Scene
from benchmarks.faults.stage import OTHER
from benchmarks.faults.world import LANES, SPREAD_MS, Name, batch, source
from popsteer.clock import SECOND_MS, now_ms
from popsteer.samples import BULK_STREAM, Kind, encode

UNDER_WAY_S = 1.5
"""What a fault finds under way is over in this time."""
REORDERED, BLOCK = 480, 40
"""Records sent in any order within blocks; a consumer remembers 64 gaps of a source."""


def stand_still(scene: Scene, what: Callable[[], object], at_least_s: float = 0.0) -> None:
    """Wait out an outage, and see that something stood still from its second second on."""
    lasts_s = max(scene.scale.outage_s, at_least_s)
    time.sleep(UNDER_WAY_S)
    before = what()
    time.sleep(max(0.0, lasts_s - UNDER_WAY_S))
    scene.require(what() == before, "what should stand still went on")


def living(scene: Scene, worker: Worker, stream: str) -> list[int]:
    """The record processors of a stream, once there are any."""
    scene.wait(lambda: scene.stage.processors(worker, stream), f"nobody reads {stream}")
    return scene.stage.processors(worker, stream)


def worker_of(scene: Scene) -> Worker:
    """The first one that runs."""
    return next(iter(scene.stage.workers.values()))


def to_mid_window() -> None:
    """Wait until half of a bulk window has passed."""
    window_ms = BULK_WINDOW_S * SECOND_MS
    since_ms = now_ms() % window_ms
    time.sleep((window_ms / 2 - since_ms) % window_ms / SECOND_MS)


@contextlib.contextmanager
def second_worker(scene: Scene) -> Iterator[Worker]:
    """A second worker that has its share; it is ended with the block."""
    with_shards(scene, 2)
    second = scene.stage.start_worker(OTHER)

    def balanced() -> bool:
        owners = list(scene.stage.lease_owners().values())
        return abs(2 * owners.count(OTHER) - len(owners)) <= 1 and "" not in owners

    try:
        scene.wait(balanced, "the leases do not balance")
        scene.wait(lambda: scene.stage.processors(second), "the second worker reads nothing")
        yield second
    finally:
        scene.stage.drop_worker(OTHER)


def split_shard(scene: Scene, shard: str) -> None:
    """Begin to split a shard somewhere in the middle of its keys."""
    kinesis, rng = scene.stage.kinesis, scene.stage.rng
    scene.wait(scene.stage.active, "the stream is being resharded")
    found = kinesis.list_shards(StreamName=BULK_STREAM)["Shards"]
    (one,) = (s["HashKeyRange"] for s in found if s["ShardId"] == shard)
    first, last = int(one["StartingHashKey"]), int(one["EndingHashKey"])
    at = first + int((last - first) * rng.uniform(0.3, 0.7))
    kinesis.split_shard(StreamName=BULK_STREAM, ShardToSplit=shard, NewStartingHashKey=str(at))


def merge_shards(scene: Scene, one: str, other: str) -> None:
    """Begin to merge two neighbours."""
    scene.wait(scene.stage.active, "the stream is being resharded")
    scene.stage.kinesis.merge_shards(
        StreamName=BULK_STREAM, ShardToMerge=one, AdjacentShardToMerge=other
    )


def with_shards(scene: Scene, count: int) -> list[str]:
    """Split until there are so many open shards at the least, all read."""
    while len(shards := scene.stage.open_shards()) < count:
        split_shard(scene, shards[0])
        scene.stage.ready()
    return shards


def require_children(scene: Scene, before: list[str]) -> None:
    """Parts of the keys of partials are the shards they come from."""
    children = set(scene.stage.open_shards()) - set(before)
    read = {shard for shard in children if any(shard in key for key in scene.stage.watch.seen)}
    scene.require(children and read, f"of the children {children} partials have {read}")


def is_put(call: Call, kind: Kind) -> bool:
    """Whether a call writes a partial of a kind."""
    return re.match(rf"PUT .*kind(=|%3D){kind.value}/", call.operation) is not None


def kill_behind(scene: Scene, kind: Kind) -> None:
    """Kill -9 of the processors at the moment when a partial of a kind is in the store."""
    done, worker = threading.Event(), worker_of(scene)

    def kill() -> None:
        if not done.is_set():
            done.set()
            for pid in scene.stage.processors(worker):
                os.kill(pid, signal.SIGKILL)

    with scene.stage.proxy.broken(Service.S3, Lost(lambda call: is_put(call, kind), kill)):
        scene.wait(done.is_set, f"no partial of {kind} was written")
    scene.wait(lambda: not scene.stage.processors(worker), "the processors live on")


def send_shuffled(scene: Scene) -> None:
    """Records of sources of their own, each once or twice, shuffled within blocks."""
    rng, t0_ms = scene.stage.rng, now_ms() - SPREAD_MS
    count = max(BLOCK, min(REORDERED, int(scene.scale.samples / 10 / 2_500)))
    names = [
        Name(
            seed=scene.stage.seed,
            run=scene.run,
            lane=LANES + number % LANES,
            turn=number // LANES,
            kind=Kind.RTT,
            t0_ms=t0_ms,
        )
        for number in range(count)
    ]
    scene.names += names
    for at in range(0, count, BLOCK):
        block = [*names[at : at + BLOCK]]
        block += rng.sample(block, len(block) // 3)
        rng.shuffle(block)
        _put(scene, block)


def _put(scene: Scene, names: list[Name]) -> None:
    """One record a call, until it is taken: the order is ours."""
    kinesis = scene.stage.kinesis
    for name in names:
        body = encode(batch(name, sequence=name.turn))
        record = {"PartitionKey": str(source(name)), "Data": body}
        while kinesis.put_records(StreamName=BULK_STREAM, Records=[record])["FailedRecordCount"]:  # type: ignore[list-item]
            time.sleep(0.1)
