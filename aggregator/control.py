"""The one arbiter of the nested loops: health, load and latency, with `now` passed in.

An inner loop may only skip a POP or shed; an outer loop reads the inner one's state. What makes
that stable is one distinction, kept everywhere: the load of a POP is what DNS answers brought
there (explained) plus the rest (the offset: foreign load, stale caches, errors of the estimate).
Answers can be steered, the offset cannot. So

- the load loop sheds just so much of the steerable load that the POP comes down to its aim, with
  the share that is already displaced but still on its way (a cache keeps its answer for the TTL)
  counted as done, a dead band, and a slow release after a dwell time;
- the latency loop plans with the capacity that the offset leaves; where its table takes away what
  a POP sheds, it takes the shed over, and what the table has under way is not shed again.

Never both on the same error: the table answers the offset, which a shed does not change.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aggregator.fleet import Fleet
from aggregator.flight import Flight, InFlight, Kernel
from aggregator.load import Load
from aggregator.signals import SMOOTHING_S, Signals
from popsteer.clock import SECOND_MS
from popsteer.samples import Signal

SILENT_S = 8.0
"""A POP whose signals lag this far behind the newest of all is taken for down."""
UP_DWELL_S = 3.0
"""A POP is up again when it has said so for this long."""
PANIC_SHARE = 0.5
"""When more than this share of POPs looks down at once, the monitor is doubted: all stay in."""

SHED_START = 0.65
SHED_AIM = 0.45
"""Where shedding starts and what it aims at: how far from the target utilisation to the whole
capacity. The table fills to the target, so that its noise alone never sheds."""
SHED_GAIN = 0.7
SHED_BAND = 0.02
SHED_MAX = 0.9
RELEASE_GAIN = 0.25
RELEASE_STEP_MAX = 0.1
DWELL_S = 30.0
"""A shed is not released sooner than this after it last rose: one TTL and one load window."""
SHARE_REFRESHED = 0.8
"""Caches ask anew after their TTL, some earlier than others: time constant over TTL."""

STEP_UP, STEP_DOWN = 0.05, 0.01
"""Additive steps of FastRoute (Flavel et al., NSDI 2015, section 4), each load period."""

OFFSET_S, OFFSET_RISING_S, OFFSET_URGENT_S = 40.0, 20.0, 8.0
"""Time constants of the observer: in the calm, when the offset rises, since an overload costs more
than spare room, and where a POP is so full that it may shed."""
SMOOTHED_MS = int(SMOOTHING_S * SECOND_MS)
"""Signals are smoothed, so they speak of a time so long ago."""
OFFSET_MIN, OFFSET_MAX = -0.3, 1.0
"""Of the capacity."""
FILL_BAND = 0.06
"""Of the capacity: so far above its fill a POP evicts nobody; it still sheds nothing there."""
EVICT_TO = 0.5
"""Of that band: a POP above it gets rid of no more than brings it here."""
CAPACITY_LEFT_MIN = 0.02
"""Share of its capacity that a POP is planned with at least."""

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Health:
    """Which POPs are up, by their signals. A POP that never had a signal is up."""

    def __init__(self, pops: Sequence[str]) -> None:
        self._pops = tuple(pops)
        self._bad_ms = np.full(len(pops), -(10**15), np.int64)
        """When each last looked down."""
        self.up = np.ones(len(pops), bool)
        self.reason = [""] * len(pops)
        self.panic = False
        """More POPs look down than is believed."""

    def step(self, signals: Signals, now_ms: int) -> bool:
        """Judge all POPs again; whether anyone's state changed."""
        words = self._words(signals)
        bad = np.zeros(len(self._pops), bool)
        bad[list(words)] = True
        self._bad_ms[bad] = now_ms
        held = ~bad & ~self.up & (now_ms - self._bad_ms < UP_DWELL_S * SECOND_MS)
        down = bad | held
        self.panic = bool(down.sum() > PANIC_SHARE * len(self._pops))
        if self.panic:
            down[:] = False
        self.reason = [""] * len(self._pops)
        for p in np.flatnonzero(held).tolist():
            self.reason[p] = "up again, waiting a moment"
        for p, word in words.items():
            doubted = f"looks down ({word}), as too many do at once: not believed"
            self.reason[p] = doubted if self.panic else word
        changed = bool((self.up != ~down).any())
        self.up = ~down
        return changed

    def _words(self, signals: Signals) -> dict[int, str]:
        """Why POPs look down, by their number; those that look up are not in it."""
        heard_ms = signals.heard_ms(self._pops)
        # Silence is measured against the newest signal of anyone, so that a stalled stream
        # silences nobody.
        silent_s = np.where(heard_ms > 0, signals.newest_ms - heard_ms, 0) / SECOND_MS
        silent = np.flatnonzero(silent_s > SILENT_S).tolist()
        words = {p: f"no signal for {silent_s[p]:.0f} s" for p in silent}
        down = np.flatnonzero(signals.of(self._pops, Signal.UP).value < 0.5).tolist()
        return words | dict.fromkeys(down, "its signal says down")


