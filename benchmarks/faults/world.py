"""Known samples for the fault matrix: what a batch holds follows from its name alone.

So the harness can count what was sent without asking the producer for more than the names of its
batches. Each run of a fault has a block of prefixes of its own; signals have none, and are told
apart by counting from what was there before.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from popsteer.names import SourceId
from popsteer.samples import (
    Batch,
    DemandBatch,
    Header,
    Kind,
    Method,
    RttBatch,
    Signal,
    SignalBatch,
)

POPS, PREFIXES = 8, 4_000
LANES = 8
"""One for each POP."""
ROWS_OF = {Kind.RTT: 2_500, Kind.DEMAND: 200, Kind.SIGNAL: 4}
KINDS = tuple(ROWS_OF)
EVERY = {Kind.RTT: 1, Kind.DEMAND: 6, Kind.SIGNAL: 4}
"""Of so many turns of a lane one has a batch of this kind."""
SPREAD_MS = 200
"""Rows of a batch are so old at the most."""

Counts = NDArray[np.int64]


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """Which batch: its rows follow from this."""

    seed: int
    run: int
    """Which run of a fault, from 1; a block of prefixes."""
    life: int = 0
    """Which life of the producer: a restarted one begins anew."""
    lane: int
    turn: int
    kind: Kind
    t0_ms: int
    """When it was measured, by the clock of the source."""
    step_ms: int = 0
    """By how much that clock is off; where it is, the record must be quarantined."""


def pops() -> list[str]:
    """Names of all POPs."""
    return [f"p{number}" for number in range(POPS)]


def source(name: Name) -> SourceId:
    """The lane of a batch."""
    return SourceId(f"r{name.run}.p{name.lane}.{name.kind.value}")


def batch(name: Name, sequence: int = 0) -> Batch:
    """The batch of a name."""
    rng = _rng(name)
    header = Header(source(name), sequence, name.t0_ms, (pops()[name.lane % POPS],))
    size = ROWS_OF[name.kind]
    subject = np.zeros(size, np.uint16)
    index = rng.integers(0, PREFIXES, size)
    dt_ms = np.sort(rng.integers(0, SPREAD_MS, size)).astype(np.uint32)
    net = (index + name.run * PREFIXES).astype(np.uint64) << np.uint64(40)
    plen = np.full(size, 24, np.uint8)
    match name.kind:
        case Kind.RTT:
            rtt_us = rng.lognormal(10.8, 0.6, size).astype(np.uint32)
            method = np.full(size, Method.TCP, np.uint8)
            lost = (rng.random(size) < 0.01).astype(np.uint8)
            return RttBatch(header, dt_ms, net, plen, subject, rtt_us, method, lost)
        case Kind.DEMAND:
            queries = rng.integers(1, 50, size).astype(np.uint32)
            return DemandBatch(
                header, dt_ms, net, plen, subject, queries, queries.astype(np.float32)
            )
        case Kind.SIGNAL:
            up = np.full(size, Signal.UP, np.uint8)
            return SignalBatch(header, dt_ms, subject, up, np.ones(size))


def samples(names: Iterable[Name]) -> int:
    """Samples of RTT and signals in these batches; demand is told by its queries."""
    return sum(ROWS_OF[name.kind] for name in names if name.kind is not Kind.DEMAND)


class Tally:
    """Counts of one run: samples of RTT and queries by (POP, prefix), signals by POP."""

    def __init__(self) -> None:
        self.rtt = np.zeros((POPS, PREFIXES), np.int64)
        self.queries = np.zeros((POPS, PREFIXES), np.int64)
        self.signals: Counter[str] = Counter()

    def add(self, name: Name) -> None:
        """Count a batch that was sent."""
        held, pop = batch(name), name.lane % POPS
        match held:
            case RttBatch():
                np.add.at(self.rtt[pop], _index(held.net, name.run), 1)
            case DemandBatch():
                np.add.at(self.queries[pop], _index(held.net, name.run), held.queries)
            case SignalBatch():
                self.signals[pops()[pop]] += len(held.dt_ms)

    def wrong(self, counted: "Tally") -> int:
        """By how much another tally differs, in all."""
        signals = {pop: self.signals[pop] - counted.signals[pop] for pop in pops()}
        return (
            int(np.abs(self.rtt - counted.rtt).sum())
            + int(np.abs(self.queries - counted.queries).sum())
            + sum(map(abs, signals.values()))
        )

    @property
    def samples(self) -> int:
        """Samples of RTT and signals; demand is told by its queries."""
        return int(self.rtt.sum()) + self.signals.total()


def tally(names: Iterable[Name]) -> Tally:
    """What these batches hold."""
    counted = Tally()
    for name in names:
        counted.add(name)
    return counted


def _rng(name: Name) -> np.random.Generator:
    kind = KINDS.index(name.kind)
    return np.random.default_rng((name.seed, name.run, name.life, name.lane, name.turn, kind))


def _index(net: NDArray[np.uint64], run: int) -> NDArray[np.int64]:
    return (net >> np.uint64(40)).astype(np.int64) - run * PREFIXES
