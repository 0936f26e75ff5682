"""Every fault of the matrix, as a generator: break and mend, `yield`, show that it was there.

What several of them do stands in `benchmarks.faults.steps`.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from benchmarks.faults.processes import BULK_WINDOW_S
from benchmarks.faults.producer import Offer, Step
from benchmarks.faults.proxy import Answered, Frozen, Lost, Refused, Service
from benchmarks.faults.scene import Fault, Scene
from benchmarks.faults.stage import FIRST, OTHER
from benchmarks.faults.steps import (
    is_put,
    kill_behind,
    living,
    merge_shards,
    require_children,
    second_worker,
    send_shuffled,
    split_shard,
    stand_still,
    to_mid_window,
    with_shards,
    worker_of,
)
from benchmarks.faults.world import LANES
from popsteer.aws import READ_TIMEOUT_S
from popsteer.clock import HOUR_MS
from popsteer.samples import BULK_STREAM, URGENT_STREAM, Kind
from popsteer.sink import SPILL_AFTER_S

STREAMS = (BULK_STREAM, URGENT_STREAM)
HANG_S = 30
"""A processor's first batch takes a part of it on a busy machine."""
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
THROTTLED = (
    b'{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException",'
    b'"message":"The level of configured provisioned throughput was exceeded."}'
)


def nothing(scene: Scene) -> Iterator[None]:  # noqa: ARG001
    """The undisturbed stream, to compare with."""
    yield


def processor_killed(scene: Scene) -> Iterator[None]:
    """Kill -9 of a record processor of each stream in mid-window."""
    stage, worker = scene.stage, worker_of(scene)
    victims = [stage.rng.choice(living(scene, worker, stream)) for stream in STREAMS]
    to_mid_window()
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    yield


def processor_hangs(scene: Scene) -> Iterator[None]:
    """A record processor, or its daemon, stands still for good."""
    worker = worker_of(scene)
    worker.stop()
    before, shards = worker.told("resumed", BULK_STREAM), len(scene.stage.open_shards())
    worker.start(scene.stage.aws, hang_s_max=HANG_S)
    scene.wait(lambda: worker.told("resumed", BULK_STREAM) >= before + shards, "not all are read")
    processors = scene.stage.processors(worker)
    daemons = worker.pids("MultiLangDaemon", f"{BULK_STREAM}.json")
    victim = scene.stage.rng.choice([scene.stage.rng.choice(processors), *daemons])
    os.kill(victim, signal.SIGSTOP)
    scene.wait(lambda: victim not in worker.pids("", f"{BULK_STREAM}.json"), "it hangs on")
    yield
    worker.stop()
    worker.start(scene.stage.aws)


def jvm_killed(scene: Scene) -> Iterator[None]:
    """Kill -9 of both MultiLangDaemons."""
    for stream in STREAMS:
        pids = worker_of(scene).pids("MultiLangDaemon", f"{stream}.json")
        scene.require(pids, f"{stream} has no daemon")
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    yield


def supervisor_killed(scene: Scene) -> Iterator[None]:
    """Kill -9 of `popsteer aggregate`, which is started again, as systemd does."""
    worker_of(scene).kill()
    worker_of(scene).start(scene.stage.aws)
    yield


def worker_replaced(scene: Scene) -> Iterator[None]:
    """The machine is gone; another one takes its place under an id of its own."""
    old = next(iter(scene.stage.workers))
    scene.stage.workers.pop(old).kill()
    new = FIRST if old != FIRST else f"{FIRST}-again"
    scene.stage.start_worker(new)
    yield
    owners = set(scene.stage.lease_owners().values())
    scene.require(owners == {new}, f"the leases are those of {owners}")


def worker_joins_and_leaves(scene: Scene) -> Iterator[None]:
    """A second worker gets its share of the leases, and is stopped."""
    with second_worker(scene):
        time.sleep(2 * BULK_WINDOW_S)
    yield
    scene.require(OTHER not in scene.stage.lease_owners().values(), "it has its leases still")


def worker_dies(scene: Scene) -> Iterator[None]:
    """A second worker is killed: its shards move to the first."""
    with second_worker(scene) as second:
        second.kill()
    yield
    scene.require(OTHER not in scene.stage.lease_owners().values(), "it has its leases still")


