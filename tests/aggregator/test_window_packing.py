from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from aggregator.packing import pack

KINDS: dict[str, Any] = {"net": np.uint64, "plen": np.uint8, "rtt_us": np.uint32}
WIDTHS = st.tuples(st.integers(0, 64), st.integers(0, 60))


@st.composite
def columns_given(draw: st.DrawFn) -> dict[str, NDArray[Any]]:
    """Columns of any width, so that some fit a key easily, some exactly, and some not at all."""
    size = draw(st.integers(0, 40))
    columns: dict[str, NDArray[Any]] = {}
    for name, kind in KINDS.items():
        bits, zeros = draw(WIDTHS)
        most = np.iinfo(kind).max
        values = draw(
            st.lists(st.integers(0, min(most, 2**bits - 1)), min_size=size, max_size=size)
        )
        columns[name] = np.array([(v << zeros) & int(most) for v in values], kind)
    return columns


@settings(deadline=None)  # the first call compiles
@given(columns_given())
def test_packed_rows_are_the_sorted_rows(columns: dict[str, NDArray[Any]]) -> None:
    rows = sorted(zip(*(c.tolist() for c in columns.values()), strict=True))

    packed = [
        tuple(
            int(packing.read(keys, np.array([at], np.uint32), n, c.dtype)[0])
            for n, c in columns.items()
        )
        for packing, keys in pack(columns)
        for at in range(len(keys))
    ]

    assert packed == rows


@settings(deadline=None)  # the first call compiles
@given(columns_given())
def test_runs_are_of_rows_that_are_equal_above_a_column(
    columns: dict[str, NDArray[Any]],
) -> None:
    for packing, keys in pack(columns):
        every = np.arange(len(keys), dtype=np.uint32)
        net, plen = (packing.read(keys, every, name, KINDS[name]) for name in ("net", "plen"))
        pairs = list(zip(net.tolist(), plen.tolist(), strict=True))
        ends = [at for at in range(len(pairs)) if pairs[at : at + 1] != pairs[at + 1 : at + 2]]
        last, count = packing.runs(keys, "rtt_us")
        assert last.tolist() == ends
        assert count.tolist() == np.diff(ends, prepend=-1).tolist()


def test_prefixes_of_one_length_fit_a_key_with_room_to_spare() -> None:
    """What makes the common case fast: the zeros behind a /24 take no bits."""
    net = np.arange(2**8, 2**8 + 1_000, dtype=np.uint64) << np.uint64(40)

    (packing, _), *rest = pack({"net": net, "rtt_us": np.arange(1_000, dtype=np.uint32)})

    assert not rest
    assert packing.bits["net"] <= 11
