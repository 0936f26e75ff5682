"""Networks with coordinates in, a table by distance out."""

import threading
from dataclasses import replace
from ipaddress import ip_network

import msgspec
import numpy as np
import pytest

from popsteer.config import Config, Pop, Service, TableSource
from popsteer.names import Prefix
from popsteer.table import (
    CANDIDATES_MAX,
    NO_POP,
    NO_RTT,
    SHARE_WHOLE,
    Table,
    TableMeta,
    build,
    decode,
    encode,
)
from resolver.geography import geography_of, table_by_distance, with_stand_ins

LONDON, TOKYO, NEW_YORK = (51.5, -0.1), (35.7, 139.7), (40.7, -74.0)
POPS = {"nyc1": NEW_YORK, "lon1": LONDON, "tyo1": TOKYO}
PARIS, OSAKA = (48.9, 2.4), (34.7, 135.5)


def test_the_nearest_pops_come_first() -> None:
    located = [
        (ip_network("198.51.100.0/24"), PARIS),
        (ip_network("2001:db8::/32"), OSAKA),
        (ip_network("2001:db9::/80"), OSAKA),
    ]
    table = table_by_distance(located, POPS, 7)
    row, scope = table.find(Prefix.parse("198.51.100.9"))
    assert (table.ranked(row), scope) == (["lon1", "nyc1", "tyo1"], 24)
    row, scope = table.find(Prefix.parse("2001:db8:1::"))
    assert (table.ranked(row), scope) == (["tyo1", "lon1", "nyc1"], 32)
    assert len(table) == 2  # longer than /64 is no prefix of a table
    assert table.share[0].tolist() == [SHARE_WHOLE, *[0] * 7]
    assert table.meta.created_ms == 7


def test_neighbours_with_equal_answers_are_one_row() -> None:
    halves = [(ip_network("198.51.100.0/25"), PARIS), (ip_network("198.51.100.128/25"), LONDON)]
    assert len(table_by_distance(halves, {"lon1": LONDON}, 0)) == 1


def test_more_pops_than_a_row_holds_and_no_network_at_all() -> None:
    many = {f"p{i}": (i * 4.0, i * 4.0) for i in range(12)}
    table = table_by_distance([(ip_network("198.51.100.0/24"), (0.0, 0.0))], many, 0)
    assert table.ranked(0) == [f"p{i}" for i in range(8)]
    assert len(table_by_distance([], many, 0)) == 0


@pytest.mark.parametrize(("stop", "location"), [(True, LONDON), (False, None)])
def test_there_is_no_geography_when_stopped_or_without_locations(
    mmdb: str, stop: bool, location: tuple[float, float] | None
) -> None:
    stopped = threading.Event()
    if stop:
        stopped.set()
    config = Config(
        pop=(Pop(id="lon1", location=location),), table=TableSource(geography=str(mmdb))
    )
    assert geography_of(config, stopped) is None


def table_of(*rows: list[int]) -> Table:
    """Rows of neighbouring /24s by POP numbers of nyc1, lon1, tyo1, far1 (no location)."""
    pop = np.full((len(rows), CANDIDATES_MAX), NO_POP, np.uint16)
    share = np.zeros((len(rows), CANDIDATES_MAX), np.uint8)
    share[:, 0] = SHARE_WHOLE
    for i, row in enumerate(rows):
        pop[i, : len(row)] = row
    net = np.array([(0xC6336400 + (i << 8)) << 32 for i in range(len(rows))], np.uint64)
    plen = np.full(len(rows), 24, np.uint8)
    names = (*POPS, "far1")
    return build(TableMeta(generation=3), names, net, plen, pop, share, np.full_like(pop, NO_RTT))


LOCATED = Config(pop=(*(Pop(id=i, location=at) for i, at in POPS.items()), Pop(id="far1")))


def test_the_pops_next_to_the_best_one_stand_in_behind_what_was_measured() -> None:
    before = table_of([0], [2, 3], [1, 0, 2], [3])
    table = with_stand_ins(before, LOCATED)
    assert [table.ranked(row) for row in range(4)] == [
        ["nyc1", "lon1", "tyo1"],
        ["tyo1", "far1", "lon1", "nyc1"],
        ["lon1", "nyc1", "tyo1"],
        ["far1"],  # nobody knows where it is
    ]
    assert (table.share == before.share).all()
    assert decode(encode(table)).meta == before.meta


def test_stand_ins_are_few_and_never_too_many_for_a_row() -> None:
    names = {f"p{i}": (float(i), 0.0) for i in range(20)}
    located = [(ip_network("198.51.100.0/24"), (0.0, 0.0))]
    config = Config(pop=tuple(Pop(id=i, location=at) for i, at in names.items()))
    full = table_by_distance(located, names, 0)
    assert with_stand_ins(full, config).ranked(0) == full.ranked(0)
    one = full.pop.copy()
    one[:, 1:] = NO_POP
    assert with_stand_ins(replace(full, pop=one), config).ranked(0) == ["p0", "p1", "p2", "p3"]


def test_only_pops_that_may_serve_stand_in() -> None:
    few = Service(name="www.example.", pops=("nyc1", "tyo1"))
    table = with_stand_ins(table_of([0], [1]), msgspec.structs.replace(LOCATED, service=(few,)))
    assert [table.ranked(row) for row in range(2)] == [["nyc1", "tyo1"], ["lon1", "nyc1", "tyo1"]]


def test_without_locations_the_table_stays_as_it_is() -> None:
    table = table_of([0])
    assert with_stand_ins(table, Config(pop=(Pop(id="nyc1"), Pop(id="lon1")))) is table