def zombie(scene: Scene) -> Iterator[None]:
    """A worker stands still until it has lost its leases, and then goes on."""
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(second_worker(scene))
        second.signal_all(signal.SIGSTOP)
        stack.callback(second.signal_all, signal.SIGCONT)
        scene.wait(lambda: OTHER not in scene.stage.lease_owners().values(), "it keeps its leases")
        first = worker_of(scene)
        shards = len(scene.stage.open_shards())
        scene.wait(lambda: len(scene.stage.processors(first)) >= shards, "nobody took them over")
        # Its successors write what it will try to write.
        time.sleep(2 * BULK_WINDOW_S)
        second.signal_all(signal.SIGCONT)
        time.sleep(2 * BULK_WINDOW_S)
    yield


def split(scene: Scene) -> Iterator[None]:
    """A shard is split."""
    before = scene.stage.open_shards()
    split_shard(scene, scene.stage.rng.choice(before))
    yield
    require_children(scene, before)


def merge(scene: Scene) -> Iterator[None]:
    """Two shards are merged."""
    before = with_shards(scene, 2)
    at = scene.stage.rng.randrange(len(before) - 1)
    merge_shards(scene, before[at], before[at + 1])
    yield
    require_children(scene, before)
    with_shards(scene, 2)


def split_and_merge(scene: Scene) -> Iterator[None]:
    """A shard is split while two others are merged."""
    before = with_shards(scene, 3)
    one, left, right = before if scene.stage.rng.random() < 0.5 else (*before[2:], *before[:2])
    split_shard(scene, one)
    merge_shards(scene, left, right)
    yield
    require_children(scene, before)


def kinesis_refused(scene: Scene) -> Iterator[None]:
    """Kinesis takes no connections."""
    with scene.stage.proxy.broken(Service.KINESIS, Refused()):
        time.sleep(scene.scale.outage_s)
    yield
    if scene.scale.outage_s > 2 * SPILL_AFTER_S:
        scene.require(scene.status.drained, "nothing waited on disk")


def kinesis_frozen(scene: Scene) -> Iterator[None]:
    """Kinesis takes connections and says nothing."""
    with scene.stage.proxy.broken(Service.KINESIS, Frozen()):
        stand_still(scene, lambda: scene.status.accepted)
    yield


def aws_refused(scene: Scene) -> Iterator[None]:
    """Nobody listens, for any service."""
    scene.stage.proxy.close_port()
    time.sleep(scene.scale.outage_s)
    scene.stage.proxy.listen()
    yield


def aws_killed(scene: Scene) -> Iterator[None]:
    """Kill -9 of the embedded AWS, which is started again on its data."""
    scene.stage.local.kill()
    scene.stage.local.start()
    yield


def throttled(scene: Scene) -> Iterator[None]:
    """More is offered than the shards take."""
    scene.wait(lambda: scene.status.retried, "no record was throttled", 30)
    yield


def s3_refusing(scene: Scene) -> Iterator[None]:
    """S3 answers 503 SlowDown."""
    with scene.stage.proxy.broken(Service.S3, Answered(503, SLOW_DOWN)):
        stand_still(scene, scene.partials)
    yield


def s3_timing_out(scene: Scene) -> Iterator[None]:
    """S3 answers nothing for longer than a client waits."""
    with scene.stage.proxy.broken(Service.S3, Frozen()):
        stand_still(scene, scene.partials, READ_TIMEOUT_S + 1)
    yield


def s3_then_death(scene: Scene) -> Iterator[None]:
    """A processor dies when a partial is written and neither known of nor checkpointed.

    Once behind the cut's first partial, once behind its last, and then answers are lost for a
    while and nobody dies.
    """
    for kind in (Kind.DEMAND, Kind.RTT):
        scene.stage.ready()
        kill_behind(scene, kind)
    scene.stage.ready()
    with scene.stage.proxy.broken(Service.S3, Lost(lambda call: is_put(call, Kind.RTT))):
        time.sleep(BULK_WINDOW_S)
    yield


def dynamodb_throttled(scene: Scene) -> Iterator[None]:
    """DynamoDB refuses every call: leases cannot be renewed, nothing can be checkpointed."""
    with scene.stage.proxy.broken(Service.DYNAMODB, Answered(400, THROTTLED)):
        stand_still(scene, scene.stage.leases)
    yield


