"""The closed loop, second by second: users, caches, queues, measurement, and whoever steers."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulator import caches, links
from benchmarks.simulator.baselines import distance
from benchmarks.simulator.measurement import Telemetry
from benchmarks.simulator.reference import Reference
from benchmarks.simulator.score import BINS, Trace, account, misranked
from benchmarks.simulator.setting import Setting
from benchmarks.simulator.steering import Outlook, Rows, Steering

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

DEMAND_PERIOD_S = 10
PATH_PERIOD_S = 60
ACCOUNT_PERIOD_S = 5
PANIC_SHARE = 0.5
"""As `resolver.route.outlook_of`: more POPs down than this are not believed."""


@dataclass(slots=True)
class Answering:
    """What the DNS nodes answer now: table, state and their own checks, each as it arrived."""

    rows: Rows
    up: Bools
    shed: F64
    checked: Bools
    pop: NDArray[np.int64]
    share: F64

    @classmethod
    def of(cls, rows: Rows, pops: int) -> "Answering":
        """The first table, with all POPs up."""
        ones = np.ones(pops, bool)
        start = cls(rows, ones, np.zeros(pops), ones.copy(), rows.pop, rows.share)
        start.spread()
        return start

    def spread(self) -> None:
        """Work out again what is answered."""
        able = _believed(_believed(self.up) & _believed(self.checked))
        self.pop, self.share = caches.spread(
            self.rows.pop, self.rows.share, able, self.shed, self.rows.default
        )


def _believed(up: Bools) -> Bools:
    return up if (~up).sum() <= PANIC_SHARE * len(up) else np.ones(len(up), bool)


class Simulation:
    """One run of one setting under one steering. `trace` fills up; `run` may be called once."""

    def __init__(self, setting: Setting, steering: Steering, reference: Reference) -> None:
        options = setting.options
        self.setting, self.steering, self.reference = setting, steering, reference
        self._dice = np.random.default_rng((options.seed, 100))
        self._telemetry = Telemetry(setting, np.random.default_rng((options.seed, 101)))
        n, p, seconds = len(setting.measured), len(setting.capacity_bps), options.timeline.end_s
        c = len(setting.cache_prefix)
        self._answering = Answering.of(reference.rows(0), p)
        self._next_s = self._dice.random(c) * np.minimum(setting.ttl_s, options.ttl_s)
        self._at = np.zeros(c, np.int64)
        self._link_at = np.zeros(c, np.int64)
        self._asked_s = np.zeros(c)
        self._pop_bps, self._clung_bps = np.zeros(p), np.zeros(p)
        self._link_bps = np.zeros(len(setting.link_bps))
        self._tables: deque[tuple[int, Rows]] = deque()
        self._states: deque[tuple[int, Outlook]] = deque()
        self._group = reference.group[setting.cache_prefix]
        self._keeps_ttl = setting.ttl_s <= options.ttl_s
        self._geo = np.take_along_axis(
            setting.measured, distance(setting).argmin(axis=1)[:, None], 1
        )
        self.trace = Trace.empty(seconds, p)
        self._truth(0)
        caches.refresh(
            0.0, np.zeros(c), setting.ttl_s, setting.cache_prefix, self._answering.pop,
            self._answering.share, self._dice.random(c), self._at, self._asked_s,
        )  # fmt: skip
        self._link_at = setting.link[setting.cache_prefix, self._at]
        assert n == len(self._answering.pop)

    def run(self) -> Trace:
        """Let the whole timeline pass."""
        line = self.setting.options.timeline
        # The optima are the ruler, not the race: they are not timed.
        self.reference.at(line.end_s - 1)
        for t in range(1, line.warm_s):
            self._second(t)
        # Compiled functions are loaded by now.
        self.trace.steering_cpu_s, begun = 0.0, time.process_time()
        for t in range(line.warm_s, line.end_s):
            self._second(t)
        self.trace.cpu_s = time.process_time() - begun
        return self.trace

    def _second(self, t: int) -> None:
        self._truth(t)
        self._arrive(t)
        self._ask(t)
        self._load(t)
        self._measure(t)
        begun = time.process_time()
        self._steer(t)
        self.trace.steering_cpu_s += time.process_time() - begun

    def _truth(self, t: int) -> None:
        setting = self.setting
        if t % DEMAND_PERIOD_S == 0:
            self._demand = setting.demand_bps(t)
            self._cache_bps = self._demand[setting.cache_prefix] * setting.cache_part
        if t % PATH_PERIOD_S == 0:
            self._rtt_ms, self._user_rtt_ms = setting.rtts_ms(t)
            self._geo_rtt_ms = np.take_along_axis(self._rtt_ms, self._geo, 1)[:, 0]
            self._slower_ms = self.reference.slower_ms(t, self._rtt_ms)
            self._dearer_ms = self.reference.dearer_ms(t, self._rtt_ms)
            self._ranked = self.reference.by_rtt(t, self._rtt_ms)
        self._alive = setting.alive(t)

    def _arrive(self, t: int) -> None:
        """Tables and states reach the DNS nodes; their checks see POPs die and return."""
        answering, options, fail = self._answering, self.setting.options, self.setting.fail_pop
        changed = False
        while self._tables and self._tables[0][0] <= t:
            answering.rows = self._tables.popleft()[1]
            changed = True
        while self._states and self._states[0][0] <= t:
            state = self._states.popleft()[1]
            changed |= bool(
                (state.up != answering.up).any() or (state.shed != answering.shed).any()
            )
            answering.up, answering.shed = state.up, state.shed
        span = options.timeline.fail
        down = span.start_s + options.check_down_s <= t < span.end_s + options.check_up_s
        if answering.checked[fail] == down:
            answering.checked[fail] = not down
            changed = True
        if changed:
            pop, share = answering.pop, answering.share
            answering.spread()
            moved = caches.moved_share(pop, share, answering.pop, answering.share)
            self.trace.moved[t] = (moved * self._demand).sum() / self._demand.sum()
            self.trace.flips[t] = moved.mean()

    def _ask(self, t: int) -> None:
        setting = self.setting
        asked = caches.refresh(
            float(t), self._next_s, setting.ttl_s, setting.cache_prefix, self._answering.pop,
            self._answering.share, self._dice.random(len(self._at)), self._at, self._asked_s,
        )  # fmt: skip
        prefix, pop = setting.cache_prefix[asked], self._at[asked]
        self._link_at[asked] = setting.link[prefix, pop]
        self._telemetry.answered(prefix, pop, self._cache_bps[asked] * setting.options.ttl_s)

    def _load(self, t: int) -> None:
        setting, trace = self.setting, self.trace
        caches.loads(
            self._at, setting.cache_prefix, self._cache_bps, self._link_at,
            float(t - setting.options.ttl_s), self._asked_s, self._keeps_ttl,
            self._answering.pop, self._answering.share,
            self._pop_bps, self._link_bps, self._clung_bps,
        )  # fmt: skip
        offered = self._pop_bps + setting.foreign_bps(t)
        served_bps = np.where(self._alive, offered, 0.0)
        capacity = np.where(self._alive, setting.capacity_bps, 0.0)
        whole = offered.sum()
        trace.used[t] = served_bps / setting.capacity_bps
        trace.over[t] = np.maximum(offered - capacity, 0).sum() / whole
        trace.over_fresh[t] = np.maximum(offered - self._clung_bps - capacity, 0).sum() / whole
        self._served_bps = served_bps

    def _measure(self, t: int) -> None:
        setting, trace = self.setting, self.trace
        pop_used = self._served_bps / setting.capacity_bps
        pop_ms = links.delay_ms(pop_used)
        self._telemetry.second(
            t, self._served_bps, self._link_bps, pop_ms, self._alive, self._rtt_ms
        )
        if t % ACCOUNT_PERIOD_S == 0:
            counted = trace.histogram if t >= setting.options.timeline.warm_s else np.zeros(BINS)
            link_used = self._link_bps / setting.link_bps
            lost = np.where(self._alive, links.loss(pop_used), 1.0)
            latency_ms, far, wrong, improved, worsened = account(
                self._at, setting.cache_prefix, self._cache_bps, self._user_rtt_ms, self._rtt_ms,
                self._geo_rtt_ms, self._slower_ms, self._dearer_ms, self._link_at,
                pop_ms, links.delay_ms(link_used), lost, links.loss(link_used), counted,
            )  # fmt: skip
            best = self._ranked
            here = slice(t, t + ACCOUNT_PERIOD_S)
            trace.latency_ms[here], trace.far[here], trace.misrouted[here] = latency_ms, far, wrong
            trace.improved[here], trace.worsened[here] = improved, worsened
            trace.ranked[here] = misranked(
                self._at, self._group, self._cache_bps, best.pop, best.rtt_ms, best.share
            )

    def _steer(self, t: int) -> None:
        options = self.setting.options
        self.steering.observe(self._telemetry.signals(t), self._telemetry.bulk(t))
        if (state := self.steering.outlook(t)) is not None:
            self._states.append((t + options.state_delay_s, state))
        if (rows := self.steering.table(t)) is not None:
            self._tables.append((t + options.table_delay_s, rows))
