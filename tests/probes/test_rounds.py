"""Rounds over real sockets: every target and method, and probes that were not let out."""

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest

from popsteer.config import Probe
from popsteer.lanes import Sequences
from popsteer.names import Prefix, SourceId, prefix_arrays
from popsteer.outbox import Record
from popsteer.samples import Batch, Method, RttBatch
from popsteer.sink import Sink
from popsteer.sink_metrics import SinkCollector
from popsteer.spill import Spill, Urgency
from popsteer.targets import Targets
from probes.rounds import Rounds


def make_targets(addresses: Sequence[str]) -> Targets:
    prefixes = [Prefix.of_address(address) for address in addresses]
    net, plen = prefix_arrays(prefixes)
    return Targets(net, plen, tuple(addresses), np.zeros(len(addresses)))


async def rounds_of(
    addresses: Sequence[str], probe: Probe, for_s: float
) -> tuple[Rounds, list[RttBatch]]:
    offered: list[Batch] = []

    def offer(batch: Batch) -> bool:
        offered.append(batch)
        return True

    rng = np.random.default_rng(1)
    rounds = Rounds(make_targets(addresses), probe, SourceId("fra1.rtt"), offer, rng)
    task = asyncio.create_task(rounds.run())
    await asyncio.sleep(for_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return rounds, [batch for batch in offered if isinstance(batch, RttBatch)]


async def test_every_target_is_measured_by_every_method() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        probe = Probe(pop="fra1", methods=("tcp", "dns"), port=port, interval_s=0.1)
        _, batches = await rounds_of(["127.0.0.1", "127.0.0.2", "127.0.0.3"], probe, 0.5)
    seen = {
        (net >> 32 & 0xFF, method)
        for batch in batches
        for net, method in zip(batch.net.tolist(), batch.method.tolist(), strict=True)
    }
    assert seen == {(host, method) for host in (1, 2, 3) for method in (Method.TCP, Method.DNS)}
    assert not any(batch.lost.any() for batch in batches)


async def test_a_probe_that_was_not_let_out_is_counted_and_gives_no_sample() -> None:
    # DNS to the broadcast address needs a permission that sockets do not have by default.
    probe = Probe(pop="fra1", methods=("dns",), interval_s=0.1)
    rounds, batches = await rounds_of(["255.255.255.255"], probe, 0.35)
    assert batches == []
    assert rounds.not_sent.total() >= 2
    assert len(rounds.not_sent) == 1


def accept_all(_urgency: Urgency, records: Sequence[Record]) -> list[str]:
    return [""] * len(records)


async def test_what_became_of_the_records_is_exported(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    sink = Sink(accept_all, Sequences(tmp_path / "sequence", 1), Spill(tmp_path / "spill", 1_000))
    registry.register(SinkCollector(sink))
    sink.counts.accepted = 7
    sink.counts.errors["Throttled"] = 2
    text = generate_latest(registry).decode()
    sink.close()
    assert 'popsteer_sink_records_total{outcome="accepted"} 7.0' in text
    assert 'popsteer_sink_records_total{outcome="lost"} 0.0' in text
    assert 'popsteer_sink_refused_total{code="Throttled"} 2.0' in text
    assert "popsteer_sink_backlog_bytes 0.0" in text
