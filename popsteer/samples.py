"""A record in Kinesis: one columnar batch of samples of one kind from one source.

The bytes are one Arrow IPC stream with one record batch. The schema's metadata says kind, version,
source, the source's sequence number, t0 and the subjects (POPs or links) that the `subject` column
indexes. Demand and signals are plain columns with zstd inside; RTT, the bulk, is laid out for LZ4
(`popsteer.planes`). Times are UTC epoch milliseconds (t0 plus `dt_ms`), RTT is microseconds,
rates are bits/s. A lost probe is a row whose `lost` is 1 and whose `rtt_us` is the time waited:
a censored observation, never missing data.

`decode` lets nothing through that later code would have to doubt: wrong version, wrong types,
nulls, indexes or values out of bounds raise `RecordError` with a reason fit for a metric label.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from popsteer import planes
from popsteer.errors import RecordError
from popsteer.names import Net, Plen, SourceId, mask
from popsteer.planes import most

VERSION = 2
RECORD_BYTES_MAX = 25 * 1024
"""One PUT payload unit; producers cut batches so that records stay below it."""
ROWS_MAX = 65_535
SUBJECTS_MAX = 4_096
RTT_US_MAX = 60_000_000
BITS_MAX = 1e18
RATE_BPS_MAX = 1e16

BULK_STREAM = "popsteer-bulk"
URGENT_STREAM = "popsteer-urgent"


class Kind(StrEnum):
    """What the samples of a batch are."""

    RTT = "rtt"
    DEMAND = "demand"
    SIGNAL = "signal"


class Method(IntEnum):
    """How an RTT was measured."""

    ICMP = 0
    TCP = 1
    TLS = 2
    HTTP = 3
    DNS = 4


class Signal(IntEnum):
    """What a signal sample measures; the unit is in the name."""

    UP = 0
    """1 when the POP serves, 0 when not."""
    LOAD_BPS = 1
    LOAD_RPS = 2
    TX_BPS = 3
    RX_BPS = 4
    CAPACITY_BPS = 5
    DROPS_PER_S = 6


STREAM_OF = {Kind.RTT: BULK_STREAM, Kind.DEMAND: BULK_STREAM, Kind.SIGNAL: URGENT_STREAM}
"""Two streams, so that a backlog of RTT never delays health."""


@dataclass(frozen=True, slots=True)
class Header:
    """Who sent a batch and what its columns refer to."""

    source: SourceId
    """The agent's lane; also the partition key."""
    sequence: int
    """Rises by one per record of a source; a retry repeats it, so it can be recognised."""
    t0_ms: int
    subjects: tuple[str, ...]
    """What the `subject` column indexes: POP ids, or links as `pop/link`."""


@dataclass(frozen=True, slots=True)
class RttBatch:
    """RTT between a prefix and a POP."""

    kind: ClassVar[Kind] = Kind.RTT
    header: Header
    dt_ms: NDArray[np.uint32]
    net: Net
    plen: Plen
    subject: NDArray[np.uint16]
    rtt_us: NDArray[np.uint32]
    method: NDArray[np.uint8]
    lost: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class DemandBatch:
    """Queries that a DNS node answered for a prefix with a POP since its last report."""

    kind: ClassVar[Kind] = Kind.DEMAND
    header: Header
    dt_ms: NDArray[np.uint32]
    net: Net
    plen: Plen
    subject: NDArray[np.uint16]
    queries: NDArray[np.uint32]
    bits: NDArray[np.float32]
    """The traffic that these queries are estimated to bring; a volume, so that sums are right."""


@dataclass(frozen=True, slots=True)
class SignalBatch:
    """State of POPs and links."""

    kind: ClassVar[Kind] = Kind.SIGNAL
    header: Header
    dt_ms: NDArray[np.uint32]
    subject: NDArray[np.uint16]
    signal: NDArray[np.uint8]
    value: NDArray[np.float64]


Batch: TypeAlias = RttBatch | DemandBatch | SignalBatch

_KEYED = [("dt_ms", pa.uint32()), ("net", pa.uint64()), ("plen", pa.uint8())]
_RTT_COLUMNS = ("dt_ms", "net", "plen", "subject", "rtt_us", "method", "lost")
_COLUMNS: dict[Kind, list[tuple[str, Any]]] = {
    Kind.DEMAND: [
        *_KEYED,
        ("subject", pa.uint16()),
        ("queries", pa.uint32()),
        ("bits", pa.float32()),
    ],
    Kind.SIGNAL: [
        ("dt_ms", pa.uint32()),
        ("subject", pa.uint16()),
        ("signal", pa.uint8()),
        ("value", pa.float64()),
    ],
}
_KINDS = {kind.value.encode(): kind for kind in Kind}
_METHODS = len(Method)
_SCHEMAS = {kind: pa.schema(columns) for kind, columns in _COLUMNS.items()}
# Columns are small: handing each to a thread costs more than compressing it.
_OPTIONS = {
    Kind.RTT: pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False),
    Kind.DEMAND: pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False),
    Kind.SIGNAL: pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False),
}
_READ = pa.ipc.IpcReadOptions(use_threads=False)


def rows(batch: Batch) -> int:
    """How many samples a batch holds."""
    return len(batch.dt_ms)


def newest_ms(batch: Batch) -> int:
    """The time of the newest sample; t0 where there is none."""
    return batch.header.t0_ms + most(batch.dt_ms)


