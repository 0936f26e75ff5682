"""Records: what goes in comes out, and no damage gets in."""

import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer import samples
from popsteer.errors import RecordError
from popsteer.names import IPV6_BIT, LENGTH_MASK, SourceId, mask
from popsteer.samples import (
    RECORD_BYTES_MAX,
    RTT_US_MAX,
    STREAM_OF,
    Batch,
    DemandBatch,
    Header,
    Kind,
    RttBatch,
    SignalBatch,
)
from popsteer.unpack import are_prefixes

HEADER = Header(SourceId("fra1.rtt"), 41, 1_700_000_000_000, ("fra1", "ams1", "fra1/decix"))
REASONS = {
    *("arrow", "version", "kind", "header", "schema", "rows"),
    *("null", "subject", "prefix", "value"),
}


def _rtt(count: int, seed: int = 1) -> RttBatch:
    rng = np.random.default_rng(seed)
    ipv6 = rng.random(count) < 0.2
    number = rng.integers(0, 2**24, count, dtype=np.uint64) << np.uint64(40)
    return RttBatch(
        HEADER,
        dt_ms=rng.integers(0, 1_000, count, dtype=np.uint32),
        net=number,
        plen=np.where(ipv6, 48 | IPV6_BIT, 24).astype(np.uint8),
        subject=rng.integers(0, 2, count, dtype=np.uint16),
        rtt_us=rng.integers(1_000, 300_000, count, dtype=np.uint32),
        method=rng.integers(0, 5, count, dtype=np.uint8),
        lost=(rng.random(count) < 0.01).astype(np.uint8),
    )


def _demand(count: int) -> DemandBatch:
    rtt = _rtt(count)
    return DemandBatch(
        HEADER,
        rtt.dt_ms,
        rtt.net,
        rtt.plen,
        rtt.subject,
        queries=rtt.rtt_us,
        bits=rtt.rtt_us.astype(np.float32) * np.float32(1e6),
    )


def _signal(count: int) -> SignalBatch:
    rtt = _rtt(count)
    return SignalBatch(
        HEADER,
        rtt.dt_ms,
        rtt.subject,
        signal=rtt.method,
        value=rtt.rtt_us.astype(np.float64) * 1e5,
    )


def _same(a: Batch, b: Batch) -> None:
    assert type(a) is type(b)
    assert a.header == b.header
    for field in fields(a):
        if field.name != "header":
            left, right = getattr(a, field.name), getattr(b, field.name)
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype


@pytest.mark.parametrize("count", [0, 1, 1_000])
@pytest.mark.parametrize("make", [_rtt, _demand, _signal])
def test_a_record_gives_its_batch_back(make: Any, count: int) -> None:
    batch = make(count)
    assert samples.rows(batch) == count
    _same(samples.decode(samples.encode(batch)), batch)


@given(st.integers(0, 300), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))
@settings(max_examples=50)
def test_any_rtt_batch_comes_back(count: int, seed: int, sequence: int) -> None:
    batch = replace(_rtt(count, seed), header=replace(HEADER, sequence=sequence))
    _same(samples.decode(samples.encode(batch)), batch)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 40), st.integers(0, RTT_US_MAX)),
        max_size=20,
    )
)
@settings(max_examples=200)
def test_rtt_of_any_width_comes_back(rows: list[tuple[int, int, int]]) -> None:
    """Times, networks and RTTs that need few bytes and many; lengths beside each other."""
    lengths = [length | IPV6_BIT if length > 32 else length for _, length, _ in rows]
    net = [(n << 32 | 0xFFFFFFFF) & mask(length) for n, length, _ in rows]
    batch = RttBatch(
        HEADER,
        dt_ms=np.array([n for n, _, _ in rows], np.uint32),
        net=np.array(net, np.uint64),
        plen=np.array(lengths, np.uint8),
        subject=np.zeros(len(rows), np.uint16),
        rtt_us=np.array([rtt_us for _, _, rtt_us in rows], np.uint32),
        method=np.zeros(len(rows), np.uint8),
        lost=np.zeros(len(rows), np.uint8),
    )
    _same(samples.decode(samples.encode(batch)), batch)


def test_any_reader_of_arrow_sees_the_samples() -> None:
    """The layout is plain columns: two sums give time and RTT, a network is its leading bytes."""
    batch = _rtt(100)
    with pa.ipc.open_stream(samples.encode(batch)) as reader:
        rows = reader.read_all().to_pylist()
    assert [r["dt_ms_low"] + 256 * r["dt_ms_high"] for r in rows] == batch.dt_ms.tolist()
    assert [r["rtt_us_low"] + 65_536 * r["rtt_us_high"] for r in rows] == batch.rtt_us.tolist()
    assert [r["net"].ljust(8, b"\0") for r in rows] == [n.to_bytes(8) for n in batch.net.tolist()]


def test_a_thousand_samples_fit_one_record() -> None:
    assert len(samples.encode(_rtt(1_000))) < RECORD_BYTES_MAX


def test_health_never_shares_the_stream_of_rtt() -> None:
    assert STREAM_OF[Kind.SIGNAL] != STREAM_OF[Kind.RTT] == STREAM_OF[Kind.DEMAND]


def test_mutated_bytes_raise_nothing_but_record_errors() -> None:
    chance = random.Random(7)
    refused: set[str] = set()
    for make in (_rtt, _demand, _signal):
        whole = samples.encode(make(50))
        for _ in range(1_500):
            damaged = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            try:
                samples.decode(bytes(damaged[: chance.choice([len(damaged), len(damaged), 300])]))
            except RecordError as error:
                refused.add(error.reason)
    assert "arrow" in refused
    assert refused <= REASONS