def disk_full(scene: Scene) -> Iterator[None]:
    """Kinesis is away and the disk of the spill is full."""
    with scene.stage.proxy.broken(Service.KINESIS, Refused()):
        time.sleep(max(scene.scale.outage_s, 2 * SPILL_AFTER_S))
        held = scene.status
    yield
    scene.require(held.fresh, "the disk took everything")


def producer_killed(scene: Scene) -> Iterator[None]:
    """Kill -9 of a producer whose records wait on disk, and again while they are drained.

    The second one comes when Kinesis has taken records from disk and the producer does not know.
    """
    producer, rate = scene.producer, scene.status.rate
    with scene.stage.proxy.broken(Service.KINESIS, Refused()):
        time.sleep(scene.scale.outage_s)
        producer.offer(0)
        # What is in memory alone dies with the process; everything is on disk soon.
        scene.wait(
            lambda: not scene.status.rate and not scene.status.fresh, "memory is not spilled"
        )
        producer.kill()
        producer.launch(life=1)
        scene.require(scene.status.backlog_bytes, "the spill is empty")
        killed = threading.Event()

        def kill() -> None:
            if not killed.is_set():
                producer.signal(signal.SIGKILL)
                killed.set()

        puts = Lost(lambda call: call.operation == "PutRecords", kill)
        scene.stage.proxy.set(Service.KINESIS, puts)
        scene.wait(killed.is_set, "the spill is not drained")
        producer.kill()
    producer.launch(life=2)
    producer.tell(Offer(rate))
    yield
    scene.require(scene.duplicates, "nothing was sent twice")


def duplicated_and_reordered(scene: Scene) -> Iterator[None]:
    """Answers are lost, so records are sent again; others come twice and in any order."""
    lost = Lost(lambda call: call.operation == "PutRecords")
    with scene.stage.proxy.broken(Service.KINESIS, lost):
        time.sleep(SPILL_AFTER_S)
    send_shuffled(scene)
    yield
    scene.require(scene.duplicates, "no duplicate arrived")


def clock_step(scene: Scene) -> Iterator[None]:
    """The clocks of two sources are an hour off for a while, one ahead and one behind."""
    ahead, behind = scene.stage.rng.sample(range(LANES), 2)
    for lane, step_ms in ((ahead, HOUR_MS), (behind, -HOUR_MS)):
        scene.producer.tell(Step(lane, step_ms))
    scene.wait(
        lambda: {n.lane for n in scene.sent if n.step_ms} == {ahead, behind}, "no clock stepped"
    )
    time.sleep(SPILL_AFTER_S)
    for lane in (ahead, behind):
        scene.producer.tell(Step(lane, 0))
    yield
    scene.require(set(scene.refused()) == {"clock"}, f"quarantined as {scene.refused()}")


DISK_BYTES = 64 * 1024
OVERLOAD_SAMPLES_PER_S, OVERLOAD_SAMPLES = 600_000.0, 800_000
"""Two and a half times what two shards take, and more than they take at once."""

FAULTS = (
    Fault("nothing", nothing),
    Fault("processor killed", processor_killed),
    Fault("processor or daemon hangs", processor_hangs, long=True),
    Fault("JVM killed", jvm_killed),
    Fault("supervisor killed", supervisor_killed),
    Fault("worker replaced", worker_replaced),
    Fault("worker joins and leaves", worker_joins_and_leaves),
    Fault("worker dies", worker_dies),
    Fault("zombie worker", zombie),
    Fault("split", split),
    Fault("split and merge at once", split_and_merge),
    Fault("merge", merge),
    Fault("Kinesis refused", kinesis_refused, lasting=True),
    Fault("Kinesis frozen", kinesis_frozen, lasting=True),
    Fault("AWS refused", aws_refused, lasting=True),
    Fault("AWS killed", aws_killed, needs_real=True),
    Fault(
        "writes throttled",
        throttled,
        rate=OVERLOAD_SAMPLES_PER_S,
        samples_min=OVERLOAD_SAMPLES,
        needs_real=True,
    ),
    Fault("S3 refusing", s3_refusing, lasting=True),
    Fault("S3 timing out", s3_timing_out, lasting=True),
    Fault("S3 written, then death", s3_then_death),
    Fault("DynamoDB throttled", dynamodb_throttled, lasting=True),
    Fault("disk full at the spill", disk_full, lasting=True, spill_bytes=DISK_BYTES),
    Fault("producer killed", producer_killed, lasting=True),
    Fault("duplicated and reordered", duplicated_and_reordered),
    Fault("clock step", clock_step),
)
