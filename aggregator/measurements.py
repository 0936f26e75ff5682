"""All that was measured, as the planner remembers it: reads partials, feeds the estimators.

Owns the three inboxes and what is learnt from them; decides nothing.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator.demand import Demand
from aggregator.estimate import Estimates, Estimator
from aggregator.fleet import Fleet
from aggregator.heard import Heard
from aggregator.merge import Inbox, rtt_windows
from aggregator.partials import DemandPartial, Partial, RttPartial, SignalPartial
from aggregator.prefixes import Prefixes
from aggregator.signals import Signals
from popsteer.clock import SECOND_MS
from popsteer.config import Plan
from popsteer.samples import Kind
from popsteer.store import ObjectStore
from popsteer.targets import Targets

HALF_LIVES_READ = 2
"""Of an estimate: so far back a new planner reads. Older partials would have a quarter of the
weight, and reading them keeps the first table waiting."""
SIGNAL_HORIZON_S = 60
BULK_HORIZON_S_MIN = 120


class Measurements:
    """Prefixes, estimates, demand and signals."""

    def __init__(
        self,
        store: ObjectStore,
        plan: Plan,
        fleet: Fleet,
        sets: Sequence[float] = (1.0,),
    ) -> None:
        """`sets` are the shares of demand that sets of answers are expected to have."""
        bulk_s = max(BULK_HORIZON_S_MIN, HALF_LIVES_READ * plan.estimate_half_life_s)
        self.fleet = fleet
        self.prefixes = Prefixes()
        self.estimator = Estimator(plan.estimate_half_life_s, plan.age_s_max)
        self.demand = Demand(fleet.pops, fleet.ttl_s, sets)
        self.signals = Signals()
        self.heard = Heard(fleet.pops)
        self.window_first_ms = 0
        self.window_last_ms = 0
        """End of the newest RTT window merged; 0 is none."""
        self.windows = 0
        """RTT windows merged."""
        self.sequences: dict[str, tuple[str, str]] = {}
        """First and last Kinesis sequence number merged, by stream and shard."""
        self.learnt = 0
        """Partials of RTT and demand merged."""
        self._rtt = Inbox(store, Kind.RTT, int(bulk_s * SECOND_MS))
        self._demand = Inbox(store, Kind.DEMAND, int(bulk_s * SECOND_MS))
        self._signal = Inbox(store, Kind.SIGNAL, SIGNAL_HORIZON_S * SECOND_MS)
        self._targets = np.zeros(0, np.int64)
        self._estimates: tuple[int, Estimates] | None = None
        """The last ones given and of when; None when something was learnt since."""
        self._demand_by_set: tuple[NDArray[np.float64], list[NDArray[np.float64]]] | None = None
        """The last one given and for which load; None when something was learnt since."""

    def expect(self, targets: Targets) -> None:
        """Take the targets as the prefixes to wait for, and their weights as demand."""
        rows = self.prefixes.add(targets.net, targets.plen)
        known = rows >= 0
        self._targets = rows[known]
        self.demand.expect(rows[known], targets.weight_bps[known])
        self._demand_by_set = None

    def read_signals(self) -> int:
        """Learn from new signals; gives how many partials there were."""
        partials = self._signal.read()
        self.heard.observe(partials)
        self.signals.observe(p for p in partials if isinstance(p, SignalPartial))
        return len(partials)

    def estimates(self, now_ms: int) -> Estimates:
        """All that is known of RTTs now."""
        if self._estimates is None or self._estimates[0] != now_ms:
            self._estimates = now_ms, self.estimator.at(now_ms)
        return self._estimates[1]

    def read_bulk(self, now_ms: int) -> int:
        """Learn from new RTT and demand; gives how many partials there were."""
        rtt, demand = self._rtt.read(), self._demand.read()
        if rtt:
            self._estimates = None
        windows = [p for p in rtt if isinstance(p, RttPartial)]
        for window in rtt_windows(windows, self.prefixes, self.fleet.pops):
            self.estimator.observe(window, len(self.fleet.pops))
            self.windows += window.end_ms > self.window_last_ms
            self.window_last_ms = max(self.window_last_ms, window.end_ms)
            self.window_first_ms = self.window_first_ms or window.end_ms
        self.demand.observe((p for p in demand if isinstance(p, DemandPartial)), self.prefixes)
        self._note(rtt)
        self.heard.observe(rtt)
        self.estimator.forget(now_ms)
        self.learnt += len(rtt) + len(demand)
        self._demand_by_set = None
        return len(rtt) + len(demand)

    def _note(self, partials: list[Partial]) -> None:
        for partial in partials:
            origin = partial.origin
            shard = f"{origin.stream}/{origin.shard}"
            first, _ = self.sequences.get(shard, (str(origin.first_sequence), ""))
            self.sequences[shard] = first, str(origin.last_sequence)

    def coverage(self, estimates: Estimates) -> float:
        """Share of the pairs of targets and POPs that are known; 0 without targets."""
        pairs = len(self._targets) * len(self.fleet.pops)
        known = np.isin(estimates.key // len(self.fleet.pops), self._targets)
        return float(known.sum()) / pairs if pairs else 0.0

    def demand_bps(self, load_bps: NDArray[np.float64]) -> NDArray[np.float64]:
        """[prefixes], calibrated to the measured load of POPs."""
        return self.demand.bps(len(self.prefixes), load_bps)

    def demand_by_set(self, load_bps: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """[prefixes] for each set of answers; together `demand_bps`.

        Asked again for the very same measurement, it gives the very same answer.
        """
        known = self._demand_by_set
        if known is None or known[0] is not load_bps:
            known = load_bps, self.demand.by_set(self.demand_bps(load_bps))
            self._demand_by_set = known
        return known[1]