def test_every_cut_is_refused_or_whole() -> None:
    batch = _rtt(5)
    whole = samples.encode(batch)
    refused = set()
    for cut in range(len(whole)):
        try:
            _same(samples.decode(whole[:cut]), batch)
        except RecordError as error:
            refused.add(error.reason)
    assert refused == {"arrow"}


def _reason(record: bytes) -> str:
    with pytest.raises(RecordError) as refused:
        samples.decode(record)
    return refused.value.reason


def _bytes(batch: RttBatch, metadata: dict[str, str] | None = None, **columns: pa.Array) -> bytes:
    """A record with metadata and columns that `encode` would not write."""
    with pa.ipc.open_stream(samples.encode(batch)) as reader:
        table = reader.read_all()
    head = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    for name, column in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, column)
    table = table.replace_schema_metadata(
        {k: v for k, v in (head | (metadata or {})).items() if v != "absent"}
    )
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return bytes(out.getvalue().to_pybytes())


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"version": "1"}, "version"),
        ({"version": "one"}, "header"),
        ({"kind": "weather"}, "kind"),
        ({"kind": "demand"}, "schema"),
        ({"source": ""}, "header"),
        ({"source": "x" * 257}, "header"),
        ({"source": "absent"}, "header"),
        ({"sequence": "-1"}, "header"),
        ({"sequence": str(2**63)}, "header"),
        ({"t0_ms": "absent"}, "header"),
        ({"t0_ms": str(2**53)}, "header"),
        ({"subjects": ",".join("x" * 5_000)}, "header"),
        ({"subjects": ""}, "subject"),
        ({"subjects": "fra1"}, "subject"),
    ],
)
def test_metadata_is_checked(metadata: dict[str, str], reason: str) -> None:
    assert _reason(_bytes(_rtt(20), metadata)) == reason


@pytest.mark.parametrize(
    ("column", "values", "kind", "reason"),
    [
        ("subject", [0, 3], pa.uint16(), "subject"),
        ("rtt_us_high", [0, 916], pa.uint16(), "value"),
        ("rtt_us_low", [1, None], pa.uint16(), "null"),
        ("rtt_us_high", [1, 2], pa.uint32(), "schema"),
        ("dt_ms_high", [0, 1 << 24], pa.uint32(), "value"),
        ("dt_ms_high", [0, 1], pa.uint64(), "schema"),
        ("method", [0, 5], pa.uint8(), "value"),
        ("lost", [0, 2], pa.uint8(), "value"),
        ("plen", [24, 33], pa.uint8(), "prefix"),
        ("plen", [24, 65 | IPV6_BIT], pa.uint8(), "prefix"),
        ("plen", [24, 8], pa.uint8(), "prefix"),
        ("net", [b"\0" * 8, b"\0" * 7 + b"\1"], pa.binary(8), "prefix"),
        ("net", [b"\0" * 9, b"\0" * 9], pa.binary(9), "schema"),
        ("net", [0, 1], pa.uint64(), "schema"),
    ],
)
def test_columns_are_checked(column: str, values: list[Any], kind: Any, reason: str) -> None:
    batch = replace(_rtt(2), net=np.array([0, 0xC0000200 << 32], np.uint64))
    batch = replace(batch, plen=np.array([24, 24], np.uint8))
    assert _reason(_bytes(batch, **{column: pa.array(values, kind)})) == reason


@pytest.mark.parametrize("bits", [float("nan"), float("inf"), -1.0, 2e18])
def test_absurd_demand_is_refused(bits: float) -> None:
    batch = _demand(2)
    batch.bits[1] = bits
    assert _reason(samples.encode(batch)) == "value"


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), -1.0, 2e16])
def test_absurd_signals_are_refused(value: float) -> None:
    batch = _signal(2)
    batch.value[1] = value
    assert _reason(samples.encode(batch)) == "value"


def test_an_unknown_signal_is_refused() -> None:
    batch = _signal(2)
    batch.signal[1] = 7
    assert _reason(samples.encode(batch)) == "value"


def test_too_many_rows_are_refused() -> None:
    assert _reason(samples.encode(_rtt(65_536))) == "rows"


@pytest.mark.parametrize("record", [b"", b"\x00" * 64, b'{"rtt": 1}', b"\xff\xff\xff\xff" * 4])
def test_what_is_no_arrow_is_refused(record: bytes) -> None:
    assert _reason(record) == "arrow"


def test_a_stream_without_a_batch_is_refused() -> None:
    schema = pa.schema([("a", pa.uint8())], metadata={"kind": "rtt"})
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, schema):
        pass
    assert _reason(out.getvalue().to_pybytes()) == "header"


@given(
    st.lists(
        st.tuples(
            st.integers(0, 255),
            st.integers(0, 2**64 - 1),
            st.one_of(st.just(0), st.integers(0, 64)),
        ),
        max_size=4,
    )
)
def test_prefixes_are_those_whose_lengths_and_host_bits_are_right(
    rows: list[tuple[int, int, int]],
) -> None:
    """Networks are cut to their length, or a little longer."""
    plens = [plen for plen, _, _ in rows]
    nets = [net & mask(min(64, (plen & LENGTH_MASK) + more)) for plen, net, more in rows]

    right = all(
        (plen & LENGTH_MASK) <= (64 if plen & IPV6_BIT else 32)
        and not net & ~mask(plen & LENGTH_MASK)
        for plen, net in zip(plens, nets, strict=True)
    )
    assert are_prefixes(np.array(nets, np.uint64), np.array(plens, np.uint8)) is right