class LoadLoop:
    """Shed fractions and offsets of p POPs; one step every load period.

    With `additive`, POPs shed as in FastRoute: by constant steps on their own load alone.
    """

    def __init__(self, fleet: Fleet, target: float, additive: bool = False) -> None:
        n = len(fleet.pops)
        self._ttl_s = fleet.ttl_s
        self._target, self._additive = target, additive
        self._start = target + SHED_START * (1 - target)
        self._aim = target + SHED_AIM * (1 - target)
        self._effect = np.zeros(n)
        """Share of each POP's answers in the caches that is displaced by now."""
        self._settled_bps = np.full(n, np.nan)
        """Load that the tables bring by now, were nothing shed; it lags by the TTL."""
        self._raised_ms = np.full(n, -(10**15), np.int64)
        self._last_ms = 0
        self._flight = Flight(Kernel(fleet.ttl_s))
        self.shed = np.zeros(n)
        self.offset_bps = np.zeros(n)
        """Load that answers do not explain."""
        self.shedding_since_ms = np.zeros(n, np.int64)
        """0 while it does not shed."""

    def resume(self, shed: F64) -> None:
        """Go on from the sheds in force, as after a restart; their effect is taken as reached."""
        self.shed, self._effect = shed.copy(), shed.copy()

    def step(self, load: Load, answered: InFlight, planned_bps: F64, now_ms: int) -> None:
        """Move sheds and offsets.

        Args:
            load: What was measured.
            answered: What reported answers had brought.
            planned_bps: [p], load that the table in force should bring.
            now_ms: Now; steps may come late.
        """
        passed_s = min(max((now_ms - self._last_ms) / SECOND_MS, 0.0), 60.0) if self._last_ms else 0
        self._last_ms = now_ms
        lag_s = max(SHARE_REFRESHED * self._ttl_s, 1.0)
        reached = -np.expm1(-passed_s / lag_s)
        self._effect += (self.shed - self._effect) * reached
        self._flight.tell(np.nan_to_num(planned_bps) * (1 - self.shed), now_ms)
        brought_bps = self._brought(load.at_ms or now_ms, answered)
        self._observe(load, brought_bps, passed_s)
        known = np.isfinite(load.load_bps) & np.isfinite(load.capacity_bps)
        capacity = np.where(known, load.capacity_bps, 1.0)
        used = np.where(known, load.load_bps, 0.0)
        explained_bps = np.minimum(brought_bps, used)
        settled = np.where(np.isnan(self._settled_bps), explained_bps, self._settled_bps)
        self._settled_bps = settled + (np.nan_to_num(planned_bps) - settled) * reached
        if self._additive:
            self._step_by_step(known, used / capacity, now_ms)
            return
        foreign = np.maximum(used - explained_bps, 0.0)
        seen = np.minimum(explained_bps, used) / np.maximum(1 - self._effect, 1 - SHED_MAX)
        over = known & (used > self._start * capacity)
        raised = self._wanted(known, over, foreign, seen * self._relieved(planned_bps), capacity)
        # What others shed onto a POP is theirs to take back: it may raise a shed, when the POP is
        # too full now, but it never holds one up. Else POPs would shed onto each other for ever.
        own = np.minimum(seen, self._settled_bps)
        held = self._wanted(known, self.shed > 0, foreign, own, capacity)
        self._shed(np.where(over, raised, 0.0), held, now_ms)

    def _relieved(self, planned_bps: F64) -> F64:
        """[p], the part of what answers bring that is left by the tables under way."""
        planned, settled = np.nan_to_num(planned_bps), self._settled_bps
        left = np.divide(planned, settled, out=np.ones(len(settled)), where=settled > planned)
        return np.asarray(left)

    def hand_over(self, before_bps: F64, after_bps: F64) -> None:
        """A new table that takes from a POP what it sheds takes the shed's place, at once.

        The answers to come bring the POP what they brought, no more and no less than the table
        says: shed on top of that, it would be emptied twice and its users sent back a minute later.

        Args:
            before_bps: [p], what the table in force brings at today's demand.
            after_bps: [p], what the new one brings.
        """
        brought = (1 - self.shed) * before_bps
        kept = np.divide(brought, after_bps, out=np.ones(len(brought)), where=after_bps > 0)
        shed = np.clip(1 - kept, 0.0, self.shed)
        self._put(np.where(shed < SHED_BAND, 0.0, shed), self._last_ms)

    def _brought(self, measured_ms: int, answered: InFlight) -> F64:
        """[p], what answers brought when the load was measured.

        That is what they had brought when they were last reported, and what the tables and sheds
        since then were to change. Growth of demand is in neither: it is news.
        """
        at_ms = measured_ms - SMOOTHED_MS
        brought = self._flight.load_bps(at_ms)
        if not answered.at_ms or answered.trust <= 0:
            return brought
        then = self._flight.load_bps(answered.at_ms)
        return np.maximum(brought + answered.trust * (answered.load_bps - then), 0.0)

    def _observe(self, load: Load, brought_bps: F64, passed_s: float) -> None:
        """Compare the measurement with the model of its time.

        What is still under way is in neither, so nothing is corrected twice. Where nothing is
        measured nothing is learnt and nothing forgotten: who falls silent keeps its foreign load.
        The offset is bounded: it cannot wind up.
        """
        known = np.isfinite(load.load_bps) & np.isfinite(load.capacity_bps)
        capacity, used = load.capacity_bps[known], load.load_bps[known]
        offset_bps, rest = self.offset_bps[known], used - brought_bps[known]
        urgent = used > self._start * capacity
        calm_s = np.where(rest > offset_bps, OFFSET_RISING_S, OFFSET_S)
        gain = -np.expm1(-passed_s / np.where(urgent, OFFSET_URGENT_S, calm_s))
        moved = offset_bps + gain * (rest - offset_bps)
        self.offset_bps = self.offset_bps.copy()
        self.offset_bps[known] = np.clip(moved, OFFSET_MIN * capacity, OFFSET_MAX * capacity)

    def _wanted(
        self, known: Bools, asked: Bools, foreign: F64, steerable: F64, capacity: F64
    ) -> F64:
        """The shed that would bring each POP asked for to its aim, were nothing under way."""
        whole = foreign + steerable
        aim = self._aim * capacity
        excess = np.where(known & asked, np.maximum(whole - aim, 0.0), 0.0)
        excess *= _spare_share(excess, np.where(known, aim - whole, np.inf))
        wanted = np.divide(excess, steerable, out=np.zeros_like(excess), where=steerable > 0)
        return np.clip(wanted, 0.0, SHED_MAX)

    def _shed(self, raised: F64, held: F64, now_ms: int) -> None:
        """Rise most of the way at once; fall slowly, and only after a rest."""
        up = raised > self.shed + SHED_BAND
        rested = now_ms - self._raised_ms >= DWELL_S * SECOND_MS
        down = ~up & rested & ((held < self.shed - SHED_BAND) | (held == 0))
        step = SHED_GAIN * np.where(up, raised - self.shed, 0.0)
        fall = np.maximum(RELEASE_GAIN * (held - self.shed), -RELEASE_STEP_MAX)
        shed = self.shed + step + np.where(down, fall, 0.0)
        shed[(shed < SHED_BAND) & ~up] = 0.0
        self._raised_ms[up] = now_ms
        self._put(shed, now_ms)

    def _step_by_step(self, known: Bools, used: F64, now_ms: int) -> None:
        step = np.where(used > self._start, STEP_UP, np.where(used < self._target, -STEP_DOWN, 0.0))
        self._put(np.clip(self.shed + np.where(known, step, 0.0), 0.0, SHED_MAX), now_ms)

    def _put(self, shed: F64, now_ms: int) -> None:
        since = np.where(self.shedding_since_ms > 0, self.shedding_since_ms, now_ms)
        self.shedding_since_ms = np.where(shed > 0, since, 0)
        self.shed = shed

    def plan_capacity_bps(self, capacity_bps: F64, placed_bps: F64) -> F64:
        """[p], what the table may fill: the target less what it cannot steer.

        A POP that is fuller than that by no more than the dead band keeps what it has: demand
        and offset are noisy, and evicting a prefix to take it back a minute later helps nobody.
        A fuller one evicts no more than it must to be back in the middle of the band. One that is
        fuller by two bands, or sheds, is relieved of all: it would shed for ever.

        Args:
            capacity_bps: [p], as measured.
            placed_bps: [p], what the table in force brings at today's demand; zero without one.
        """
        finite = np.isfinite(capacity_bps)
        whole = np.where(finite, capacity_bps, 0.0)
        left = self._target * whole - self.offset_bps
        if self._last_ms:
            left = np.minimum(left, self._left_ahead(whole))
        left = np.maximum(left, CAPACITY_LEFT_MIN * whole)
        band = FILL_BAND * whole
        edge = left + band
        calm = (placed_bps > left) & (placed_bps <= edge + band) & (self.shed == 0)
        held = np.where(placed_bps <= edge, placed_bps, left + EVICT_TO * band)
        return np.where(finite, np.where(calm, held, left), np.inf)

    def _left_ahead(self, whole: F64) -> F64:
        """[p], what the table may add to what caches still hold when it shows, without a shed."""
        kernel = self._flight.kernel
        held_bps = self._flight.load_bps(self._last_ms, kernel.horizon_s)
        held_share = float(kernel.kept(np.array(kernel.horizon_s)))
        room: F64 = self._start * whole - self.offset_bps - held_bps
        return room / (1 - held_share)


