"""What a run was worth: latency, overload, movement, oscillation, recovery. Pure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.simulator.options import Timeline

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

LOST_MS = 3_000.0
"""What a user waits whose POP is dead or whose packets are dropped."""
BINS = 800
BINS_PER_E = 100.0
"""Histogram of latency: logarithmic, 1% wide."""
OVERLOADED = 0.002
"""Share of demand beyond capacity from which a second counts as overloaded."""
RECOVERED = 0.005
CALM_S = 60
"""Recovery: less than `RECOVERED` is beyond capacity, for so long."""
TREND_S = 300
"""Utilisation is detrended by its mean over so long; see `detrended`."""
MISROUTED_MS = 10.0
"""So much slower than what the optimum gives its group: a user is at the wrong POP."""
SAME_MS = 1.0
"""RTTs closer than this are equal in the comparison with geography."""


@dataclass(slots=True)
class Trace:
    """What was noted down of a run: p POPs, T seconds, m minutes, n prefixes."""

    used: NDArray[np.float32]
    """[T, p]"""
    over: F64
    """[T], share of demand beyond capacity, or at a dead POP."""
    over_fresh: F64
    """[T], the same without load that violators hold where no answer sends it any more."""
    moved: F64
    """[T], share of demand whose answer changed."""
    flips: F64
    """[T], mean share of answers that changed, over prefixes."""
    latency_ms: F64
    """[T], mean."""
    histogram: F64
    """[BINS], demand by latency."""
    misrouted: F64
    """[T], share of demand at POPs much slower and much dearer than the optimum's."""
    ranked: F64
    """[T], share of demand much slower than the optimum's, user by user in the order of RTT."""
    far: F64
    """[T], share of demand much farther than the mean that the optimum gives its group."""
    improved: F64
    worsened: F64
    """[T], share of demand whose RTT is shorter or longer than geography's."""
    cpu_s: float = 0.0
    """Processor time of the virtual time that counts."""
    steering_cpu_s: float = 0.0
    """The policy's part of it."""

    @classmethod
    def empty(cls, seconds: int, pops: int) -> "Trace":
        """Nothing noted yet."""
        return cls(
            used=np.zeros((seconds, pops), np.float32),
            over=np.zeros(seconds),
            over_fresh=np.zeros(seconds),
            moved=np.zeros(seconds),
            flips=np.zeros(seconds),
            latency_ms=np.zeros(seconds),
            histogram=np.zeros(BINS),
            misrouted=np.zeros(seconds),
            ranked=np.zeros(seconds),
            far=np.zeros(seconds),
            improved=np.zeros(seconds),
            worsened=np.zeros(seconds),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The figures of one run over the time that counts."""

    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    improved_share: float
    worsened_share: float
    overload_min: float
    overload_share: float
    overload_fresh_min: float
    """Minutes of overload that violators do not explain, after each event's time to recover."""
    moved_share_per_min: float
    necessary_share_per_min: float
    flips_per_prefix_h: float
    oscillation: float
    """Standard deviation of the detrended utilisation, mean over POPs."""
    oscillation_calm: float
    """The same in the quiet stretches between the events: what is left is sustained."""
    misrouted_share: float
    """Farther by `MISROUTED_MS` than the optimum's mean, and dearer than the best by as much."""
    misrouted_ranked_share: float
    """User by user in the order of RTT, slower than the optimum by more than `MISROUTED_MS`."""
    far_share: float
    """Farther than the optimum's mean for the group, at any price."""
    far_optimum_share: float
    """The same of the optimum itself, which splits groups."""
    recovery_step_s: float
    recovery_flash_s: float
    recovery_fail_s: float
    speed: float
    """Virtual over CPU time, policy included."""
    speed_world: float
    """The same without the policy."""

    def facts(self) -> dict[str, float]:
        """As plain numbers for a file."""
        return {name: round(float(value), 6) for name, value in asdict(self).items()}


@njit(cache=True)  # type: ignore[untyped-decorator]
def account(
    at: Ints,
    prefix: Ints,
    demand_bps: F64,
    user_rtt_ms: F64,
    rtt_ms: F64,
    geo_rtt_ms: F64,
    slower_ms: F64,
    dearer_ms: F64,
    link_at: Ints,
    pop_delay_ms: F64,
    link_delay_ms: F64,
    pop_loss: F64,
    link_loss: F64,
    histogram: F64,
) -> tuple[float, float, float, float, float]:
    """Look at the users of all caches at one moment; adds to `histogram`.

    Returns:
        Mean latency; share far from the optimum's mean; share at a dear POP on top; share
        improved and share worsened against geography.
    """
    whole = mean = far = wrong = improved = worsened = 0.0
    for c in range(len(at)):
        p, i, d = at[c], prefix[c], demand_bps[c]
        q = link_at[c]
        ms = user_rtt_ms[i, p] + pop_delay_ms[p] + link_delay_ms[q]
        lost = 1 - (1 - pop_loss[p]) * (1 - link_loss[q])
        ms = min(ms, LOST_MS)
        histogram[min(BINS - 1, int(BINS_PER_E * np.log(max(ms, 1.0))))] += d * (1 - lost)
        histogram[BINS - 1] += d * lost
        mean += d * (ms * (1 - lost) + LOST_MS * lost)
        whole += d
        if slower_ms[i, p] > MISROUTED_MS:
            far += d
            if dearer_ms[i, p] > MISROUTED_MS:
                wrong += d
        if rtt_ms[i, p] < geo_rtt_ms[i] - SAME_MS:
            improved += d
        elif rtt_ms[i, p] > geo_rtt_ms[i] + SAME_MS:
            worsened += d
    return (
        mean / whole,
        far / whole,
        wrong / whole,
        improved / whole,
        worsened / whole,
    )


@njit(cache=True)  # type: ignore[untyped-decorator]
def misranked(
    at: Ints,
    group: Ints,
    demand_bps: F64,
    pop: Ints,
    rtt_ms: F64,
    share: F64,
) -> float:
    """Share of demand at POPs slower by more than `MISROUTED_MS` than the optimum's.

    The prefixes of a group have the same paths, so who of them is where does not matter: its users
    are compared with those of the optimum in the order of RTT, the fastest with the fastest.

    Args:
        at: [c], where each cache's users are.
        group: [c], their group.
        demand_bps: [c]
        pop: [g, p], POPs in the order of RTT.
        rtt_ms: [g, p], in that order.
        share: [g, p], of the group's demand by the optimum, in that order.
    """
    g, p = pop.shape
    held = np.zeros((g, p))
    for c in range(len(at)):
        held[group[c], at[c]] += demand_bps[c]
    wrong = 0.0
    for i in range(g):
        whole = held[i].sum()
        best, room = 0, share[i, 0] * whole
        for k in range(p):
            left = held[i, pop[i, k]]
            while left > 0:
                while room <= 0 and best < p - 1:
                    best += 1
                    room = share[i, best] * whole
                part = min(left, room) if room > 0 else left
                if rtt_ms[i, k] > rtt_ms[i, best] + MISROUTED_MS:
                    wrong += part
                left -= part
                room -= part
    return float(wrong / demand_bps.sum())


def quantile_ms(histogram: F64, q: float) -> float:
    """Of the latency histogram; `LOST_MS` when that many are lost."""
    running = np.cumsum(histogram) / histogram.sum()
    return float(min(np.exp((np.searchsorted(running, q) + 0.5) / BINS_PER_E), LOST_MS))


def detrended(used: NDArray[np.float32], edges: Sequence[int] = ()) -> F64:
    """[T, p], utilisation less its running mean, which never reaches across an edge.

    Edges are the seconds in which the world itself steps: a POP dies or returns, foreign load
    comes or goes. A mean that reaches across smears such a step over five minutes, before it
    happens too, and one forced step would count as a swing; in a fleet of few POPs it would be
    most of the figure, for the optimum as well. What answers do after the step, a swing above all,
    counts in full.
    """
    parts = np.split(used.astype(np.float64), sorted(set(edges)))
    return np.concatenate([part - _running_mean(part) for part in parts if len(part)])


def _running_mean(used: F64) -> F64:
    length = min(TREND_S, len(used))
    before = length // 2
    padded = np.pad(used, ((before, length - before), (0, 0)), "edge")
    running = np.cumsum(padded, axis=0)
    mean: F64 = (running[length:] - running[:-length]) / length
    return mean


def recovery_s(over: F64, start_s: int, end_s: int) -> float:
    """From the start of an event to the first of `CALM_S` calm seconds; infinite if never.

    0 when nothing was ever overloaded, or the run ended before.
    """
    calm = over[start_s:end_s] < RECOVERED
    if not len(calm):
        return 0.0
    begins = np.flatnonzero(np.convolve(calm, np.ones(CALM_S), "valid") >= CALM_S)
    first_over = int(np.argmin(calm)) if not calm.all() else -1
    later = begins[begins > first_over]
    return 0.0 if first_over < 0 else float(later[0]) if len(later) else float("inf")


def calm_seconds(line: Timeline) -> Bools:
    """[T], seconds that are no part of an event or of the time right after one."""
    calm = np.ones(line.end_s, bool)
    calm[: line.warm_s] = False
    for start_s, end_s in _events(line):
        calm[start_s : end_s + TREND_S] = False
    return calm


def step_seconds(line: Timeline) -> list[int]:
    """When utilisation steps by itself; a flash crowd takes a minute and is no step."""
    return [line.step.start_s, line.step.end_s, line.fail.start_s, line.fail.end_s]


def _events(line: Timeline) -> list[tuple[int, int]]:
    spans = [(one.start_s, one.end_s) for one in (line.step, line.flash, line.fail, line.poison)]
    return [*spans, (line.path_s, line.path_s)]


def graced_seconds(line: Timeline, flash_s: int, fail_s: int) -> Bools:
    """[T], the time that loops may take to react to what begins or ends."""
    graced = np.zeros(line.end_s, bool)
    graced[: line.warm_s] = True
    for edge, grace_s in (
        (line.step.start_s, fail_s),
        (line.flash.start_s, flash_s),
        (line.path_s, fail_s),
        (line.fail.start_s, fail_s),
        (line.fail.end_s, fail_s),
    ):
        graced[edge : edge + grace_s] = True
    return graced


@dataclass(frozen=True, slots=True)
class Best:
    """What the optimum that knows the truth has, over the time that counts."""

    moved_per_min: float
    """Share of demand that had to move."""
    far: float
    """Share of demand much farther than the mean of its group."""


def score(trace: Trace, line: Timeline, best: Best, grace_s: tuple[int, int]) -> Score:
    """The figures, beside those that were possible."""
    counts = slice(line.warm_s, line.end_s)
    minutes = (line.end_s - line.warm_s) / 60
    rest = detrended(trace.used, step_seconds(line))
    calm = calm_seconds(line)
    graced = graced_seconds(line, *grace_s)
    fresh = (trace.over_fresh > OVERLOADED) & ~graced
    return Score(
        mean_ms=float(trace.latency_ms[counts].mean()),
        p50_ms=quantile_ms(trace.histogram, 0.5),
        p95_ms=quantile_ms(trace.histogram, 0.95),
        p99_ms=quantile_ms(trace.histogram, 0.99),
        improved_share=float(trace.improved[counts].mean()),
        worsened_share=float(trace.worsened[counts].mean()),
        overload_min=float((trace.over[counts] > OVERLOADED).sum()) / 60,
        overload_share=float(trace.over[counts].mean()),
        overload_fresh_min=float(fresh.sum()) / 60,
        moved_share_per_min=float(trace.moved[counts].sum()) / minutes,
        necessary_share_per_min=best.moved_per_min,
        flips_per_prefix_h=float(trace.flips[counts].sum()) / minutes * 60,
        oscillation=float(rest[counts].std(axis=0).mean()),
        oscillation_calm=float(rest[calm].std(axis=0).mean()) if calm.any() else 0.0,
        misrouted_share=float(trace.misrouted[counts].mean()),
        misrouted_ranked_share=float(trace.ranked[counts].mean()),
        far_share=float(trace.far[counts].mean()),
        far_optimum_share=best.far,
        recovery_step_s=recovery_s(trace.over_fresh, line.step.start_s, line.step.end_s),
        recovery_flash_s=recovery_s(trace.over_fresh, line.flash.start_s, line.flash.end_s),
        recovery_fail_s=recovery_s(trace.over_fresh, line.fail.start_s, line.fail.end_s),
        speed=60 * minutes / max(trace.cpu_s, 1e-9),
        speed_world=60 * minutes / max(trace.cpu_s - trace.steering_cpu_s, 1e-9),
    )
