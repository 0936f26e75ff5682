"""`popsteer bench probes`: samples a second into records, probes a second, accuracy.

The producer is the agent's own: batcher, sink, encoder and outbox, with a stream that accepts
all. Beside it, the same samples as one JSON line each, which is what a first version would do.
Figures are per CPU second of the process, so that other work on the machine counts little.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

import numpy as np
import uvloop
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.figure import Figure, report
from popsteer.batch import ROWS_MAX_OF, Batcher
from popsteer.lanes import Sequences
from popsteer.names import SourceId
from popsteer.outbox import Record
from popsteer.samples import Kind, Method
from popsteer.sink import Sink
from popsteer.spill import Spill, Urgency
from probes.methods import METHODS

LANES, ROWS, PREFIXES = 85, ROWS_MAX_OF[Kind.RTT], 2_000
BACKLOG_BYTES_MAX = 4 * 1024 * 1024
"""The producer waits for the stream above this, as a schedule would: a burst would go to disk."""
BASELINE_ROWS = 100_000
PROBES, PROBES_AT_ONCE = 4_000, 50
DELAY_S, DELAYED_PROBES = 0.02, 100
SEED = 3


def run(json_path: Path | None = None, seconds: float = 3.0, seed: int = SEED) -> int:
    """Measure, print a table, write JSON; gives the exit code.

    Args:
        json_path: Where the figures go as JSON.
        seconds: How long the producer runs.
        seed: Of the samples.
    """
    columns = _samples(np.random.default_rng(seed))
    with tempfile.TemporaryDirectory(prefix="popsteer-bench-") as folder:
        figures = uvloop.run(_producer(Path(folder), columns, seconds))
    figures += [_baseline(columns), *uvloop.run(_probing())]
    return report(Console(), figures, json_path)


def _samples(rng: np.random.Generator) -> list[NDArray[np.generic]]:
    """One batch of plausible RTT samples: time, then the columns of the batcher."""
    net = rng.integers(0, 2**24, PREFIXES, np.uint64) << np.uint64(40)
    return [
        np.sort(rng.integers(0, 1_000, ROWS)),
        rng.choice(net, ROWS),
        np.full(ROWS, 24, np.uint8),
        np.zeros(ROWS, np.uint16),
        rng.lognormal(10.8, 0.6, ROWS).astype(np.uint32),
        np.full(ROWS, Method.TCP, np.uint8),
        (rng.random(ROWS) < 0.01).astype(np.uint8),
    ]


async def _producer(
    folder: Path, columns: Sequence[NDArray[np.generic]], seconds: float
) -> list[Figure]:
    put = _Accept()
    sink = Sink(put, Sequences(folder / "sequence", 1), Spill(folder / "spill", 1 << 30))
    sending = asyncio.create_task(sink.run())
    lanes = [Batcher(Kind.RTT, SourceId(f"p{i}.rtt"), [f"p{i}"]) for i in range(LANES)]
    time_ms, *values = columns
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    while time.monotonic() - begun_s < seconds:
        for lane in lanes:
            lane.extend(time_ms.astype(np.int64), *values)
            for batch in lane.take(0):
                sink.offer(batch)
        while sink.backlog_bytes > BACKLOG_BYTES_MAX:  # noqa: ASYNC110 -- a schedule waits too
            await asyncio.sleep(0.001)
    await sink.drain(30)
    cpu_s = time.process_time() - begun_cpu_s
    sending.cancel()
    sink.close()
    per_cpu_s = sink.counts.samples / cpu_s
    lost = sink.counts.samples - put.records * ROWS
    return [
        Figure("samples into records", per_cpu_s, 1e6, "/s a core", at_least=True),
        Figure("bytes a sample", put.bytes / sink.counts.samples, 12, "B"),
        Figure("samples that did not arrive", lost, 0, ""),
    ]


class _Accept:
    """A stream that accepts everything and counts it."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0

    def __call__(self, _urgency: Urgency, records: Sequence[Record]) -> list[str]:
        self.records += len(records)
        self.bytes += sum(len(record.body) for record in records)
        return [""] * len(records)


def _baseline(columns: Sequence[NDArray[np.generic]]) -> Figure:
    names = ("ms", "net", "plen", "pop", "rtt_us", "method", "lost")
    begun_cpu_s = time.process_time()
    done = 0
    while done < BASELINE_ROWS:
        for row in zip(*(column.tolist() for column in columns), strict=True):
            json.dumps(dict(zip(names, row, strict=True))).encode()
        done += ROWS
    cpu_s = time.process_time() - begun_cpu_s
    return Figure("the same as JSON lines (baseline)", done / cpu_s, inf, "/s a core")


async def _probing() -> list[Figure]:
    server = await asyncio.start_server(_answer_late, "127.0.0.1", 0, backlog=1_024)
    async with server:
        port = server.sockets[0].getsockname()[1]
        tcp, http = METHODS[Method.TCP](2.0), METHODS[Method.HTTP](2.0)
        gate = asyncio.Semaphore(PROBES_AT_ONCE)

        async def probe() -> bool:
            async with gate:
                return (await tcp("127.0.0.1", port)).lost

        begun_cpu_s = time.process_time()
        losses = await asyncio.gather(*(probe() for _ in range(PROBES)))
        cpu_s = time.process_time() - begun_cpu_s
        taken = [await http("127.0.0.1", port) for _ in range(DELAYED_PROBES)]
    over_us = [one.rtt_us - DELAY_S * 1e6 for one in taken]
    return [
        Figure("TCP probes, both ends", PROBES / cpu_s, inf, "/s a core"),
        Figure("TCP probes lost", sum(losses), 0, ""),
        Figure("HTTP RTT over a known 20 ms, median", statistics.median(over_us), inf, "us"),
    ]


async def _answer_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readline():
        await asyncio.sleep(DELAY_S)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    writer.close()
