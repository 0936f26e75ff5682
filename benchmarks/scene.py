"""A scene: a small fleet in memory, synthetic partials, and the planner under a virtual clock.

Everything of the planner is the production code; only the stream half, the DNS nodes and the
users are played here. Tests and simulations drive it second by second.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from aggregator.histogram import LOST, bucket_of
from aggregator.partials import DemandPartial, RttPartial, SignalPartial, encode
from aggregator.planner import Planner
from benchmarks.cut import origin
from popsteer import evidence, overview, state, table
from popsteer.config import Config, Link, Plan, Pop, Service
from popsteer.names import Net, Plen, Prefix, prefix_arrays
from popsteer.samples import Kind, Signal
from popsteer.signing import Signer, Verifier, verifier
from popsteer.store import MemoryStore
from popsteer.targets import Targets

T0_MS = 1_800_000_000_000
WINDOW_MS = 10_000
LOST_US = -1.0
"""In an RTT matrix: the probe is lost."""

F64 = NDArray[np.float64]


def rtt_partial(
    start_ms: int, net: Net, plen: Plen, pops: tuple[str, ...], rtt_us: F64, shard: str = "shard-0"
) -> RttPartial:
    """One probe per pair: `rtt_us` is [n, p]; NaN is not measured, LOST_US is lost."""
    row, pop = np.nonzero(~np.isnan(rtt_us))
    value = rtt_us[row, pop]
    lost = value == LOST_US
    shown = np.where(lost, 1_000_000, value).astype(np.uint32)
    return RttPartial(
        origin("popsteer-bulk", start_ms, WINDOW_MS, shard),
        pops,
        np.full(len(row), start_ms),
        net[row],
        plen[row],
        pop.astype(np.uint16),
        np.zeros(len(row), np.uint8),
        np.where(lost, LOST, bucket_of(shown)).astype(np.int16),
        np.ones(len(row), np.uint32),
        shown,
    )


def signal_partial(
    start_ms: int, values: dict[tuple[str, Signal], float], window_ms: int = 1_000
) -> SignalPartial:
    """One sample per (subject, signal)."""
    subjects = tuple(sorted({subject for subject, _ in values}))
    n = len(values)
    value = np.array(list(values.values()))
    return SignalPartial(
        origin("popsteer-urgent", start_ms, window_ms),
        subjects,
        np.full(n, start_ms),
        np.array([subjects.index(s) for s, _ in values], np.uint16),
        np.array([kind for _, kind in values], np.uint8),
        np.ones(n, np.uint32),
        value,
        value,
        value,
        np.full(n, start_ms + window_ms - 1),
    )


def demand_partial(
    start_ms: int,
    net: Net,
    plen: Plen,
    pops: tuple[str, ...],
    pop: NDArray[np.int64],
    bits: F64,
    queries: int = 10,
) -> DemandPartial:
    """One report per row."""
    n = len(net)
    return DemandPartial(
        origin("popsteer-bulk", start_ms, WINDOW_MS),
        pops,
        np.full(n, start_ms),
        net,
        plen,
        pop.astype(np.uint16),
        np.full(n, queries, np.uint64),
        bits,
    )


@dataclass
class Scene:
    """n prefixes, p POPs, and a planner that is stepped by virtual seconds.

    Caches are simulated plainly: each prefix follows the table and the POP state with the lag of
    one TTL, and the load of a POP is the demand of the prefixes that it holds.
    """

    config: Config
    store: MemoryStore
    planner: Planner
    trusted: Verifier
    net: Net
    plen: Plen
    rtt_us: F64
    demand_bps: F64
    now_ms: int = T0_MS
    noise: float = 0.02
    extra_bps: dict[str, float] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    mute: set[str] = field(default_factory=set)
    held: F64 = field(default_factory=lambda: np.zeros((0, 0)))
    """[n, p], the share of each prefix's users at each POP."""
    report_demand: bool = True
    loads: list[F64] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))

    @property
    def pops(self) -> tuple[str, ...]:
        """POP ids, as arrays have them."""
        return self.planner.fleet.pops

    def run(self, seconds: float, probe: Callable[["Scene"], None] | None = None) -> None:
        """Let time pass, second by second."""
        for _ in range(int(seconds)):
            self._second()
            if probe:
                probe(self)

    def _second(self) -> None:
        self.now_ms += 1_000
        self._follow()
        load = self.load_bps()
        self.loads.append(load)
        values: dict[tuple[str, Signal], float] = {}
        for p, pop in enumerate(self.pops):
            if pop not in self.mute:
                values[pop, Signal.UP] = float(pop not in self.down)
                values[pop, Signal.LOAD_BPS] = float(load[p])
        if values:
            self.write(Kind.SIGNAL, signal_partial(self.now_ms - 1_000, values))
        if self.now_ms % WINDOW_MS == 0:
            self.measure()
        self.planner.step(self.now_ms)

    def measure(self) -> None:
        """Write the partials of the window that just ended."""
        start_ms = self.now_ms - WINDOW_MS
        noisy = np.where(
            self.rtt_us > 0,
            self.rtt_us * self.rng.lognormal(0, self.noise, self.rtt_us.shape),
            self.rtt_us,
        )
        noisy[:, [self.pops.index(pop) for pop in self.down | self.mute]] = np.nan
        self.write(Kind.RTT, rtt_partial(start_ms, self.net, self.plen, self.pops, noisy))
        if self.report_demand and self.held.any():
            row, pop = np.nonzero(self.held > 0)
            bits = self.demand_bps[row] * self.held[row, pop] * (WINDOW_MS / 1_000) / 3
            partial = demand_partial(
                start_ms, self.net[row], self.plen[row], self.pops, pop, bits, queries=30
            )
            self.write(Kind.DEMAND, partial)

    def write(self, kind: Kind, partial: RttPartial | DemandPartial | SignalPartial) -> None:
        """Put a partial where the fold would."""
        assert self.store.create(partial.origin.key(kind), encode(partial))

    def write_link(self, partial: SignalPartial) -> None:
        """A further object of the urgent stream, of a second shard."""
        other = replace(partial, origin=replace(partial.origin, shard="shard-1"))
        self.write(Kind.SIGNAL, other)

    def load_bps(self) -> F64:
        """[p], the load of every POP now."""
        held = self.held if self.held.size else np.zeros((len(self.net), len(self.pops)))
        load: F64 = (held * self.demand_bps[:, None]).sum(axis=0)
        for pop, more_bps in self.extra_bps.items():
            load[self.pops.index(pop)] += more_bps
        return load

    def _follow(self) -> None:
        """One second's worth of caches asks again."""
        wanted = self.wanted()
        if wanted is None:
            return
        if not self.held.size:
            self.held = np.zeros((len(self.net), len(self.pops)))
        ttl_s = self.planner.fleet.ttl_s
        self.held += (wanted - self.held) / ttl_s

    def wanted(self) -> F64 | None:
        """[n, p], the answers that the table and the POP state give now."""
        stored = self.store.read(table.CURRENT_KEY)
        if stored is None:
            return None
        now = self.table()
        said = self.store.read(state.KEY)
        pops = state.decode(said.body, self.trusted).pops if said else {}
        wanted = np.zeros((len(self.net), len(self.pops)))
        for i, prefix in enumerate(self.prefixes()):
            row, _ = now.find(prefix)
            ranked = now.ranked(row)
            share = now.share[row].tolist() if row >= 0 else [255]
            usable = [p for p in ranked if pops[p].up and not pops[p].drained] if pops else ranked
            usable = usable or ranked
            for rank, pop in enumerate(ranked):
                if rank >= len(share) or not share[rank]:
                    continue
                left = share[rank] / 255
                order = [p for p in ranked[rank:] + ranked[:rank] if p in usable]
                for one in order:
                    shed = pops[one].shed if pops and one != order[-1] else 0.0
                    wanted[i, self.pops.index(one)] += left * (1 - shed)
                    left *= shed
                assert pop
        return wanted

    def prefixes(self) -> list[Prefix]:
        """All prefixes."""
        return [Prefix(int(n), int(p)) for n, p in zip(self.net, self.plen, strict=True)]

    def table(self) -> table.Table:
        """The table in force, verified."""
        stored = self.store.read(table.CURRENT_KEY)
        assert stored is not None, "no table yet"
        pointer = msgspec.json.decode(stored.body, type=table.Pointer)
        body = self.store.read(pointer.key)
        assert body is not None
        return table.decode(body.body, self.trusted)

    def answer(self, prefix: Prefix) -> str:
        """The first POP of a prefix."""
        now = self.table()
        return now.ranked(now.find(prefix)[0])[0]

    def state(self) -> state.State:
        """The POP state, verified."""
        stored = self.store.read(state.KEY)
        assert stored is not None
        return state.decode(stored.body, self.trusted)

    def overview(self) -> overview.Overview:
        """What people see."""
        stored = self.store.read(overview.KEY)
        assert stored is not None
        return overview.decode(stored.body)

    def evidence(self) -> evidence.Evidence:
        """Of the table in force."""
        stored = self.store.read(evidence.key(self.table().meta.generation))
        assert stored is not None
        return evidence.decode(stored.body)