def _spare_share(excess: F64, spare: F64) -> float:
    """How much of the excess there is room for elsewhere: shedding onto full POPs helps nobody."""
    room = float(np.maximum(spare, 0.0).sum())
    total = float(excess.sum())
    return min(1.0, room / total) if total > 0 else 1.0


class Arbiter:
    """When the latency loop runs: each period, and at once when an inner loop asks for it."""

    def __init__(self, latency_period_s: float, load_period_s: float) -> None:
        self._period_ms = latency_period_s * SECOND_MS
        self._shed_patience_ms = load_period_s * SECOND_MS
        self._last_ms = 0
        self._last_shed_ms = 0
        self._usable: bytes = b""

    def due(self, usable: bytes, shedding_since_ms: NDArray[np.int64], now_ms: int) -> str:
        """Why to plan now; empty when not.

        `usable` stands for everything that must take effect at once: who is up, and orders.
        """
        if not self._last_ms:
            return "first"
        if usable != self._usable:
            return "a POP or an order changed"
        if now_ms - self._last_ms >= self._period_ms:
            return "period"
        since = shedding_since_ms[shedding_since_ms > 0]
        long = len(since) and now_ms - int(since.min()) >= self._shed_patience_ms
        # Once in half a period at most: the effect of the last table must show first.
        if long and now_ms - max(self._last_shed_ms, self._last_ms) >= self._period_ms / 2:
            return "a POP sheds for long"
        return ""

    def planned(self, usable: bytes, reason: str, now_ms: int) -> None:
        """Note that a plan was made."""
        self._last_ms, self._usable = now_ms, usable
        if "sheds" in reason:
            self._last_shed_ms = now_ms
