"""The compiled index against `Table.find`, the slow obvious twin."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.names import IPV6_BIT, Prefix, mask, prefix_arrays
from popsteer.table import (
    CANDIDATES_MAX,
    NO_POP,
    NO_RTT,
    Further,
    Ranked,
    Table,
    TableMeta,
    build,
)
from resolver.fast.fill import build as build_index
from resolver.fast.index import NO_ROW, PLEN_AT, SHARE_AT, Index
from resolver.fast.lookup import find
from resolver.shelf import KEPT, Shelf


def table_of(prefixes: list[Prefix], seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    count = len(prefixes)
    net, plen = prefix_arrays(prefixes)
    pop = np.full((count, CANDIDATES_MAX), NO_POP, np.uint16)
    pop[:, 0] = rng.integers(0, 3, count)
    share = np.zeros((count, CANDIDATES_MAX), np.uint8)
    share[:, 0] = 255
    rtt = np.full((count, CANDIDATES_MAX), NO_RTT, np.uint16)
    return build(TableMeta(generation=1), ("ams1", "fra1", "nyc1"), net, plen, pop, share, rtt)


def ipv4_prefix(top: int, length: int) -> Prefix:
    return Prefix((top << 32) & mask(length), length)


def ipv6_prefix(top: int, length: int) -> Prefix:
    return Prefix(top & mask(length), length | IPV6_BIT)


IPV4 = st.builds(ipv4_prefix, st.integers(0, 2**32 - 1), st.integers(0, 32))
IPV6 = st.builds(ipv6_prefix, st.integers(0, 2**64 - 1), st.integers(0, 64))
# Near each other, so that prefixes nest and touch.
IPV4_NEAR = st.builds(ipv4_prefix, st.integers(0xC0000200, 0xC00002FF), st.integers(20, 32))
IPV6_NEAR = st.builds(
    ipv6_prefix, st.integers(0x20010DB8 << 32, (0x20010DB8 << 32) + 255), st.integers(40, 64)
)


@settings(max_examples=120)
@given(
    st.lists(st.one_of(IPV4, IPV4_NEAR, IPV6, IPV6_NEAR), max_size=40),
    st.lists(st.one_of(IPV4, IPV4_NEAR, IPV6, IPV6_NEAR), max_size=10),
)
def test_index_finds_what_the_table_finds(prefixes: list[Prefix], elsewhere: list[Prefix]) -> None:
    table = table_of(prefixes)
    index = build_index(table)
    edges = [
        Prefix(number, 64 | IPV6_BIT if p.is_ipv6 else 32)
        for p in prefixes
        for number in (p.net - 1, p.net, p.last, p.last + 1)
        if 0 <= number < 2**64
    ]
    for prefix in [*prefixes, *elsewhere, *edges]:
        net = prefix.net if prefix.is_ipv6 else prefix.net & ~0xFFFFFFFF
        row, scope = table.find(Prefix(net, prefix.plen))
        entry = int(find(index, np.uint64(net), prefix.is_ipv6))
        assert entry & 0xFF == scope, str(prefix)
        assert row_at(index, entry) == (row_of(table, row) if row >= 0 else None), str(prefix)


def row_of(table: Table, row: int) -> tuple[list[int], list[int], int]:
    return table.pop[row].tolist(), table.share[row].tolist(), int(table.plen[row])


def row_at(index: Index, entry: int) -> tuple[list[int], list[int], int] | None:
    row = entry >> 8
    if row == NO_ROW:
        return None
    octet = index.octet[row]
    share = octet[SHARE_AT : SHARE_AT + CANDIDATES_MAX].tolist()
    return index.pop[row, :CANDIDATES_MAX].tolist(), share, int(octet[PLEN_AT])


def test_equal_rows_are_kept_once() -> None:
    rng = np.random.default_rng(3)
    table = table_of([ipv4_prefix(int(t), 24) for t in rng.integers(0, 2**32, 70_000)])
    rows = build_index(table).rows
    different = {str(row_of(table, row)) for row in range(len(table))}
    assert len(rows) == len(different) < 100


@pytest.mark.parametrize("prefixes", [[], [ipv4_prefix(0x0A000000, 8), ipv6_prefix(2**61, 3)]])
def test_a_shelved_table_is_mapped_back_and_equal(tmp_path: Path, prefixes: list[Prefix]) -> None:
    table = table_of(prefixes)
    shelf = Shelf(tmp_path)
    assert shelf.find(table).index is None
    made = shelf.put(table)
    index = build_index(table)
    again = pickle.loads(pickle.dumps(shelf.find(table)))  # noqa: S301 -- as a worker gets it
    for one in (made, again):
        assert one.folder is not None
        assert one.index is not None
        for name in index._fields:
            assert np.array_equal(getattr(index, name), getattr(one.index, name))
        for name in ("net", "plen", "pop", "share", "scope"):
            assert np.array_equal(getattr(table, name), getattr(one.table, name))
        assert (one.table.meta, one.table.pops) == (table.meta, table.pops)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_shelf_keeps_the_newest_tables_and_a_torn_one_is_built_again(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    tables = [table_of([ipv4_prefix(n << 24, 8)]) for n in range(1, KEPT + 2)]
    for table in tables:
        shelf.put(table)
    assert len(list(tmp_path.iterdir())) == KEPT
    assert shelf.find(tables[0]).index is None
    folder = shelf.find(tables[-1]).folder
    assert folder is not None
    (folder / "v4.npy").unlink()
    assert shelf.find(tables[-1]).index is None
    assert shelf.put(tables[-1]).index is not None


def test_without_a_place_on_disk_the_index_is_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = Shelf(tmp_path / "file").put(table_of([ipv4_prefix(0x0A000000, 8)]))
    assert (made.folder, made.index is None) == (None, False)


def test_a_shelved_table_keeps_all_sets_of_answers(tmp_path: Path) -> None:
    prefixes = [ipv4_prefix(n << 24, 8) for n in (10, 12, 14)]
    one, other = table_of(prefixes), table_of(prefixes, seed=4)
    net, plen = prefix_arrays(prefixes)
    named = (Further(services=("video.",), policy="nearest RTT", default=("nyc1",)),)
    own = [Ranked(other.pop, other.share, other.rtt)]
    meta = TableMeta(generation=1, further=named)
    table = build(meta, one.pops, net, plen, one.pop, one.share, one.rtt, own)

    made = Shelf(tmp_path).put(table)

    assert made.index is not None
    for kept, given_ in zip(made.table.sets, table.sets, strict=True):
        assert kept.meta == given_.meta
        assert np.array_equal(kept.pop, given_.pop)
    for row in range(len(table)):
        entry = int(find(made.index, np.uint64(table.net[row]), False)) >> 8
        for number, of_set in enumerate(table.sets):
            assert made.index.pop[entry + number, 0] == of_set.pop[row, 0]