def make_scene(
    pops: int = 5,
    prefixes: int = 40,
    seed: int = 1,
    headroom: float = 1.6,
    store: MemoryStore | None = None,
    **plan: Any,
) -> Scene:
    """A scene of random RTTs and heavy-tailed demand; `plan` overrides keys of `[plan]`."""
    rng = np.random.default_rng(seed)
    listed = [Prefix.parse(f"10.{i // 250}.{i % 250}.0/24") for i in range(prefixes)]
    net, plen = prefix_arrays(listed)
    rtt_us = rng.uniform(5_000, 150_000, (prefixes, pops))
    demand_bps = rng.pareto(1.5, prefixes) * 1e8 + 1e8
    capacity_bps = demand_bps.sum() / pops * headroom
    config = Config(
        pop=tuple(
            Pop(id=f"p{i}", capacity_bps=capacity_bps, link=(Link(id="up", capacity_bps=1e15),))
            for i in range(pops)
        ),
        service=(Service(name="www.cdn.example.", ttl_s=20),),
        plan=Plan(**plan),
    )
    store = MemoryStore() if store is None else store
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
    trusted = verifier((signer.public_hex,))
    targets = Targets(net, plen, tuple("" for _ in listed), demand_bps)
    planner = Planner(config, store, signer, trusted, targets)
    return Scene(config, store, planner, trusted, net, plen, rtt_us, demand_bps)
