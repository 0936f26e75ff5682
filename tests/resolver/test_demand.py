"""Demand: counted by prefix and POP, bounded, reported whole."""

from dataclasses import replace

import msgspec
import numpy as np

from popsteer.names import IPV6_BIT, Prefix, SourceId
from popsteer.samples import Batch, DemandBatch, decode, encode
from popsteer.table import CANDIDATES_MAX, NO_POP, Further, Table, TableMeta, build
from resolver.answer import Served
from resolver.demand import Demand

LANE = SourceId("node.dns0")


def served(client: str, pop: str = "fra1", row: int = -1, service: str = "www.") -> Served:
    return Served(service, pop, Prefix.parse(client), row)


def rows_of(batches: list[Batch]) -> dict[tuple[str, str], tuple[int, float]]:
    found = {}
    for batch in batches:
        decoded = decode(encode(batch))
        assert isinstance(decoded, DemandBatch)
        for net, plen, subject, queries, bits in zip(
            *(decoded.net, decoded.plen, decoded.subject, decoded.queries, decoded.bits),
            strict=True,
        ):
            key = str(Prefix(int(net), int(plen))), decoded.header.subjects[subject]
            assert key not in found
            found[key] = int(queries), float(bits)
    return found


def one_row_table(prefix: str) -> Table:
    one = Prefix.parse(prefix)
    pop = np.full((1, CANDIDATES_MAX), NO_POP, np.uint16)
    pop[0, 0] = 0
    share = np.zeros((1, CANDIDATES_MAX), np.uint8)
    share[0, 0] = 255
    net, plen = np.array([one.net], np.uint64), np.array([one.plen], np.uint8)
    return build(TableMeta(generation=1), ("fra1",), net, plen, pop, share, pop)


def test_answers_add_up_by_prefix_and_pop_with_the_traffic_of_their_service() -> None:
    demand = Demand({"www.": 10.0, "img.": 1.0})
    for client in ("198.51.100.7", "198.51.100.9", "198.51.100.0/22"):
        demand.add(served(client), None)
    demand.add(served("198.51.100.8", service="img."), None)
    demand.add(served("198.51.100.8", "nyc1"), None)
    demand.add(served("2001:db8:1:2::1"), None)
    assert rows_of(demand.report(LANE, 1_000)) == {
        ("198.51.100.0/24", "fra1"): (3, 21.0),
        ("198.51.100.0/22", "fra1"): (1, 10.0),
        ("198.51.100.0/24", "nyc1"): (1, 10.0),
        ("2001:db8:1::/48", "fra1"): (1, 10.0),
    }
    assert demand.report(LANE, 2_000) == []


def test_a_finer_row_of_the_table_is_told_apart() -> None:
    table = one_row_table("198.51.100.0/28")
    demand = Demand({"www.": 10.0})
    demand.add(served("198.51.100.7", row=0), table)
    assert list(rows_of(demand.report(LANE, 0))) == [("198.51.100.0/28", "fra1")]


def test_a_flood_of_prefixes_is_counted_by_wide_ones() -> None:
    demand = Demand({"www.": 1.0}, entries_max=8)
    for number in range(4_096):
        demand.add(Served("www.", "fra1", Prefix((number << 8) << 32, 32), -1), None)
    for number in range(4_096):
        demand.add(Served("www.", "fra1", Prefix(number << 40, 64 | IPV6_BIT), -1), None)
    rows = rows_of(demand.report(LANE, 0))
    assert len(rows) <= 16
    assert sum(queries for queries, _ in rows.values()) + demand.dropped == 8_192


def test_answers_of_a_further_set_are_told_apart() -> None:
    table = one_row_table("198.51.100.0/24")
    own = (Further(services=("img.",)),)
    meta = msgspec.structs.replace(table.meta, further=own)
    both = replace(table, meta=meta, further=(replace(table, meta=meta.of_set(1)),))
    demand = Demand({"www.": 10.0, "img.": 1.0})
    demand.add(served("198.51.100.7", row=0), both)
    demand.add(served("198.51.100.7", service="img.", row=0), both)
    assert rows_of(demand.report(LANE, 1_000)) == {
        ("198.51.100.0/24", "fra1"): (1, 10.0),
        ("198.51.100.0/24", "fra1/1"): (1, 1.0),
    }
