import msgspec
import pytest

from popsteer import overview
from popsteer.errors import TableError
from popsteer.overview import LinkView, Overview, PopView


def test_bytes_give_the_overview_back() -> None:
    view = Overview(
        created_ms=5,
        table_generation=3,
        pops={"fra1": PopView(rtt_p50_us=9_000.0, links={"decix": LinkView(tx_bps=1.0)})},
    )
    assert overview.decode(msgspec.json.encode(view)) == view


def test_unknown_stays_unknown() -> None:
    view = overview.decode(b'{"created_ms": 1, "pops": {"fra1": {}}}')
    assert view.latency_ms is None
    assert view.pops["fra1"].age_s is None
    assert view.pops["fra1"].rtt_p50_us is None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"created_ms": "now"}'])
def test_what_is_no_overview_is_refused(data: bytes) -> None:
    with pytest.raises(TableError, match="not an overview"):
        overview.decode(data)
