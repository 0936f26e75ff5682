"""Networks with coordinates in, a table by distance out."""

import threading
from ipaddress import ip_network

import pytest

from popsteer.config import Config, Pop, TableSource
from popsteer.names import Prefix
from popsteer.table import SHARE_WHOLE
from resolver.geography import geography_of, table_by_distance

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
