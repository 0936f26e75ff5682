"""What if, against the DNS node's own rule asked client by client, and against plain sums.

Random small worlds: one or two services of some of the POPs, POPs that are down or drained already,
rows with few ranks, pairs that nobody measured.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.compare import answers
from aggregator.failover import ladder_of
from aggregator.services import ServiceSet
from aggregator.survival import Placed, n_plus_one
from aggregator.terms import even
from aggregator.whatif import Change, Exits, Placement, Situation, situation, whatif
from popsteer.evidence import Evidence
from popsteer.names import Prefix, prefix_arrays
from popsteer.table import NO_POP, Further, Ranked, Table, TableMeta, build
from resolver.route import DRAW_BITS, Fleet, Outlook, Steered, decide

NAMES = ("www.", "video.")
POLICIES = ("nearest", "optimum", "greedy", "failover")
PART_BITS = 16
STEPS = 5
"""Shares are so many parts of the whole, and a draw stands for each."""


@dataclass(frozen=True)
class World:
    """All that a test draws."""

    pops: tuple[str, ...]
    prefixes: list[Prefix]
    table: Table
    sets: tuple[ServiceSet, ...]
    demand_bps: list[list[float]]
    rtt_us: list[dict[tuple[int, str], float]]
    """By set; of (prefix, POP)."""
    base: Situation


@st.composite
def worlds(draw: st.DrawFn) -> World:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    p, n, s = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 2))
    pops = tuple(f"p{i}" for i in range(p))
    prefixes = [Prefix.parse(f"10.0.{i}.0/24") for i in range(n)]
    serves = [np.ones(p, bool) if rng.random() < 0.4 else rng.random(p) < 0.6 for _ in range(s)]
    for one in serves:
        one[rng.integers(p)] = True
    ranked = [ranked_rows(rng, n, np.flatnonzero(one)) for one in serves]
    default = [tuple(pops[i] for i in rng.permutation(np.flatnonzero(one))) for one in serves]
    further = tuple(Further(services=(NAMES[i],), default=default[i]) for i in range(1, s))
    meta = TableMeta(generation=1, default=default[0], further=further)
    first = ranked[0]
    net, plen = prefix_arrays(prefixes)
    table = build(meta, pops, net, plen, first.pop, first.share, first.rtt, ranked[1:])
    demand = [[float(x) for x in rng.integers(1, 100, n)] for _ in range(s)]
    rtt = [
        {(i, pops[q]): measured(rng) for i in range(n) for q in np.flatnonzero(one)}
        for one in serves
    ]
    sets = tuple(
        ServiceSet((NAMES[i],), draw(st.sampled_from(POLICIES)), serves[i], even(p), 1 / s)
        for i in range(s)
    )
    up, drained = rng.random(p) < 0.8, rng.random(p) < 0.25
    base = situation(
        sets,
        list(table.sets),
        [evidence(pops, prefixes, *both) for both in zip(demand, rtt, strict=True)],
        up,
        drained,
        rng.integers(20, 400, p).astype(float),
        1.0,
        0.0,
    )
    return World(pops, prefixes, table, sets, demand, rtt, base)


def measured(rng: np.random.Generator) -> float:
    return float(np.nan if rng.random() < 0.15 else rng.integers(1, 200) * 1e3)


def ranked_rows(rng: np.random.Generator, n: int, able: np.ndarray) -> Ranked:
    pop, share = np.full((n, 8), NO_POP, np.uint16), np.zeros((n, 8), np.uint8)
    for row in range(n):
        ranks = int(rng.integers(1, len(able) + 1))
        pop[row, :ranks] = rng.permutation(able)[:ranks]
        cuts = np.sort(rng.integers(0, STEPS + 1, ranks - 1)) * (255 // STEPS)
        share[row, :ranks] = np.diff([0, *cuts, 255])
    return Ranked(pop, share, np.zeros((n, 8), np.uint16))


def evidence(
    pops: tuple[str, ...],
    prefixes: list[Prefix],
    demand: list[float],
    rtt_us: dict[tuple[int, str], float],
) -> Evidence:
    rows = sorted(
        rtt_us, key=lambda pair: (pair[0], float(np.nan_to_num(rtt_us[pair], nan=np.inf)))
    )
    net, plen = prefix_arrays(prefixes[i] for i, _ in rows)
    zero = np.zeros(len(rows), np.float32)
    return Evidence(
        1,
        0,
        pops,
        net,
        plen,
        np.array([demand[i] for i, _ in rows], np.float32),
        np.array([pops.index(pop) for _, pop in rows], np.uint16),
        np.array([rtt_us[pair] for pair in rows], np.float32),
        zero,
        zero,
        zero,
        zero,
        zero,
        zero.astype(np.uint8),
        zero.astype(np.uint8),
    )


def served(world: World, gone: frozenset[str] = frozenset()) -> list[list[defaultdict[str, float]]]:
    """By service and prefix, the share of clients that each POP gets."""
    base = world.base
    down = {pop for pop, up in zip(world.pops, base.up.tolist(), strict=True) if not up} | gone
    outlook = Outlook(
        down=frozenset(down),
        drained=frozenset(p for p, d in zip(world.pops, base.drained.tolist(), strict=True) if d),
    )
    fleet = Fleet({pop: (pop.encode(),) for pop in world.pops}, {})
    found = []
    for one in world.sets:
        able = tuple(pop for pop, ok in zip(world.pops, one.serves.tolist(), strict=True) if ok)
        service = Steered(one.services[0], 20, able)
        shares = [defaultdict[str, float](float) for _ in world.prefixes]
        for prefix, share in zip(world.prefixes, shares, strict=True):
            for step in range(STEPS):
                draw = (2 * step + 1) * (1 << PART_BITS) // (2 * STEPS)
                pop = decide(service, prefix, False, world.table, outlook, fleet, draw).pop
                if pop is not None and pop not in down:
                    share[pop] += 1 / STEPS
        found.append(shares)
    return found


def check_placed(
    world: World, placed: Placement, want: list[list[defaultdict[str, float]]]
) -> None:
    """Load, overload and who is served, by plain sums."""
    p = len(world.pops)
    load, unserved, whole = [0.0] * p, 0.0, 0.0
    for shares, demand in zip(want, world.demand_bps, strict=True):
        for share, bps in zip(shares, demand, strict=True):
            whole += bps
            unserved += bps * (not share)
            for pop, part in share.items():
                load[world.pops.index(pop)] += part * bps
    over = sum(max(x - c, 0.0) for x, c in zip(load, world.base.capacity_bps.tolist(), strict=True))
    assert placed.load_bps == pytest.approx(load, abs=1e-6)
    assert placed.unserved_share == pytest.approx(unserved / whole, abs=1e-9)
    assert placed.overload_share == pytest.approx((over + unserved) / whole, abs=1e-9)


def moves(
    world: World,
    before: list[list[defaultdict[str, float]]],
    after: list[list[defaultdict[str, float]]],
) -> dict[tuple[str, str], tuple[float, float | None]]:
    """Bits/s and mean added RTT by (from, to): what a prefix loses goes in proportion."""
    flow: dict[tuple[str, str], float] = defaultdict(float)
    known: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for number, demand in enumerate(world.demand_bps):
        for i, bps in enumerate(demand):
            was, now = before[number][i], after[number][i]
            change = {pop: now.get(pop, 0.0) - was.get(pop, 0.0) for pop in {*was, *now}}
            lost = {pop: -part for pop, part in change.items() if part < -1e-9}
            won = {pop: part for pop, part in change.items() if part > 1e-9}
            for source, out in lost.items():
                for target, into in won.items():
                    part = bps * out * into / sum(won.values())
                    flow[source, target] += part
                    rtt = world.rtt_us[number]
                    added = rtt[i, target] - rtt[i, source]
                    if not np.isnan(added):
                        known[source, target].append((part, added))
    return {
        pair: (
            bps,
            sum(part * us for part, us in known[pair]) / sum(part for part, _ in known[pair])
            if known[pair]
            else None,
        )
        for pair, bps in flow.items()
    }


@settings(max_examples=80)
@given(world=worlds(), data=st.data())
def test_at_once_is_what_dns_nodes_do(world: World, data: st.DataObject) -> None:
    gone = frozenset(data.draw(st.sets(st.sampled_from(world.pops), max_size=2)))

    account = whatif(world.base, Change(down=gone))

    before, after = served(world), served(world, gone)
    check_placed(world, account.now, before)
    check_placed(world, account.at_once, after)
    flows, want = account.moved_at_once, moves(world, before, after)
    got = {
        (world.pops[s], world.pops[t]): (bps, None if np.isnan(us) else us)
        for s, t, bps, us in zip(
            flows.source.tolist(),
            flows.target.tolist(),
            flows.bps.tolist(),
            flows.added_us.tolist(),
            strict=True,
        )
    }
    assert got.keys() == want.keys()
    for pair, (bps, added_us) in want.items():
        assert got[pair][0] == pytest.approx(bps)
        assert got[pair][1] == (None if added_us is None else pytest.approx(added_us, abs=1))


@settings(max_examples=60)
@given(world=worlds(), data=st.data())
def test_links_carry_what_their_prefixes_bring(world: World, data: st.DataObject) -> None:
    p, n = len(world.pops), len(world.prefixes)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    # Two links a POP, one of them for each prefix; some routes are unknown.
    by = rng.integers(-1, 2, (n, p))
    room = rng.integers(5, 150, 2 * p).astype(float)

    def through(line: np.ndarray, pop: np.ndarray) -> np.ndarray:
        own = by[line[:, None] % n, pop]
        return np.where((pop < 0) | (own < 0), -1, 2 * pop + own)

    names = tuple(f"{pop}/{link}" for pop in world.pops for link in "ab")
    exits = Exits(names, np.repeat(np.arange(p), 2), room, through)
    gone = frozenset(data.draw(st.sets(st.sampled_from(world.pops), max_size=2)))

    account = whatif(replace(world.base, exits=exits), Change(down=gone))

    link, load, unserved, whole = [0.0] * (2 * p), [0.0] * p, 0.0, 0.0
    for shares, demand in zip(served(world, gone), world.demand_bps, strict=True):
        for i, (share, bps) in enumerate(zip(shares, demand, strict=True)):
            whole += bps
            unserved += bps * (not share)
            for pop, part in share.items():
                q = world.pops.index(pop)
                load[q] += part * bps
                if by[i, q] >= 0:
                    link[2 * q + by[i, q]] += part * bps
    over = unserved
    for q in range(p):
        above = [max(link[2 * q + k] - room[2 * q + k], 0.0) for k in range(2)]
        over += max(load[q] - world.base.capacity_bps[q], sum(above), 0.0)
    assert account.at_once.link_bps == pytest.approx(link, abs=1e-6)
    assert account.at_once.overload_share == pytest.approx(over / whole, abs=1e-9)


@settings(max_examples=40)
@given(world=worlds())
def test_n_plus_one_is_what_dns_nodes_do(world: World) -> None:
    base = world.base
    losses = n_plus_one(base.parts(base.said), base.capacity_bps, base.up, base.drained)

    for lost, pop in enumerate(world.pops):
        load, unserved, whole = defaultdict[str, float](float), 0.0, 0.0
        now, then = served(world), served(world, frozenset({pop}))
        for number, demand in enumerate(world.demand_bps):
            for i, bps in enumerate(demand):
                whole += bps
                unserved += bps * (bool(now[number][i]) and not then[number][i])
                for name, part in then[number][i].items():
                    load[name] += part * bps
        over = sum(max(load[q] - base.capacity_bps[i], 0.0) for i, q in enumerate(world.pops))
        assert losses.overload_bps[lost] == pytest.approx(over + unserved, abs=1e-6)


@settings(max_examples=80)
@given(world=worlds(), data=st.data())
def test_the_new_plan_asks_nobody_who_is_away(world: World, data: st.DataObject) -> None:
    gone = frozenset(data.draw(st.sets(st.sampled_from(world.pops), max_size=2)))

    account = whatif(world.base, Change(down=gone))

    base, begin = world.base, 0
    up = base.up & np.array([pop not in gone for pop in world.pops])
    said, whole = account.replanned.said, float(base.demand_bps.sum())
    unserved = 0.0
    for number, (one, end) in enumerate(zip(base.sets, base.ends, strict=True)):
        able = one.serves & up & ~base.drained
        able = able if able.any() else one.serves & up
        rtt = world.rtt_us[number]
        for i, row in enumerate(range(begin, end)):
            share = {
                world.pops[pop]: part
                for pop, part in zip(said.pop[row].tolist(), said.share[row].tolist(), strict=True)
                if part > 0
            }
            assert all(able[world.pops.index(pop)] for pop in share)
            assert sum(share.values()) == pytest.approx(float(able.any()))
            unserved += base.demand_bps[row] * (not able.any())
            known = {pop: rtt[i, pop] for q, pop in enumerate(world.pops) if able[q]}
            known = {pop: us for pop, us in known.items() if not np.isnan(us)}
            if one.policy == "nearest" and known:
                assert known[max(share, key=lambda pop: share[pop])] == min(known.values())
        begin = end
    assert account.replanned.unserved_share == pytest.approx(unserved / whole)


def test_the_judge_draws_as_dns_nodes_do() -> None:
    assert DRAW_BITS >= 2 * PART_BITS


def test_a_service_of_one_pop_is_lost_with_it() -> None:
    pops, serves = ("a", "b"), np.array([True, False])
    prefixes = [Prefix.parse("10.0.0.0/24")]
    net, plen = prefix_arrays(prefixes)
    row = ranked_rows(np.random.default_rng(1), 1, np.array([0]))
    table = build(TableMeta(generation=1, default=("a",)), pops, net, plen, *fields_of(row))
    placed = Placed(
        answers(table, net, plen, pops), np.array([7.0]), ladder_of(table, serves, pops)
    )

    losses = n_plus_one([placed], np.full(2, np.inf), np.ones(2, bool), np.zeros(2, bool))

    assert losses.overload_bps.tolist() == [7, 0]
    assert losses.overload_share.tolist() == [1, 0]


def fields_of(row: Ranked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return row.pop, row.share, row.rtt
