"""Policies to compare with, which nobody should run: one order of POPs per prefix, by some cost.

Each is what an operator without a loop has, or might build first. The naive feedback is the
shower: it measures RTT with the queues in it and sends everybody to what was best a while ago.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulator.caches import NO_POP, RANKS
from benchmarks.simulator.measurement import Seen, SeenBulk
from benchmarks.simulator.setting import Setting
from benchmarks.simulator.steering import Outlook, Rows
from popsteer.geo import distance_km

F64 = NDArray[np.float64]

PERIOD_S = 10


@dataclass
class Baseline:
    """Sends each prefix to the cheapest POP by `cost`, which is asked each period."""

    setting: Setting
    cost: Callable[["Baseline"], F64]
    """[n, k], over the measured POPs of each prefix."""
    rtt_ms: F64 = field(init=False)
    """[n, k], as last measured; infinite before."""
    used: F64 = field(init=False)
    queue_ms: F64 = field(init=False)

    def __post_init__(self) -> None:
        n, p = len(self.setting.measured), len(self.setting.capacity_bps)
        self.rtt_ms = np.full((n, self.setting.measured.shape[1]), np.inf)
        self.used, self.queue_ms = np.zeros(p), np.zeros(p)

    def observe(self, signals: list[Seen], bulk: list[SeenBulk]) -> None:
        """Believe whatever was measured last."""
        measured, p = self.setting.measured, len(self.used)
        for seen in bulk:
            row, pop = np.divmod(seen.rtt.key, p)
            column = (measured[row] == pop[:, None]).argmax(axis=1)
            self.rtt_ms[row, column] = seen.rtt.median_us / 1e3
        for one in signals:
            self.used, self.queue_ms = one.used, one.queue_ms

    def outlook(self, t: int) -> Outlook | None:
        """Silent POPs are down; nobody sheds."""
        if t % PERIOD_S:
            return None
        return Outlook(np.isfinite(self.used), np.zeros(len(self.used)))

    def table(self, t: int) -> Rows | None:
        """The order by cost."""
        if t % PERIOD_S:
            return None
        cost = self.cost(self)
        if not np.isfinite(cost).any(axis=1).all():
            return None
        order = np.argsort(cost, axis=1, kind="stable")[:, :RANKS]
        pop = np.take_along_axis(self.setting.measured, order, 1)
        pop = np.pad(pop, ((0, 0), (0, RANKS - pop.shape[1])), constant_values=NO_POP)
        share = np.zeros(pop.shape)
        share[:, 0] = 1.0
        return Rows(pop, share, np.arange(len(self.used)))


def distance(setting: Setting) -> F64:
    """[n, k], from the resolver to the POPs, km."""
    world = setting.world
    km = distance_km(world.metro_lat, world.metro_lon, world.pop_lat, world.pop_lon)
    return np.take_along_axis(km[world.metro], setting.measured, 1)


def plain_geography(setting: Setting) -> Baseline:
    """The nearest living POP by distance, and nothing sheds."""
    km = distance(setting)
    return Baseline(setting, lambda _: km)


def plain_nearest(setting: Setting) -> Baseline:
    """The fastest living POP, whatever its load, at every whim of the measurement."""
    return Baseline(setting, lambda baseline: baseline.rtt_ms)


def naive_feedback(setting: Setting) -> Baseline:
    """The POP with the least RTT plus queue, as measured last: the shower."""

    def cost(baseline: Baseline) -> F64:
        return baseline.rtt_ms + baseline.queue_ms[setting.measured]

    return Baseline(setting, cost)


BASELINES: dict[str, Callable[[Setting], Baseline]] = {
    "plain-geography": plain_geography,
    "plain-nearest": plain_nearest,
    "naive-feedback": naive_feedback,
}
