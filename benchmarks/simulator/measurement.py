"""What is seen of the world, how late and how blurred: signals, RTT windows, reports of demand.

The reports carry the production types of the fold's output, so that the planner's own code reads
them. Owns what is still on its way.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aggregator.merge import RttWindow
from aggregator.partials import DemandPartial, Origin, SignalPartial
from benchmarks.cut import origin
from benchmarks.simulator.setting import LINKS, Setting
from popsteer.clock import SECOND_MS
from popsteer.samples import Signal

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

T0_MS = 1_800_000_000_000
"""Virtual time zero."""
_KINDS = np.array([Signal.UP, Signal.LOAD_BPS, Signal.TX_BPS], np.uint8)


@dataclass(frozen=True, slots=True)
class Seen:
    """One delivery to whoever steers."""

    end_s: int
    """End of the time that it speaks of."""
    used: F64
    """[p], measured utilisation; NaN where the POP is silent."""
    queue_ms: F64
    """[p], measured queueing delay."""
    signals: SignalPartial


@dataclass(frozen=True, slots=True)
class SeenBulk:
    """RTT and demand of one window. Prefix numbers are those of the world."""

    end_s: int
    rtt: RttWindow
    demand: DemandPartial


@dataclass(slots=True)
class Telemetry:
    """Collects second by second, delivers when it is due."""

    setting: Setting
    dice: np.random.Generator
    _signals: deque[tuple[float, Seen]] = field(default_factory=deque)
    _bulk: deque[tuple[float, SeenBulk]] = field(default_factory=deque)
    _seconds: int = 0
    """Of which the sums below are."""
    _pop_bps: F64 = field(init=False)
    _link_bps: F64 = field(init=False)
    _queue_ms: F64 = field(init=False)
    _cells: list[Ints] = field(default_factory=list)
    _bits: list[F64] = field(default_factory=list)
    _subjects: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._subjects = (*self.setting.world.pops, *self.setting.link_names())
        self._begin()

    def _begin(self) -> None:
        """A new period of signals."""
        pops, links = len(self.setting.capacity_bps), len(self.setting.link_bps)
        self._seconds = 0
        self._pop_bps, self._queue_ms = np.zeros(pops), np.zeros(pops)
        self._link_bps = np.zeros(links)

    def second(
        self, t: int, pop_bps: F64, link_bps: F64, queue_ms: F64, alive: Bools, rtt_ms: F64
    ) -> None:
        """Take in the second that ends at `t`, and cut what is complete."""
        options = self.setting.options
        self._seconds += 1
        self._pop_bps += pop_bps
        self._link_bps += link_bps
        self._queue_ms += queue_ms
        if t % options.signal_period_s == 0:
            self._signals.append((t + options.signal_delay_s, self._signal(t, alive)))
        if t % options.window_s == 0:
            self._bulk.append((t + options.bulk_delay_s, self._window(t, alive, rtt_ms)))

    def answered(self, prefix: Ints, pop: Ints, bits: F64) -> None:
        """DNS nodes gave these answers, which bring so much traffic until the TTL."""
        self._cells.append(prefix * len(self.setting.capacity_bps) + pop)
        self._bits.append(bits)

    def signals(self, t: int) -> list[Seen]:
        """What has arrived since the last call, oldest first."""
        return [self._signals.popleft()[1] for _ in range(_due(self._signals, t))]

    def bulk(self, t: int) -> list[SeenBulk]:
        """What has arrived since the last call, oldest first."""
        return [self._bulk.popleft()[1] for _ in range(_due(self._bulk, t))]

    def _signal(self, t: int, alive: Bools) -> Seen:
        setting, noise = self.setting, self.setting.options.load_noise_share
        pop = self._pop_bps / self._seconds * self.dice.normal(1, noise, len(alive))
        dice = self.dice.normal(1, noise, len(setting.link_bps))
        link = self._link_bps / self._seconds * dice
        queue = self._queue_ms / self._seconds
        self._begin()
        partial = signal_partial(setting, self._subjects, t, alive, pop, link)
        return Seen(t, np.where(alive, pop / setting.capacity_bps, np.nan), queue, partial)

    def _window(self, t: int, alive: Bools, rtt_ms: F64) -> SeenBulk:
        return SeenBulk(t, self._rtt(t, alive, rtt_ms), self._demand(t))

    def _rtt(self, t: int, alive: Bools, rtt_ms: F64) -> RttWindow:
        """Each prefix is probed once in an interval, by all POPs that probe it."""
        setting, options = self.setting, self.setting.options
        turns = max(1, options.probe_interval_s // options.window_s)
        row = np.arange((t // options.window_s) % turns, len(setting.measured), turns)
        pop = setting.measured[row]
        value = rtt_ms[row[:, None], pop]
        value = value * self.dice.lognormal(0, options.rtt_noise_share, value.shape)
        if options.timeline.poison.holds(t):
            lied = np.flatnonzero(setting.poison_column[row] >= 0)
            value[lied, setting.poison_column[row[lied]]] = options.poison_ms
        heard = alive[pop]
        key = (row[:, None] * len(alive) + pop)[heard]
        return RttWindow(
            T0_MS + t * SECOND_MS,
            key,
            value[heard] * 1e3,
            np.zeros(len(key)),
            np.ones(len(key)),
            np.zeros(len(key)),
        )

    def _demand(self, t: int) -> DemandPartial:
        options, pops = self.setting.options, self.setting.world.pops
        cells = np.concatenate([np.zeros(0, np.int64), *self._cells])
        bits = np.concatenate([np.zeros(0), *self._bits])
        self._cells, self._bits = [], []
        cell, place, queries = np.unique(cells, return_inverse=True, return_counts=True)
        noise = self.dice.lognormal(0, options.demand_noise_share, len(cell))
        total = np.bincount(place, bits, len(cell)).astype(np.float64) * noise
        row, world = cell // len(pops), self.setting.world
        return DemandPartial(
            _cut("popsteer-bulk", t, options.window_s),
            pops,
            np.full(len(cell), T0_MS + (t - options.window_s) * SECOND_MS),
            world.net[row],
            world.plen[row],
            (cell % len(pops)).astype(np.uint16),
            queries.astype(np.uint64),
            total,
        )


def signal_partial(
    setting: Setting, subjects: tuple[str, ...], t: int, alive: Bools, pop: F64, link: F64
) -> SignalPartial:
    """UP and LOAD of the POPs that live, TX of their links; a dead POP says nothing.

    `subjects` are the POPs and behind them their links.
    """
    p = np.flatnonzero(alive)
    k = np.flatnonzero(np.repeat(alive, LINKS))
    number = np.concatenate([p, p, len(alive) + k])
    kind = np.repeat(_KINDS, [len(p), len(p), len(k)])
    value = np.concatenate([np.ones(len(p)), pop[p], link[k]])
    period_s = setting.options.signal_period_s
    n = len(value)
    return SignalPartial(
        _cut("popsteer-urgent", t, period_s),
        subjects,
        np.full(n, T0_MS + (t - period_s) * SECOND_MS),
        number.astype(np.uint16),
        kind,
        np.ones(n, np.uint32),
        value,
        value,
        value,
        np.full(n, T0_MS + t * SECOND_MS),
    )


def _cut(stream: str, end_s: int, length_s: int) -> Origin:
    return origin(stream, T0_MS + (end_s - length_s) * SECOND_MS, length_s * SECOND_MS)


def _due(waiting: "deque[tuple[float, Seen]] | deque[tuple[float, SeenBulk]]", t: int) -> int:
    return sum(at <= t for at, _ in waiting)