def encode(batch: Batch) -> bytes:
    """The record of a batch; `decode` gives the batch back.

    Raises:
        ValueError: columns of unequal length (a programmer's error).
    """
    if isinstance(batch, RttBatch):
        arrays, schema = planes.write({name: getattr(batch, name) for name in _RTT_COLUMNS})
    else:
        schema = _SCHEMAS[batch.kind]
        arrays = [pa.array(getattr(batch, name), kind) for name, kind in _COLUMNS[batch.kind]]
    schema = schema.with_metadata(_metadata(batch.kind, batch.header))
    body = pa.BufferOutputStream()
    with pa.ipc.new_stream(body, schema, options=_OPTIONS[batch.kind]) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(body.getvalue().to_pybytes())


def _metadata(kind: Kind, header: Header) -> dict[str, str]:
    return {
        "kind": kind.value,
        "version": str(VERSION),
        "source": header.source,
        "sequence": str(header.sequence),
        "t0_ms": str(header.t0_ms),
        "subjects": ",".join(header.subjects),
    }


def decode(record: bytes) -> Batch:
    """The batch in a record; columns are fresh arrays or views of the decoded buffers.

    Raises:
        RecordError: with reason `arrow`, `version`, `kind`, `header`, `schema`, `rows`, `null`,
            `subject`, `prefix` or `value`.
    """
    try:
        with pa.ipc.open_stream(record, options=_READ) as reader:
            schema = reader.schema
            kind, header = _parse_metadata(schema.metadata or {})
            fits = planes.known(schema) if kind is Kind.RTT else schema.equals(_SCHEMAS[kind])
            if not fits:
                raise RecordError("schema", str(schema)[:200])
            table = reader.read_next_batch()
            table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError, StopIteration) as error:
        raise RecordError("arrow", str(error).partition("\n")[0]) from None
    return _checked(kind, header, table)


def _parse_metadata(raw: dict[bytes, bytes]) -> tuple[Kind, Header]:
    try:
        version, kind_text = int(raw[b"version"]), raw[b"kind"]
        sequence, t0_ms = int(raw[b"sequence"]), int(raw[b"t0_ms"])
        source, subjects = raw[b"source"].decode(), raw[b"subjects"].decode()
    except (KeyError, ValueError) as error:
        raise RecordError("header", repr(error)) from None
    if version != VERSION:
        raise RecordError("version", str(version))
    kind = _KINDS.get(kind_text)
    if kind is None:
        raise RecordError("kind", repr(kind_text[:32]))
    if not source or len(source) > 256 or not 0 <= sequence < 2**63 or not 0 <= t0_ms < 2**53:
        raise RecordError("header", f"source {source[:64]!r} sequence {sequence} t0 {t0_ms}")
    listed = tuple(subjects.split(",")) if subjects else ()
    if len(listed) > SUBJECTS_MAX:
        raise RecordError("header", f"{len(listed)} subjects")
    return kind, Header(SourceId(source), sequence, t0_ms, listed)


def _checked(kind: Kind, header: Header, table: Any) -> Batch:
    if table.num_rows > ROWS_MAX:
        raise RecordError("rows", str(table.num_rows))
    columns = table.columns
    if any([column.null_count for column in columns]):  # noqa: C419 - a third of the time
        raise RecordError("null")
    if kind is Kind.RTT:
        return _checked_rtt(header, *planes.read(columns))
    arrays = {n: c.to_numpy() for (n, _), c in zip(_COLUMNS[kind], columns, strict=True)}
    made = (DemandBatch if kind is Kind.DEMAND else SignalBatch)(header, **arrays)
    if not table.num_rows:
        return made
    highest = most(arrays["subject"])
    if highest >= len(header.subjects):
        raise RecordError("subject", f"{highest} of {len(header.subjects)}")
    if kind is Kind.DEMAND:
        _check_prefixes(arrays["net"], arrays["plen"])
    if not _values_sane(made):
        raise RecordError("value", f"a {kind} value out of bounds")
    return made


def _checked_rtt(
    header: Header, arrays: dict[str, NDArray[Any]], extremes: planes.Extremes
) -> RttBatch:
    """By the extremes alone, unless lengths of prefixes differ: each record pays for this."""
    batch = RttBatch(header, **arrays)
    if not rows(batch):
        return batch
    if extremes.subject >= len(header.subjects):
        raise RecordError("subject", f"{extremes.subject} of {len(header.subjects)}")
    length = extremes.plen_most
    if length != extremes.plen_least or length > 32 or extremes.net_union & ~mask(length):
        _check_prefixes(batch.net, batch.plen)
    if extremes.rtt_us > RTT_US_MAX or extremes.method >= _METHODS or extremes.lost > 1:
        raise RecordError("value", "an rtt value out of bounds")
    return batch


def _check_prefixes(net: Net, plen: Plen) -> None:
    from popsteer.unpack import are_prefixes

    if not are_prefixes(net, plen):
        raise RecordError("prefix", "length out of bounds, or host bits are set")


def _values_sane(batch: DemandBatch | SignalBatch) -> bool:
    match batch:
        case DemandBatch():
            bits = batch.bits
            return bool(np.isfinite(bits).all() and (bits >= 0).all()) and (
                float(bits.max()) <= BITS_MAX
            )
        case SignalBatch():
            value = batch.value
            return (
                int(batch.signal.max()) < len(Signal)
                and bool(np.isfinite(value).all() and (value >= 0).all())
                and float(value.max()) <= RATE_BPS_MAX
            )
