"""A planner's world as large as asked for: places on a globe, and what probes and nodes report.

Prefixes live at places, places are near some POPs, and only those are measured. Reports are the
partials that the fold would have written, encoded by the production code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.compare import Answers, load_bps
from aggregator.histogram import LOST, bucket_of
from aggregator.partials import DemandPartial, Origin, RttPartial, SignalPartial, encode
from benchmarks.cut import origin
from popsteer.config import Config, Plan, Pop, Service
from popsteer.names import IPV6_BIT, Net, Plen
from popsteer.samples import Signal
from popsteer.store import MemoryStore
from popsteer.targets import Targets

T0_MS = 1_800_000_000_000
WINDOW_MS = 10_000
WINDOWS_A_ROUND = 6
"""Every pair is measured once a minute."""
PLACES = 4_000
IPV6_EACH = 10
"""One prefix in so many is IPv6."""
LOST_SHARE = 0.01
NOISE = 0.03
US_PER_RADIAN = 90_000.0
ACCESS_US = 4_000.0
HEADROOM = 1.65
"""Demand is three quarters of what the POPs may be filled with."""

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CycleWorld:
    """n prefixes with m measured POPs each."""

    pops: tuple[str, ...]
    net: Net
    plen: Plen
    near: Ints
    """[n, m]"""
    rtt_us: F64
    """[n, m]"""
    demand_bps: F64
    seed: int

    @classmethod
    def make(cls, prefixes: int, pops: int, measured: int, seed: int) -> "CycleWorld":
        """The same world for the same numbers."""
        rng = np.random.default_rng(seed)
        net, plen = _prefixes(rng, prefixes)
        place, site = _points(rng, PLACES), _points(rng, pops)
        apart = np.arccos(np.clip(place @ site.T, -1.0, 1.0))
        nearest = np.argsort(apart, axis=1, kind="stable")[:, :measured]
        here = rng.integers(0, PLACES, prefixes)
        near = nearest[here]
        path = np.take_along_axis(apart, nearest, 1)[here] * US_PER_RADIAN
        rtt = (path + ACCESS_US) * rng.lognormal(0, 0.25, near.shape)
        names = tuple(f"p{number:03}" for number in range(pops))
        demand = rng.pareto(1.3, prefixes) * 1e6 + 1e5
        return cls(names, net, plen, near, rtt, demand, seed)

    def config(self, policy: str) -> Config:
        """Capacities follow the demand nearby, with some room."""
        load = np.bincount(self.near[:, 0], self.demand_bps, len(self.pops))
        room = HEADROOM * (0.5 * load + 0.5 * load.mean())
        return Config(
            pop=tuple(
                Pop(id=pop, capacity_bps=float(bps))
                for pop, bps in zip(self.pops, room, strict=True)
            ),
            service=(Service(name="www.cdn.example.", ttl_s=20, policy=policy),),
            plan=Plan(),
        )

    def targets(self) -> Targets:
        """All prefixes, with their demand."""
        return Targets(self.net, self.plen, ("",) * len(self.net), self.demand_bps)

    def report(self, store: MemoryStore, window: int, shards: int, said: Answers) -> int:
        """Write the partials of a window, of all kinds and shards; gives the RTT rows.

        Users are where the answers sent them, and with their nearest POP before there were any.
        """
        answered = said.share.any(axis=1)
        held = np.where(answered, said.pop[np.arange(len(said.pop)), said.share.argmax(axis=1)], -1)
        held = np.where(held >= 0, held, self.near[:, 0])
        rng = np.random.default_rng((self.seed, window))
        rows = np.arange(window % WINDOWS_A_ROUND, self.near.size, WINDOWS_A_ROUND)
        shard = rng.integers(0, shards, len(rows))
        for number in range(shards):
            self._write(
                store, window, number, self._rtt(rng, window, number, rows[shard == number])
            )
            self._write(store, window, number, self._demand(rng, window, number, shards, held))
        load = load_bps(said, self.demand_bps, len(self.pops))
        load += np.bincount(held, np.where(answered, 0.0, self.demand_bps), len(self.pops))
        self._write(store, window, 0, self._signals(window, load))
        return len(rows)

    def _write(
        self,
        store: MemoryStore,
        window: int,
        shard: int,
        partial: RttPartial | DemandPartial | SignalPartial,
    ) -> None:
        assert store.create(partial.origin.key(partial.kind), encode(partial)), (window, shard)

    def _rtt(self, rng: np.random.Generator, window: int, shard: int, pair: Ints) -> RttPartial:
        row, column = np.divmod(pair, self.near.shape[1])
        pop = self.near[row, column]
        order = np.lexsort((self.net[row], pop))
        row, column, pop = row[order], column[order], pop[order]
        rtt = self.rtt_us[row, column] * rng.lognormal(0, NOISE, len(row))
        lost = rng.random(len(row)) < LOST_SHARE
        shown = np.where(lost, 1e6, rtt).astype(np.uint32)
        return RttPartial(
            _origin("popsteer-bulk", window, shard),
            self.pops,
            np.full(len(row), T0_MS + window * WINDOW_MS),
            self.net[row],
            self.plen[row],
            pop.astype(np.uint16),
            np.zeros(len(row), np.uint8),
            np.where(lost, LOST, bucket_of(shown)).astype(np.int16),
            np.ones(len(row), np.uint32),
            shown,
        )

    def _demand(
        self, rng: np.random.Generator, window: int, shard: int, shards: int, held: Ints
    ) -> DemandPartial:
        """Half of the prefixes ask within a window."""
        row = np.flatnonzero(rng.random(len(self.net)) < 0.5 / shards)
        pop = held[row]
        order = np.lexsort((self.net[row], pop))
        row, pop = row[order], pop[order]
        return DemandPartial(
            _origin("popsteer-bulk", window, shard),
            self.pops,
            np.full(len(row), T0_MS + window * WINDOW_MS),
            self.net[row],
            self.plen[row],
            pop.astype(np.uint16),
            np.ones(len(row), np.uint64),
            self.demand_bps[row] * 2 * WINDOW_MS / 1_000,
        )

    def _signals(self, window: int, load: F64) -> SignalPartial:
        n = len(self.pops)
        end_ms = T0_MS + (window + 1) * WINDOW_MS
        value = np.concatenate([np.ones(n), load])
        return SignalPartial(
            _origin("popsteer-urgent", window, 0),
            self.pops,
            np.full(2 * n, end_ms - 1_000),
            np.tile(np.arange(n), 2).astype(np.uint16),
            np.repeat([int(Signal.UP), int(Signal.LOAD_BPS)], n).astype(np.uint8),
            np.ones(2 * n, np.uint32),
            value,
            value,
            value,
            np.full(2 * n, end_ms - 1),
        )


def _prefixes(rng: np.random.Generator, n: int) -> tuple[Net, Plen]:
    ipv6 = n // IPV6_EACH
    four = rng.choice(1 << 24, n - ipv6, replace=False).astype(np.uint64) << np.uint64(40)
    six = rng.choice(1 << 28, ipv6, replace=False).astype(np.uint64) << np.uint64(16)
    six |= np.uint64(0x2 << 60)
    lengths = [np.full(n - ipv6, 24, np.uint8), np.full(ipv6, 48 | IPV6_BIT, np.uint8)]
    return np.concatenate([np.sort(four), np.sort(six)]), np.concatenate(lengths)


def _points(rng: np.random.Generator, n: int) -> F64:
    point = rng.normal(size=(n, 3))
    unit: F64 = point / np.linalg.norm(point, axis=1, keepdims=True)
    return unit


def _origin(stream: str, window: int, shard: int) -> Origin:
    return origin(stream, T0_MS + window * WINDOW_MS, WINDOW_MS, f"shard-{shard}")
