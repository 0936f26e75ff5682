"""The compiled spread of answers says what the DNS nodes' own rule says, draw by draw."""

import numpy as np
import pytest

from benchmarks.simulator.caches import NO_POP, RANKS, moved_share, refresh, spread
from popsteer.names import Prefix
from popsteer.table import NO_POP as EMPTY
from popsteer.table import NO_RTT, SHARE_WHOLE, TableMeta, build
from resolver.route import Fleet, Outlook, Steered, decide

POPS = tuple(f"p{i}" for i in range(10))
ADDRESSES = Fleet({pop: (bytes([192, 0, 2, i]),) for i, pop in enumerate(POPS)}, {})
SERVICE = Steered("www.cdn.example.", 20, POPS)
PREFIX = Prefix.parse("10.0.0.0/24")
DRAWS = 4_000


def drawn(
    pop: np.ndarray, share: np.ndarray, able: np.ndarray, shed: np.ndarray, default: np.ndarray
) -> np.ndarray:
    """[p], how often `decide` names each POP."""
    dice = np.random.default_rng(1)
    table = build(
        TableMeta(generation=1, default=tuple(POPS[i] for i in default.tolist())),
        POPS,
        np.array([PREFIX.net], np.uint64),
        np.array([PREFIX.plen], np.uint8),
        np.where(pop == NO_POP, EMPTY, pop).astype(np.uint16)[None],
        share.astype(np.uint8)[None],
        np.full((1, RANKS), NO_RTT, np.uint16),
    )
    outlook = Outlook(
        down=frozenset(POPS[i] for i in np.flatnonzero(~able)),
        shed={POPS[i]: float(shed[i]) for i in np.flatnonzero(shed)},
    )
    count = np.zeros(len(POPS))
    # Shares by even steps and sheds at random: with both at random the noise would hide errors.
    for number, low in enumerate(dice.integers(0, 1 << 16, DRAWS).tolist()):
        share_draw = (number * (1 << 16)) // DRAWS
        draw = share_draw | low << 16
        said = decide(SERVICE, PREFIX, False, table, outlook, ADDRESSES, draw)
        assert said.pop is not None
        count[POPS.index(said.pop)] += 1
    return count / DRAWS


@pytest.mark.parametrize("seed", range(12))
def test_the_spread_is_what_decide_draws(seed: int) -> None:
    dice = np.random.default_rng(seed)
    known = int(dice.integers(1, RANKS + 1))
    pop = np.full(RANKS, NO_POP, np.int64)
    pop[:known] = dice.permutation(len(POPS))[:known]
    share = np.zeros(RANKS, np.int64)
    share[:known] = dice.multinomial(SHARE_WHOLE, dice.dirichlet(np.full(known, 0.5)))
    able = dice.random(len(POPS)) < (0.05, 0.5, 0.9)[seed % 3]
    able[int(dice.integers(len(POPS)))] = True
    shed = np.where(dice.random(len(POPS)) < 0.5, dice.random(len(POPS)), 0.0)
    default = dice.permutation(len(POPS))

    got_pop, got = spread(pop[None], share[None] / SHARE_WHOLE, able, shed, default)

    expected = drawn(pop, share, able, shed, default)
    given = np.bincount(got_pop[0][got[0] > 0], got[0][got[0] > 0], len(POPS))
    assert given.sum() == pytest.approx(1)
    assert given == pytest.approx(expected, abs=0.03)


def test_nobody_able_leaves_the_best_ranked() -> None:
    pop = np.array([[4, 2, *[NO_POP] * 6]])
    share = np.array([[0.5, 0.5, *[0.0] * 6]])

    got_pop, got = spread(pop, share, np.zeros(10, bool), np.zeros(10), np.arange(10))

    assert (got_pop[0, 0], got[0, 0]) == (4, 1.0)


def test_caches_ask_when_their_answer_is_due_and_keep_it_for_the_ttl() -> None:
    pop = np.array([[3, 5, *[NO_POP] * 6]])
    share = np.array([[0.25, 0.75, *[0.0] * 6]])
    n = 20_000
    next_s, ttl_s = np.full(n, 10.0), np.full(n, 20.0)
    at, asked_s = np.zeros(n, np.int64), np.zeros(n)
    dice = np.random.default_rng(2)
    prefix = np.zeros(n, np.int64)

    early = refresh(9.0, next_s, ttl_s, prefix, pop, share, dice.random(n), at, asked_s)
    asked = refresh(10.0, next_s, ttl_s, prefix, pop, share, dice.random(n), at, asked_s)

    assert not len(early)
    assert (asked == np.arange(n)).all()
    assert (asked_s == 10).all()
    assert (next_s == 30).all()
    assert (at == 3).mean() == pytest.approx(0.25, abs=0.02)


def test_moved_share_counts_what_names_another_pop() -> None:
    old = np.array([[1, 2, *[NO_POP] * 6]] * 3)
    new = np.array([[2, 1, *[NO_POP] * 6], [1, 2, *[NO_POP] * 6], [7, 1, *[NO_POP] * 6]])
    before = np.array([[0.5, 0.5, *[0.0] * 6]] * 3)
    after = np.array([[0.5, 0.5, *[0.0] * 6], [1.0, 0.0, *[0.0] * 6], [0.9, 0.1, *[0.0] * 6]])

    assert moved_share(old, before, new, after) == pytest.approx([0.0, 0.5, 0.9])
