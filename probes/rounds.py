"""Measure the targets of one agent, round after round: schedule, methods, batch.

Targets that are wanted (`probes.wanted`) have rounds of their own beside those of all targets, so
they are measured more often; a share of the rate is kept for them.

A probe that this machine did not let out is counted and said once, and gives no sample: it says
nothing about the path.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from popsteer.batch import Batcher
from popsteer.clock import now_ms
from popsteer.config import Probe
from popsteer.errors import SetupError
from popsteer.names import SourceId
from popsteer.samples import Batch, Kind, Method
from popsteer.targets import Targets
from popsteer.telemetry import OncePerKey, logger
from probes.methods import METHODS, Measure
from probes.schedule import Schedule

DNS_PORT = 53

TICK_S = 0.1
"""Batches are looked after so often when no target is due."""
WANTED_SHARE = 0.2
"""Of the rate bound, kept for wanted targets while there are any."""
WANTED_FACTOR = 4.0
"""How many times as often a wanted target is measured on top, where the rate allows it."""


class Rounds:
    """The RTT lane of one agent: every target by every method once a round."""

    def __init__(
        self,
        targets: Targets,
        probe: Probe,
        source: SourceId,
        offer: Callable[[Batch], bool],
        rng: np.random.Generator,
    ) -> None:
        self._targets = targets
        self._port = probe.port
        self._methods = [Method[name.upper()] for name in probe.methods]
        self._probe = probe
        self._offer = offer
        self._rng = rng
        self._batcher = Batcher(Kind.RTT, source, [probe.pop])
        self._under_way: set[asyncio.Task[None]] = set()
        self._said = OncePerKey()
        self._wanted = np.empty(0, np.int64)
        self._replan = True
        self.not_sent: Counter[str] = Counter()
        """Probes that this machine did not let out, by reason."""

    async def run(self) -> None:
        """Until cancelled; probes under way are then given up, batches are offered."""
        measures = [METHODS[method](self._probe.timeout_s) for method in self._methods]
        rounds = self._schedule(len(self._targets), 1.0, 1.0)
        extra = self._schedule(0, 1.0, 1.0)
        try:
            while True:
                if self._replan:
                    self._replan = False
                    kept = WANTED_SHARE if len(self._wanted) else 0.0
                    rounds.bound(self._probe.rate_max_per_s * (1 - kept))
                    extra = self._schedule(len(self._wanted), WANTED_FACTOR, WANTED_SHARE)
                now_s = time.monotonic()
                self._start_all(rounds.due(now_s), measures)
                slots = extra.due(now_s)
                if len(slots):
                    target, which = np.divmod(slots, len(measures))
                    self._start_all(self._wanted[target] * len(measures) + which, measures)
                self._offer_batches(flush=False)
                wait_s = min(rounds.next_s(), extra.next_s()) - time.monotonic()
                await asyncio.sleep(min(TICK_S, max(0.0, wait_s)))
        finally:
            for task in self._under_way:
                task.cancel()
            self._offer_batches(flush=True)

    def want(self, targets: NDArray[np.int64]) -> None:
        """Measure these targets more often from now on, and the ones wanted before no more."""
        self._wanted = targets
        self._replan = True

    def _schedule(self, targets: int, factor: float, share: float) -> Schedule:
        count = targets * len(self._methods)
        interval_s, rate_max = self._probe.interval_s / factor, self._probe.rate_max_per_s * share
        return Schedule(count, interval_s, rate_max, time.monotonic(), self._rng)

    def _start_all(self, slots: NDArray[np.int64], measures: list[Measure]) -> None:
        for slot in slots.tolist():
            target, which = divmod(slot, len(measures))
            self._start(target, self._methods[which], measures[which])

    def _start(self, target: int, method: Method, measure: Measure) -> None:
        task = asyncio.create_task(self._measure(target, method, measure))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _measure(self, target: int, method: Method, measure: Measure) -> None:
        sent_ms = now_ms()
        port = DNS_PORT if method is Method.DNS else self._port
        try:
            taken = await measure(self._targets.address[target], port)
        except SetupError as error:
            self.not_sent[str(error)] += 1
            if self._said.first(str(error)):
                logger().error("probe not sent", reason=str(error))
            return
        net, plen = self._targets.net[target], self._targets.plen[target]
        self._batcher.append(sent_ms, net, plen, 0, taken.rtt_us, method, taken.lost)

    def _offer_batches(self, *, flush: bool) -> None:
        for batch in self._batcher.take(now_ms(), flush=flush):
            self._offer(batch)
