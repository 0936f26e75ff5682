import io
import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from aggregator.partials import (
    DemandPartial,
    Origin,
    Partial,
    RttPartial,
    SignalPartial,
    decode,
    decode_origin,
    encode,
    window_of_key,
)
from aggregator.seen import Mark
from popsteer.errors import StoreError
from popsteer.samples import Kind

ORIGIN = Origin(
    stream="popsteer-bulk",
    shard="shardId-000000000003",
    window_start_ms=1_700_000_000_000,
    window_ms=10_000,
    first_sequence=10**55 + 1,
    last_sequence=10**55 + 9,
    records=4,
    samples=6,
    duplicates=1,
    quarantined={"clock": 2},
    supplement=False,
    previous=("partials/kind=demand/window=1699999990000/x.parquet",),
    marks={"fra1.rtt": Mark(7, ((2, 3), (5, 5)), 1_700_000_000_001)},
)
RTT = RttPartial(
    ORIGIN,
    ("ams1", "fra1"),
    event_window_ms=np.array([1, 1, 2], np.int64),
    net=np.array([5, 5, 2**63 + 6], np.uint64),
    plen=np.array([24, 24, 0x80 | 48], np.uint8),
    pop=np.array([0, 1, 1], np.uint16),
    method=np.array([0, 0, 4], np.uint8),
    bucket=np.array([-1, 5, 600], np.int16),
    count=np.array([1, 2, 3], np.uint32),
    max_us=np.array([1, 2, 3], np.uint32),
)
DEMAND = DemandPartial(
    ORIGIN,
    ("fra1",),
    event_window_ms=np.array([1], np.int64),
    net=np.array([5], np.uint64),
    plen=np.array([24], np.uint8),
    pop=np.array([0], np.uint16),
    queries=np.array([2**40], np.uint64),
    bits=np.array([1.5e18]),
)
SIGNAL = SignalPartial(
    ORIGIN,
    ("fra1", "fra1/decix"),
    event_window_ms=np.array([1, 1], np.int64),
    subject=np.array([0, 1], np.uint16),
    signal=np.array([0, 3], np.uint8),
    count=np.array([1, 1], np.uint32),
    sum=np.array([1.0, 2.0]),
    max=np.array([1.0, 2.0]),
    last=np.array([1.0, 2.0]),
    last_ms=np.array([7, 8], np.int64),
)


def columns_of(partial: Partial) -> dict[str, object]:
    values = {name: getattr(partial, name) for name in partial.__slots__}
    return {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in values.items()}


def empty(partial: RttPartial) -> RttPartial:
    names = [n for n in partial.__slots__ if isinstance(getattr(partial, n), np.ndarray)]
    return replace(partial, pops=(), **{n: getattr(partial, n)[:0] for n in names})


@pytest.mark.parametrize("partial", [RTT, DEMAND, SIGNAL, empty(RTT)])
def test_decode_gives_back_what_was_encoded(partial: Partial) -> None:
    body = encode(partial)

    assert columns_of(decode(body)) == columns_of(partial)
    assert encode(decode(body)) == body
    assert decode_origin(body) == ORIGIN


def test_keys_sort_by_window_and_supplements_have_their_own() -> None:
    supplement = replace(ORIGIN, supplement=True)

    key = ORIGIN.key(Kind.RTT)

    assert key == (
        "partials/kind=rtt/window=1700000000000/popsteer-bulk-shardId-000000000003.parquet"
    )
    assert supplement.key(Kind.RTT) == key.replace(".parquet", f"-{10**55 + 1}.parquet")
    assert window_of_key(key) == ORIGIN.window_start_ms


def test_any_reader_of_parquet_finds_names_and_the_origin() -> None:
    table = pq.read_table(io.BytesIO(encode(RTT)))

    assert table.column("pop").to_pylist() == ["ams1", "fra1", "fra1"]
    assert table.column("bucket").to_pylist() == [-1, 5, 600]
    document = json.loads(table.schema.metadata[b"popsteer"])
    assert document["last_sequence"] == str(10**55 + 9)
    assert document["quarantined"] == {"clock": 2}


@pytest.mark.parametrize("body", [b"", b"PAR1", encode(RTT)[:-1], encode(RTT)[100:]])
def test_what_is_no_partial_is_refused(body: bytes) -> None:
    with pytest.raises(StoreError):
        decode(body)


@pytest.mark.parametrize("body", [b"", b"PAR1", encode(RTT)[:-1]])
def test_what_has_no_origin_is_refused(body: bytes) -> None:
    with pytest.raises(StoreError):
        decode_origin(body)
