"""The replay source: a world's RTTs, as if the agent of each of its POPs measured them now.

RTT = the pair's base x (1 + residual) x noise, changed as the lab file says. The residual of a
(metro, POP) is a trace of the world's bank, chosen by a hash of their names and applied as a
ratio, because it was recorded on long paths. Noise is lognormal with mean 1 and the pair's
measured mean deviation, so an RTT is never negative and the mean stays the measured one. The bank
holds one probe in `residual_step_s`; where it was lost, a probe of ours is lost with the share of
losses in the five steps around. Deterministic by seed and times.
"""

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from popsteer import lab
from popsteer.batch import Batcher
from popsteer.clock import SECOND_MS, now_ms
from popsteer.lab import Changes
from popsteer.names import PopId, Prefix, SourceId
from popsteer.samples import RTT_US_MAX, Batch, Kind, Method
from popsteer.world import World

LOSS_STEPS = 5
TURN_S = 1.0
"""Each POP sends what it measured in this time, its turn at its own phase of it."""

F32 = NDArray[np.float32]


class Residuals:
    """The bank of a world, with the trace of every (metro, POP)."""

    def __init__(self, world: World) -> None:
        self._ratio, self._loss = _without_gaps(world.residual)
        self._step_s = world.residual_step_s
        traces, self._steps = world.residual.shape
        key = np.array([[_hash(m, p) for p in world.pops] for m in world.metros], np.int64)
        self._trace = key % traces
        self._start = key // traces % self._steps
        self._now = self._look_up(0)

    def at(self, elapsed_s: float) -> tuple[F32, F32]:
        """[m, p] each: the residual as a ratio of the base, and the share of lost probes."""
        passed = int(elapsed_s // self._step_s)
        if passed != self._now[0]:
            self._now = self._look_up(passed)
        return self._now[1:]

    def _look_up(self, passed: int) -> tuple[int, F32, F32]:
        step = (self._start + passed) % self._steps
        return passed, self._ratio[self._trace, step], self._loss[self._trace, step]


def _hash(metro: str, pop: str) -> int:
    return zlib.crc32(f"{metro}/{pop}".encode())


def _without_gaps(bank: NDArray[np.float64]) -> tuple[F32, F32]:
    """Lost probes take the residual before them; their density becomes a loss rate."""
    lost = np.isnan(bank)
    seen = np.where(lost, 0, np.arange(bank.shape[1]))
    last = np.maximum.accumulate(seen, axis=1)
    ratio = np.nan_to_num(np.take_along_axis(bank, last, axis=1))
    kernel = np.full(LOSS_STEPS, 1 / LOSS_STEPS)
    loss = np.array([np.convolve(row, kernel, "same") for row in lost.astype(np.float64)])
    return ratio.astype(np.float32), loss.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Effects:
    """Lab changes as arrays [n, p]: what each prefix and POP gets."""

    factor: F32
    add_ms: F32
    kept: F32
    """Share of probes that the changes let through."""


def effects(world: World, changes: Changes) -> Effects:
    """All changes in force together: factors multiply, milliseconds add, losses are independent.

    A change of an unknown POP or an unreadable prefix has no effect: the lab checks its input.
    """
    shape = (len(world.net), len(world.pops))
    factor, kept = np.ones(shape, np.float32), np.ones(shape, np.float32)
    add_ms = np.zeros(shape, np.float32)
    prefixes = world.prefixes()
    for change in changes.rtt:
        whole = Prefix.parse(change.prefix)
        inside = np.array([whole.contains(prefix) for prefix in prefixes])
        pops = np.array([change.pop in {"*", pop} for pop in world.pops])
        here = np.ix_(inside, pops)
        factor[here] *= change.factor
        add_ms[here] += change.add_ms
        kept[here] *= 1 - change.loss
    return Effects(factor, add_ms, kept)


class Replay:
    """The RTT lanes of all POPs of a world."""

    def __init__(
        self,
        world: World,
        offer: Callable[[Batch], bool],
        *,
        interval_s: float,
        timeout_s: float,
        speed: float,
        method: Method,
        events: Path | None,
        seed: int = 0,
    ) -> None:
        self._world = world
        self._offer = offer
        self._interval_s = interval_s
        self._timeout_us = timeout_s * 1e6
        self._speed = speed
        self._method = method
        self._rng = np.random.default_rng(seed)
        self._watch = lab.Watch(events) if events else None
        self._effects = effects(world, Changes())
        self._residuals = Residuals(world)
        self._sigma = _sigma(world)
        self._lanes = [
            Batcher(Kind.RTT, SourceId(f"{pop}.rtt"), [PopId(pop)]) for pop in world.pops
        ]
        self._order = self._rng.permutation(len(world.net))
        """Prefixes in the order in which they are measured: neighbours are not in step."""
        self._done = [0] * len(world.pops)
        """Probes that each POP has sent since the start."""

    async def run(self) -> None:
        """In real time, until cancelled; each turn's batch is offered whole, so none is held."""
        start_s, start_ms = time.monotonic(), now_ms()
        count = len(self._lanes)
        turn = 0
        while True:
            turn_s = turn * TURN_S / count
            await asyncio.sleep(max(0.0, start_s + turn_s - time.monotonic()))
            if turn % count == 0:
                self.poll_events()
            elapsed_s = time.monotonic() - start_s
            for batch in self.measure(turn % count, elapsed_s, start_ms):
                self._offer(batch)
            turn = max(turn + 1, int((elapsed_s - TURN_S) / TURN_S) * count)

    def poll_events(self) -> None:
        """Take over the lab's changes when there are new ones."""
        if self._watch is not None and self._watch.poll():
            self._effects = effects(self._world, self._watch.changes)

    def measure(self, pop: int, elapsed_s: float, start_ms: int) -> Sequence[Batch]:
        """What the agent of this POP measured since its last turn, until `elapsed_s`."""
        count = len(self._order)
        per_s = count / self._interval_s
        upto = int(elapsed_s * per_s)
        # After a pause of more than a round, what was missed stays unmeasured.
        sent = np.arange(max(self._done[pop], upto - count), upto)
        self._done[pop] = max(upto, self._done[pop])
        if not len(sent):
            return []
        # Each POP begins its rounds at a place of its own.
        prefix = self._order[(sent + pop * count // len(self._lanes)) % count]
        rtt_us, lost = self._draw(prefix, pop, elapsed_s)
        time_ms = start_ms + (sent / per_s * SECOND_MS).astype(np.int64)
        lane = self._lanes[pop]
        rows = len(sent)
        lane.extend(
            time_ms,
            self._world.net[prefix],
            self._world.plen[prefix],
            np.zeros(rows, np.uint16),
            rtt_us,
            np.full(rows, self._method, np.uint8),
            lost,
        )
        return lane.take(int(time_ms[-1]), flush=True)

    def _draw(
        self, prefix: NDArray[np.int64], pop: int, elapsed_s: float
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        metro = self._world.metro[prefix]
        ratio, loss = self._residuals.at(elapsed_s * self._speed)
        change = self._effects
        sigma = self._sigma[metro, pop]
        noise = np.exp(sigma * self._rng.standard_normal(len(prefix)) - sigma**2 / 2)
        base_ms = self._world.rtt_ms[metro, pop] * (1 + ratio[metro, pop])
        rtt_ms = base_ms * noise * change.factor[prefix, pop] + change.add_ms[prefix, pop]
        rtt_us = np.clip(rtt_ms * 1_000, 1, RTT_US_MAX)
        kept = (1 - loss[metro, pop]) * change.kept[prefix, pop]
        lost = (self._rng.random(len(prefix)) >= kept) | (rtt_us > self._timeout_us)
        rtt_us[lost] = self._timeout_us
        return rtt_us.astype(np.uint32), lost.astype(np.uint8)


def _sigma(world: World) -> NDArray[np.float64]:
    """Of a lognormal with the pair's relative mean deviation d: d = sigma sqrt(2 / pi), d small."""
    deviation = world.mdev_ms / np.maximum(world.rtt_ms, 1e-3)
    sigma: NDArray[np.float64] = np.clip(deviation * np.sqrt(np.pi / 2), 0.0, 1.0)
    return sigma
