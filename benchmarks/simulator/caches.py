"""Resolver caches: who holds which answer, until when, and the load this brings. Compiled.

`spread` is the rule of `resolver.route.decide` for whole tables: not one draw, but the share of
draws that each candidate gets. Both must say the same; a test compares them.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RANKS = 8
NO_POP = -1


@njit(cache=True)  # type: ignore[untyped-decorator]
def spread(pop: Ints, share: F64, able: Bools, shed: F64, default: Ints) -> tuple[Ints, F64]:
    """What a table, the POPs' health and their sheds answer together.

    Args:
        pop: [n, 8], ranked POPs of each row; NO_POP where there are fewer.
        share: [n, 8], adding up to 1.
        able: [p], POPs that are up and not drained.
        shed: [p], share of a POP's answers that go on to the next candidate.
        default: POPs in the order for rows in which nobody is able.

    Returns:
        POPs [n, 8] and the share of answers that each of them gets, [n, 8].
    """
    n = pop.shape[0]
    out_pop, out = pop.copy(), np.zeros((n, RANKS))
    for i in range(n):
        known = 0
        while known < RANKS and pop[i, known] != NO_POP:
            known += 1
        able_here = False
        for k in range(known):
            able_here |= able[pop[i, k]]
        if not able_here:
            _fall_back(out_pop[i], out[i], able, shed, default)
            continue
        for start in range(known):
            if share[i, start] <= 0:
                continue
            left, first = share[i, start], -1
            for step in range(known):
                k = (start + step) % known
                if not able[pop[i, k]]:
                    continue
                if first < 0:
                    first = k
                out[i, k] += left * (1 - shed[pop[i, k]])
                left *= shed[pop[i, k]]
            # Where all shed, shedding would only move the load in a circle.
            out[i, first] += left
    return out_pop, out


@njit(cache=True)  # type: ignore[untyped-decorator]
def _fall_back(pop: Ints, share: F64, able: Bools, shed: F64, default: Ints) -> None:
    """The default order; if nobody is able there either, the best ranked of the row stays."""
    kept = pop[0]
    left, rank = 1.0, 0
    for p in default:
        if able[p] and rank < RANKS:
            pop[rank] = p
            share[rank] = left * (1 - shed[p])
            left *= shed[p]
            rank += 1
    for k in range(rank, RANKS):
        pop[k] = NO_POP
    if rank == 0:
        pop[0] = kept
    share[0] += left


@njit(cache=True)  # type: ignore[untyped-decorator]
def refresh(
    t_s: float,
    next_s: F64,
    ttl_s: F64,
    prefix: Ints,
    pop: Ints,
    share: F64,
    draw: F64,
    at: Ints,
    asked_s: F64,
) -> Ints:
    """Caches whose answer is due ask again; gives which.

    Changes `next_s`, when each asks next, `at`, the POP that each holds, and `asked_s`.
    """
    asked = np.empty(len(at), np.int64)
    count = 0
    for c in range(len(at)):
        if t_s < next_s[c]:
            continue
        asked[count] = c
        count += 1
        asked_s[c] = t_s
        next_s[c] = max(next_s[c] + ttl_s[c], t_s + 1.0)
        i, left, chosen = prefix[c], draw[c], 0
        for k in range(RANKS):
            if share[i, k] > 0:
                chosen = k
                left -= share[i, k]
                if left < 0:
                    break
        at[c] = pop[i, chosen]
    return asked[:count]


@njit(cache=True)  # type: ignore[untyped-decorator]
def loads(
    at: Ints,
    prefix: Ints,
    demand_bps: F64,
    link_at: Ints,
    stale_before_s: float,
    asked_s: F64,
    keeps_ttl: Bools,
    pop: Ints,
    share: F64,
    pop_bps: F64,
    link_bps: F64,
    clung_bps: F64,
) -> None:
    """Sum the load of POPs and links.

    `demand_bps` is [c], and so is `link_at`, the link through which each cache's users reach
    their POP. `clung_bps` gets what is where no answer of today would send it: the load of caches
    that do not keep the TTL and asked before `stale_before_s`, less the share that they would be
    given there again.
    """
    pop_bps[:] = 0.0
    link_bps[:] = 0.0
    clung_bps[:] = 0.0
    for c in range(len(at)):
        p, i = at[c], prefix[c]
        pop_bps[p] += demand_bps[c]
        link_bps[link_at[c]] += demand_bps[c]
        if asked_s[c] < stale_before_s and not keeps_ttl[c]:
            again = 0.0
            for k in range(RANKS):
                if pop[i, k] == p:
                    again += share[i, k]
            clung_bps[p] += demand_bps[c] * (1 - min(again, 1.0))


@njit(cache=True)  # type: ignore[untyped-decorator]
def moved_share(old_pop: Ints, old_share: F64, pop: Ints, share: F64) -> F64:
    """[n], the share of each row's answers that name another POP than before."""
    n = pop.shape[0]
    moved = np.zeros(n)
    for i in range(n):
        kept = 0.0
        for k in range(RANKS):
            if share[i, k] <= 0:
                continue
            before = 0.0
            for j in range(RANKS):
                if old_pop[i, j] == pop[i, k]:
                    before += old_share[i, j]
            kept += min(before, share[i, k])
        moved[i] = max(0.0, 1.0 - kept)
    return moved
