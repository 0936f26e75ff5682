"""The compiled choice against `resolver.route.decide`."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.names import Prefix
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE, Table, TableMeta, build
from resolver.fast.fill import build as build_index
from resolver.fast.index import NO_ROW
from resolver.fast.kernel import kernel
from resolver.fast.lookup import find
from resolver.fast.steer import OTHER, choose, numbering, standing
from resolver.route import DRAW_BITS, Fleet, Outlook, Steered, decide

POPS = [f"p{i}" for i in range(10)]
ROWS = 12
_WIDE = np.zeros((0, CANDIDATES_MAX), np.uint16)
EMPTY = (
    np.zeros(0, np.uint64),
    np.zeros(0, np.uint8),
    _WIDE,
    _WIDE.astype(np.uint8),
    _WIDE,
)


@kernel
def chosen(ranks: Any, now: Any, row: Any, group: Any, draw: Any) -> Any:
    return choose(ranks, now, row, group, draw)


def random_table(rng: np.random.Generator) -> Table:
    known = [str(p) for p in rng.permutation(POPS)[: rng.integers(3, 10)]]
    pop = np.full((ROWS, CANDIDATES_MAX), NO_POP, np.uint16)
    share = np.zeros((ROWS, CANDIDATES_MAX), np.uint8)
    for row in range(ROWS):
        count = int(rng.integers(1, min(len(known), CANDIDATES_MAX) + 1))
        pop[row, :count] = rng.permutation(len(known))[:count]
        cuts = np.sort(rng.integers(0, SHARE_WHOLE + 1, count - 1))
        share[row, :count] = np.diff([0, *cuts, SHARE_WHOLE])
    net = np.arange(ROWS, dtype=np.uint64) << np.uint64(56)
    default = tuple(str(p) for p in rng.permutation(POPS)[: rng.integers(0, 4)])
    meta = TableMeta(generation=1, default=default)
    rtt = np.full(pop.shape, NO_RTT, np.uint16)
    return build(meta, tuple(known), net, np.full(ROWS, 8, np.uint8), pop, share, rtt)


def some(rng: np.random.Generator, share: float) -> frozenset[str]:
    return frozenset(p for p in POPS if rng.random() < share)


def random_fleet(rng: np.random.Generator) -> Fleet:
    return Fleet(
        {
            p: tuple(bytes([10, 0, i, j]) for j in range(rng.integers(0, 3)))
            for i, p in enumerate(POPS)
        },
        {p: (bytes(15) + bytes([i]),) * int(rng.integers(0, 2)) for i, p in enumerate(POPS)},
    )


@settings(max_examples=120)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.9, 1.0]), st.booleans())
def test_compiled_choice_is_the_decision(seed: int, bad: float, with_table: bool) -> None:
    rng = np.random.default_rng(seed)
    table = random_table(rng) if with_table else None
    fleet = random_fleet(rng)
    shed = {p: float(rng.choice([0.25, 0.999, 1.0, rng.random()])) for p in some(rng, 0.4)}
    outlook = Outlook(some(rng, bad / 2), some(rng, bad / 2), some(rng, bad), shed)
    members = [tuple(p for p in POPS if rng.random() < 0.7) for _ in range(2)]
    default = table.meta.default if table else ()
    pops = numbering(table.pops if table else (), default, POPS)
    now = standing(pops, members, [default] * len(members), fleet, outlook)
    ranks = build_index(table or build(TableMeta(generation=0), (), *EMPTY))
    for _ in range(60):
        group, ipv6 = int(rng.integers(2)), bool(rng.integers(2))
        draw = int(rng.integers(1 << DRAW_BITS))
        client = Prefix(int(rng.integers(ROWS + 2)) << 56, 32)
        service = Steered("www.example.", 20, members[group])
        want = decide(service, client, ipv6, table, outlook, fleet, draw)
        row = np.uint64(int(find(ranks, np.uint64(client.net), False)) >> 8)
        assert (row == NO_ROW) == (want.row < 0)
        got = int(chosen(ranks, now, row, np.uint64(2 * group + ipv6), np.uint64(draw)))
        pop = got & 0xFFFF
        assert (None if pop == NO_POP else pops[pop]) == want.pop
        if want.pop and got >> 16 != OTHER:
            assert table is not None
            assert table.pops[table.pop[want.row, got >> 16]] == want.pop
