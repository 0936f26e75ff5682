"""The compiled passes over rows against slow obvious twins."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.backups import backups
from aggregator.candidates import Candidates, candidates
from aggregator.compare import Answers, answers, moved, present_shares, rows_of
from aggregator.estimate import Estimates
from aggregator.evidence import evidence_of
from aggregator.inference import Surroundings, inferred
from aggregator.market import crew
from aggregator.prefixes import Prefixes
from aggregator.rows import Rows8, ranked_rows, whole_shares
from aggregator.solve import NOWHERE, Assignment, Problem
from popsteer.names import Prefix, prefix_arrays, prefixes_of
from popsteer.table import NO_POP, Table, TableMeta, build

POPS = 12
seeds = st.integers(0, 2**32 - 1)


def some_prefixes(rng: np.random.Generator, n: int) -> Prefixes:
    texts = {f"10.{rng.integers(0, 3)}.{rng.integers(0, 9)}.0/24" for _ in range(n)}
    texts |= {f"10.{rng.integers(0, 3)}.0.0/16", f"2001:db8:{rng.integers(1, 9)}::/48"}
    prefixes = Prefixes()
    prefixes.add(*prefix_arrays([Prefix.parse(text) for text in sorted(texts)]))
    return prefixes


def some_estimates(rng: np.random.Generator, prefixes: int) -> Estimates:
    pairs = prefixes * POPS
    key = np.sort(rng.choice(pairs, rng.integers(1, pairs), replace=False))
    n = len(key)
    # Few different values, so that ties are common.
    return Estimates(
        key,
        rng.integers(1, 6, n).astype(np.float32) * 10_000,
        rng.uniform(0, 9_000, n).astype(np.float32),
        rng.uniform(0, 9, n).astype(np.float32),
        rng.uniform(0, 90, n).astype(np.float32),
        rng.choice([0.0, 0.5], n).astype(np.float32),
    )


def some_shares(rng: np.random.Generator, n: int, k: int) -> NDArray[np.float64]:
    share = rng.integers(0, 4, (n, k)) * (rng.random((n, k)) < 0.4)
    whole = share.sum(axis=1, keepdims=True)
    shares: NDArray[np.float64] = np.divide(share, whole, out=np.zeros((n, k)), where=whole > 0)
    return shares


@given(seeds)
@settings(max_examples=100)
def test_candidates_are_the_known_pairs_of_a_row_by_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prefixes = some_prefixes(rng, 9)

    told = inferred(some_estimates(rng, len(prefixes)), prefixes, POPS, Surroundings())
    found = candidates(told, POPS)

    known = found.known
    assert found.row.tolist() == sorted(set((known.key // POPS).tolist()))
    for line, row in enumerate(found.row.tolist()):
        pairs = np.flatnonzero(known.key // POPS == row)
        here = found.pair[line][found.pair[line] != NOWHERE]
        cost = found.cost_us[line, : len(here)]
        assert sorted(here.tolist()) == pairs.tolist()
        assert (np.diff(cost) >= 0).all()
        assert (np.diff(here)[np.diff(cost) == 0] > 0).all()
        assert found.pop[line, : len(here)].tolist() == (known.key[here] % POPS).tolist()
        assert found.rtt_us[line, : len(here)].tolist() == known.rtt_us[here].tolist()
        assert (found.pop[line, len(here) :] == NOWHERE).all()
        assert np.isinf(found.cost_us[line, len(here) :]).all()


@given(seeds)
@settings(max_examples=100)
def test_candidates_of_some_pops_are_those_of_all_without_the_others(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prefixes, serves = some_prefixes(rng, 9), rng.random(POPS) < 0.4
    told = inferred(some_estimates(rng, len(prefixes)), prefixes, POPS, Surroundings())

    whole, some = candidates(told, POPS), candidates(told, POPS, serves)

    assert some.row.tolist() == whole.row.tolist()
    for line in range(len(whole)):
        own, of_all = some.pop[line] != NOWHERE, serves[whole.pop[line]]
        of_all &= whole.pop[line] != NOWHERE
        for name in ("pop", "cost_us", "rtt_us", "spread_us", "source"):
            got, want = getattr(some, name)[line][own], getattr(whole, name)[line][of_all]
            assert got.tolist() == want.tolist()
        pair = some.pair[line][own]
        assert some.known.rtt_us[pair].tolist() == some.rtt_us[line][own].tolist()


def test_a_row_that_names_nobody_gets_the_default_order() -> None:
    rows = Rows8(
        np.array([[3, NO_POP], [NO_POP, NO_POP]], np.uint16),
        np.full((2, 2), 255, np.uint8),
        np.zeros((2, 2), np.uint16),
        np.zeros(0, np.uint64),
        np.zeros(0, np.uint8),
    )
    assert rows.with_default([2, 1]).pop.tolist() == [[3, NO_POP], [2, 1]]


@given(seeds)
@settings(max_examples=100)
def test_shares_are_255ths_within_one_of_the_exact_ones(seed: int) -> None:
    rng = np.random.default_rng(seed)
    share = some_shares(rng, 20, int(rng.integers(1, 13)))

    whole = whole_shares(share)

    for row, given_shares in zip(whole, share, strict=True):
        eight = np.sort(given_shares)[::-1][:8]
        if not eight.sum():
            assert not row.any()
            continue
        assert row.sum() == 255
        assert (row > 0).sum() <= 8
        kept = np.flatnonzero(row)
        assert np.abs(row[kept] - given_shares[kept] / eight.sum() * 255).max() < 1
        assert sorted(given_shares[kept].tolist()) == sorted(eight[eight > 0].tolist())


def some_problem(
    rng: np.random.Generator, prefixes: Prefixes
) -> tuple[Candidates, Problem, Assignment]:
    told = inferred(some_estimates(rng, len(prefixes)), prefixes, POPS, Surroundings())
    found = candidates(told, POPS)
    n, k = found.pop.shape
    usable = rng.random(POPS) < 0.8
    cost = np.where((found.pop != NOWHERE) & usable[found.pop], found.cost_us, np.inf)
    demand = np.asarray(rng.uniform(1, 9, n))
    problem = Problem(
        found.pop, cost, np.zeros((n, k)), demand, np.full(POPS, demand.sum()), np.zeros((n, k))
    )
    share = np.where(np.isfinite(cost), some_shares(rng, n, k), 0.0)
    whole = share.sum(axis=1, keepdims=True)
    share = np.divide(share, whole, out=np.zeros((n, k)), where=whole > 0)
    return found, problem, Assignment(share, np.zeros(POPS), rng.uniform(0, 9, POPS), np.nan)


@given(seeds)
@settings(max_examples=100)
def test_rows_rank_by_share_then_backup_then_priced_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found, problem, solved = some_problem(rng, some_prefixes(rng, 9))

    rows = ranked_rows(found, problem, solved)

    share = whole_shares(solved.share)
    with crew() as workers:
        backup = backups(problem, solved, workers)
    for i in range(len(found)):
        columns = [c for c in range(found.pop.shape[1]) if found.pop[i, c] != NOWHERE]
        ranked = sorted(
            columns,
            key=lambda c: (
                -share[i, c],
                c != backup[i],
                not np.isfinite(problem.cost_us[i, c]),
                found.cost_us[i, c] + solved.price_us[found.pop[i, c]]
                if np.isfinite(problem.cost_us[i, c])
                else 0.0,
                found.cost_us[i, c],
                c,
            ),
        )[:8]
        known = rows.pop[i] != NO_POP
        assert rows.pop[i][known].tolist() == found.pop[i, ranked].tolist()
        expected = share[i, ranked].tolist()
        assert rows.share[i][known].tolist() == (
            expected if sum(expected) else [255, *expected[1:]]
        )
        assert rows.rtt[i][known].tolist() == np.rint(found.rtt_us[i, ranked] / 100).tolist()


@given(seeds)
@settings(max_examples=50)
def test_evidence_goes_by_address_and_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    prefixes = some_prefixes(rng, 9)
    found, _, solved = some_problem(rng, prefixes)
    reason = rng.integers(0, 9, found.pop.shape).astype(np.uint8)
    names = tuple(f"p{i}" for i in range(POPS))
    demand = rng.uniform(1, 9, len(found))

    told = evidence_of(3, 5, names, prefixes, found, solved, demand, reason)

    written = prefixes_of(told.net, told.plen)
    assert written == sorted(written)
    listed = prefixes_of(prefixes.net, prefixes.plen)
    for line, row in enumerate(found.row.tolist()):
        here = [i for i, prefix in enumerate(written) if prefix == listed[row]]
        columns = np.flatnonzero(found.pop[line] != NOWHERE)
        columns = columns[np.argsort(-solved.share[line, columns], kind="stable")]
        assert told.pop[here].tolist() == found.pop[line, columns].tolist()
        assert told.reason[here].tolist() == reason[line, columns].tolist()
        assert told.rtt_us[here].tolist() == found.rtt_us[line, columns].tolist()
        assert told.demand_bps[here].tolist() == [np.float32(demand[line])] * len(here)


def some_table(rng: np.random.Generator) -> Table:
    prefixes = some_prefixes(rng, 9)
    n = len(prefixes)
    pop = np.full((n, 8), NO_POP, np.uint16)
    share = np.zeros((n, 8), np.uint8)
    for row in range(n):
        count = int(rng.integers(1, 4))
        pop[row, :count] = rng.choice(POPS, count, replace=False)
        share[row, 0] = 255
    names = tuple(f"p{i}" for i in range(POPS))
    rtt = np.zeros((n, 8), np.uint16)
    return build(TableMeta(generation=1), names, prefixes.net, prefixes.plen, pop, share, rtt)


@given(seeds)
@settings(max_examples=100)
def test_what_a_table_answers_is_what_it_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table, prefixes = some_table(rng), some_prefixes(rng, 30)
    order = rng.permutation(len(prefixes))
    net, plen = prefixes.net[order], prefixes.plen[order]
    # In other numbers, and without the last POP.
    names = table.pops[-2::-1]

    row, said = rows_of(table, net, plen), answers(table, net, plen, names)

    for i, prefix in enumerate(prefixes_of(net, plen)):
        assert row[i] == table.find(prefix)[0]
        ranked = table.ranked(int(row[i])) if row[i] >= 0 else []
        expected = [names.index(pop) if pop in names else -1 for pop in ranked]
        assert said.pop[i].tolist() == expected + [-1] * (8 - len(expected))
        first = bool(ranked) and ranked[0] in names
        assert said.share[i].tolist() == [float(first)] + [0.0] * 7


@given(seeds)
@settings(max_examples=100)
def test_what_moved_and_what_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, width = 10, 5
    old, new = (
        Answers(
            np.array([rng.permutation(np.arange(-1, POPS))[:width] for _ in range(n)]),
            some_shares(rng, n, width),
        )
        for _ in range(2)
    )
    pop = np.array([rng.permutation(POPS)[:7] for _ in range(n)])

    change, present = moved(old, new), present_shares(pop, old)

    for i in range(n):
        had = dict(zip(old.pop[i].tolist(), old.share[i].tolist(), strict=True))
        has = dict(zip(new.pop[i].tolist(), new.share[i].tolist(), strict=True))
        same = sum(min(share, has.get(p, 0.0)) for p, share in had.items() if p >= 0)
        assert abs(change[i] - (sum(had.values()) - same)) < 1e-9
        assert present[i].tolist() == [had.get(p, 0.0) for p in pop[i].tolist()]
