"""Whoever knows the truth: the optimum of the minute as a table, through the same caches.

It shows what no policy can do better: caches keep old answers, and those that keep them for too
long are misrouted whatever is answered. It moves whenever the optimum does, so it is no bound for
movement and oscillation.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.simulator.measurement import Seen, SeenBulk
from benchmarks.simulator.reference import Reference
from benchmarks.simulator.steering import Outlook, Rows

ORACLE = "oracle"
TABLE_PERIOD_S = 30
STATE_PERIOD_S = 2


@dataclass(frozen=True, slots=True)
class Oracle:
    """Publishes the reference's optimum; learns nothing, for it knows all."""

    reference: Reference

    def observe(self, signals: list[Seen], bulk: list[SeenBulk]) -> None:
        """Nothing is news."""

    def outlook(self, t: int) -> Outlook | None:
        """Who lives; nobody sheds."""
        if t % STATE_PERIOD_S:
            return None
        alive = self.reference.setting.alive(t)
        return Outlook(alive, np.zeros(len(alive)))

    def table(self, t: int) -> Rows | None:
        """The optimum of now."""
        return None if t % TABLE_PERIOD_S else self.reference.rows(t)
