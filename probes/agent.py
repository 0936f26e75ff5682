"""The probe agent: RTT rounds (or the replay of a world) and signals, into one sink.

Order of life: check what can be wrong, start the sink, start the sources; on SIGTERM or Ctrl-C
stop the sources, offer what they hold, give Kinesis a few seconds, put the rest on disk.
"""

import asyncio
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import uvloop
from prometheus_client import REGISTRY

from popsteer import targets, telemetry, vitals, world
from popsteer.clock import SECOND_MS, now_ms
from popsteer.config import Config, Pop
from popsteer.errors import ConfigError, PopsteerError
from popsteer.heartbeat import Ages, Newest, Stage, lane
from popsteer.memory import keep_little
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind, Method
from popsteer.sink import Sink, open_sink
from popsteer.sink_metrics import SinkCollector
from popsteer.spill import Urgency
from popsteer.store import s3_store
from probes.heart import Heart
from probes.methods.icmp import check_permission
from probes.replay import Replay
from probes.rounds import Rounds
from probes.signals import Signals
from probes.wanted import Follower

FOLDER = "probe"
"""Under the data folder: spill and sequences, of one agent alone."""
REPLAY_AGENT = "replay"
DRAIN_S = 5.0

Offer = Callable[[Batch], bool]


class Source(Protocol):
    """Something that measures and offers batches."""

    async def run(self) -> None:
        """Until cancelled; then offers what it still holds."""


@dataclass(frozen=True, slots=True)
class Guided:
    """Rounds that follow the measurement plan."""

    rounds: Rounds
    follower: Follower

    async def run(self) -> None:
        """Until cancelled; then the rounds offer what they still hold."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.follower.run())
            await self.rounds.run()


@dataclass(frozen=True, slots=True)
class Plan:
    """What an agent does, after its configuration was checked."""

    name: str
    """First part of its lanes' names."""
    pops: tuple[Pop, ...]
    """Whose signals it reports."""
    lanes: dict[SourceId, Kind]
    """Its lanes of RTT, as far as they are known before they speak."""
    rtt: Callable[[Offer], Source]


def run(config: Config) -> None:
    """Measure until SIGTERM or SIGINT.

    Raises:
        ConfigError: the configuration does not suffice for what is asked.
        SetupError: the machine does not allow it.
    """
    telemetry.configure("probe")
    keep_little()
    _raise_descriptor_limit()
    try:
        uvloop.run(_agent(config))
    except BaseExceptionGroup as group:
        ours = group.subgroup(PopsteerError)
        if ours is None:
            raise
        raise _first(ours) from None


async def _agent(config: Config) -> None:
    if config.probe.source == "network" and "icmp" in config.probe.methods:
        check_permission()
    plan = replay_plan(config) if config.probe.source == "replay" else network_plan(config)
    sink = open_sink(config.aws, config.data_dir / FOLDER, config.probe.spill_bytes_max)
    _export(config, sink)
    try:
        await _live(config, plan, sink, _stop_signal())
    finally:
        sink.close()


def _export(config: Config, sink: Sink) -> None:
    streams = {Urgency.BULK: config.aws.bulk_stream, Urgency.URGENT: config.aws.urgent_stream}

    def newest() -> Newest:
        now = now_ms()
        ages_s = {stream: sink.accepted_age_s(urgency) for urgency, stream in streams.items()}
        return {(Stage.STREAM, s): now - int(age_s * SECOND_MS) for s, age_s in ages_s.items()}

    REGISTRY.register(SinkCollector(sink))
    REGISTRY.register(Ages(newest, now_ms))
    telemetry.serve_metrics(config.telemetry.metrics)
    vitals.tell(config)


async def _live(config: Config, plan: Plan, sink: Sink, stop: asyncio.Event) -> None:
    signal_lane = lane(plan.name, Kind.SIGNAL)
    heart = Heart({signal_lane: Kind.SIGNAL, **plan.lanes}, sink.offer)
    sources: list[Source] = [
        plan.rtt(heart.offer),
        Signals(plan.pops, config.probe, signal_lane, heart.offer),
        heart,
    ]
    log = telemetry.logger()
    log.info("agent started", agent=plan.name, source=config.probe.source)
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(sink.run())
        measuring = [tasks.create_task(source.run()) for source in sources]
        await stop.wait()
        for task in measuring:
            task.cancel()
        await asyncio.wait(measuring)
        await sink.drain(DRAIN_S)
        sending.cancel()
    log.info("agent ended", records=sink.counts.accepted, on_disk_bytes=sink.backlog_bytes)


def network_plan(config: Config) -> Plan:
    """An agent that measures targets from its own POP.

    Raises:
        ConfigError: no such POP, no targets, or targets that cannot be read.
    """
    probe = config.probe
    own = next((pop for pop in config.pop if pop.id == probe.pop), None)
    if own is None:
        known = ", ".join(config.pop_ids()[:5]) or "none is configured"
        raise ConfigError(f"probe.pop = {probe.pop!r}: write the id of a [[pop]] ({known})")
    if not probe.targets:
        raise ConfigError('probe.targets = "": name a CSV file with prefix,address,weight')
    wanted = targets.load(config.path(probe.targets))
    rtt_lane = lane(own.id, Kind.RTT)

    def rounds(offer: Offer) -> Source:
        measuring = Rounds(wanted, probe, rtt_lane, offer, np.random.default_rng())
        return Guided(measuring, Follower(s3_store(config.aws), own.id, wanted, measuring.want))

    return Plan(own.id, (own,), {rtt_lane: Kind.RTT}, rounds)


def replay_plan(config: Config) -> Plan:
    """One agent that stands in for those of all POPs of a world.

    Raises:
        ConfigError: no world, or one that cannot be read.
    """
    probe = config.probe
    if not probe.world:
        raise ConfigError('probe.world = "": a replay needs a world file')
    whole = world.read(config.path(probe.world))
    events = config.path(probe.events) if probe.events else None

    def replay(offer: Offer) -> Source:
        return Replay(
            whole,
            offer,
            interval_s=probe.interval_s,
            timeout_s=probe.timeout_s,
            speed=probe.speed,
            method=Method[probe.methods[0].upper()],
            events=events,
        )

    lanes = {lane(pop, Kind.RTT): Kind.RTT for pop in whole.pops}
    return Plan(REPLAY_AGENT, config.pop, lanes, replay)


def _stop_signal() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def _raise_descriptor_limit() -> None:
    """Every probe under way holds a descriptor; the default of 1,024 is too low for a full rate."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _first(group: BaseExceptionGroup[PopsteerError]) -> PopsteerError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
