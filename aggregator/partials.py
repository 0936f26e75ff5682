"""Partials: what one window of one shard becomes in S3, as Parquet with zstd.

Key: `partials/kind=<kind>/window=<start, 13 digits of ms>/<stream>-<shard>.parquet`; a further
object of a window that is already written has `-<its first sequence number>` behind the shard.
Objects are written once. The same samples give the same bytes: rows have one order, and nothing
of the clock or the machine enters.

Every column is a sum, a count or an extreme, so merging partials is a GROUP BY, here or in any
SQL engine. Rows carry the event window (when it was measured); the key carries the arrival window
(when Kinesis took it). This module owns the format, not the folding.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from aggregator.seen import Mark
from popsteer.errors import StoreError
from popsteer.names import Net, Plen
from popsteer.samples import Kind

VERSION = 1
_METADATA_KEY = b"popsteer"

Int64 = NDArray[np.int64]
UInt32 = NDArray[np.uint32]
Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a partial comes from and what it accounts for: all records of its stretch of a shard.

    The partials of one cut (one per kind of the stream) have the same origin.
    """

    stream: str
    shard: str
    window_start_ms: int
    """Arrival window of the key."""
    window_ms: int
    first_sequence: int
    """Kinesis sequence number of the first record; every record from here to the last counts."""
    last_sequence: int
    records: int
    samples: int
    """Samples of accepted records, of all kinds of the stream; also those refused by themselves."""
    duplicates: int
    """Records that were dropped because (source, sequence) had been seen."""
    quarantined: dict[str, int]
    """What was refused, by reason: whole records, and for `light` single samples of others."""
    supplement: bool
    """Whether the window had been written before."""
    previous: tuple[str, ...]
    """Keys of the cut before this one: none for a first, two after a merge of shards."""
    marks: dict[str, Mark]
    """Sequence numbers seen, by source, after this cut: what the next cut starts from."""

    def key(self, kind: Kind) -> str:
        """The key of this origin's partial of a kind."""
        suffix = f"-{self.first_sequence}" if self.supplement else ""
        name = f"{self.stream}-{self.shard}{suffix}.parquet"
        return f"{window_prefix(kind, self.window_start_ms)}{name}"


@dataclass(frozen=True, slots=True)
class RttPartial:
    """Histograms of RTT, long form: n rows sorted by event window, POP, prefix, method, bucket."""

    kind: ClassVar[Kind] = Kind.RTT
    origin: Origin
    pops: tuple[str, ...]
    """What `pop` indexes, sorted."""
    event_window_ms: Int64
    """Start of the window of event time, epoch ms."""
    net: Net
    plen: Plen
    pop: NDArray[np.uint16]
    method: NDArray[np.uint8]
    bucket: NDArray[np.int16]
    """See `aggregator.histogram`; -1 is lost."""
    count: UInt32
    max_us: UInt32
    """The highest RTT in the row; of lost probes, the longest wait."""


@dataclass(frozen=True, slots=True)
class DemandPartial:
    """Queries and the traffic they bring, summed: n rows sorted by event window, POP, prefix."""

    kind: ClassVar[Kind] = Kind.DEMAND
    origin: Origin
    pops: tuple[str, ...]
    event_window_ms: Int64
    net: Net
    plen: Plen
    pop: NDArray[np.uint16]
    queries: NDArray[np.uint64]
    bits: Float64


@dataclass(frozen=True, slots=True)
class SignalPartial:
    """State of POPs and links, summed: n rows sorted by event window, subject, signal."""

    kind: ClassVar[Kind] = Kind.SIGNAL
    origin: Origin
    subjects: tuple[str, ...]
    """What `subject` indexes, sorted: POP ids, or links as `pop/link`."""
    event_window_ms: Int64
    subject: NDArray[np.uint16]
    signal: NDArray[np.uint8]
    count: UInt32
    sum: Float64
    max: Float64
    last: Float64
    """The value of the newest sample by event time; of equally new ones, the highest."""
    last_ms: Int64


Partial: TypeAlias = RttPartial | DemandPartial | SignalPartial

_TYPES: dict[Kind, type[RttPartial] | type[DemandPartial] | type[SignalPartial]] = {
    Kind.RTT: RttPartial,
    Kind.DEMAND: DemandPartial,
    Kind.SIGNAL: SignalPartial,
}
_NAMES = pa.dictionary(pa.uint16(), pa.string())
_PREFIX_POP = [("event_window_ms", pa.int64()), ("net", pa.uint64()), ("plen", pa.uint8())]
_COLUMNS: dict[Kind, list[tuple[str, Any]]] = {
    Kind.RTT: [
        *_PREFIX_POP,
        ("pop", _NAMES),
        ("method", pa.uint8()),
        ("bucket", pa.int16()),
        ("count", pa.uint32()),
        ("max_us", pa.uint32()),
    ],
    Kind.DEMAND: [
        *_PREFIX_POP,
        ("pop", _NAMES),
        ("queries", pa.uint64()),
        ("bits", pa.float64()),
    ],
    Kind.SIGNAL: [
        ("event_window_ms", pa.int64()),
        ("subject", _NAMES),
        ("signal", pa.uint8()),
        ("count", pa.uint32()),
        ("sum", pa.float64()),
        ("max", pa.float64()),
        ("last", pa.float64()),
        ("last_ms", pa.int64()),
    ],
}


def kind_prefix(kind: Kind) -> str:
    """What all keys of a kind start with."""
    return f"partials/kind={kind.value}/"


def window_prefix(kind: Kind, window_start_ms: int) -> str:
    """What all keys of a kind and window start with; prefixes sort by time."""
    return f"{kind_prefix(kind)}window={window_start_ms:013d}/"


def window_of_key(key: str) -> int:
    """The start of the arrival window in a key, epoch ms.

    Raises:
        ValueError: not a key of a partial.
    """
    _, _, rest = key.partition("/window=")
    return int(rest.partition("/")[0])


def encode(partial: Partial) -> bytes:
    """The object of a partial; equal partials give equal bytes."""
    columns = _COLUMNS[partial.kind]
    arrays = [_column(partial, name, kind) for name, kind in columns]
    metadata = {_METADATA_KEY: _encode_origin(partial.kind, partial.origin)}
    table = pa.table(arrays, schema=pa.schema(columns, metadata=metadata))
    body = pa.BufferOutputStream()
    # Dictionaries of numbers are tried and given up again by the writer: half of its time.
    names = [name for name, kind in columns if kind is _NAMES]
    pq.write_table(table, body, compression="zstd", row_group_size=1 << 20, use_dictionary=names)
    return bytes(body.getvalue().to_pybytes())


def _column(partial: Partial, name: str, kind: Any) -> Any:
    values = getattr(partial, name)
    if kind is not _NAMES:
        return pa.array(values, kind)
    return pa.DictionaryArray.from_arrays(pa.array(values, pa.uint16()), list(_names(partial)))


def _names(partial: Partial) -> tuple[str, ...]:
    return partial.subjects if isinstance(partial, SignalPartial) else partial.pops


def decode(body: bytes) -> Partial:
    """The partial in an object; the inverse of `encode`.

    Raises:
        StoreError: not a partial, or of another version.
    """
    try:
        table = pq.read_table(pa.BufferReader(body), use_threads=False).combine_chunks()
        kind, origin = _decode_origin(table.schema.metadata or {})
        columns = {name: table.column(name) for name, _ in _COLUMNS[kind]}
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
        raise StoreError(f"not a partial: {error}") from None
    values: dict[str, Any] = {}
    for name, shape in _COLUMNS[kind]:
        if shape is _NAMES:
            names, values[name] = _decode_names(columns[name])
            values["subjects" if kind is Kind.SIGNAL else "pops"] = names
        else:
            values[name] = columns[name].to_numpy()
    return _TYPES[kind](origin=origin, **values)


def decode_origin(body: bytes) -> Origin:
    """Only where the partial in an object comes from, without its rows.

    Raises:
        StoreError: not a partial, or of another version.
    """
    try:
        return _decode_origin(pq.read_schema(pa.BufferReader(body)).metadata or {})[1]
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError) as error:
        raise StoreError(f"not a partial: {error}") from None


def _decode_names(column: Any) -> tuple[tuple[str, ...], NDArray[np.uint16]]:
    """Names and indexes; the file's dictionary may have another order than ours."""
    if not len(column):
        return (), np.empty(0, np.uint16)
    chunk = column.combine_chunks()
    stored: list[str] = chunk.dictionary.to_pylist()
    names = tuple(sorted(stored))
    place = {name: index for index, name in enumerate(names)}
    order = np.array([place[name] for name in stored], np.uint16)
    return names, order[chunk.indices.to_numpy()]


def _encode_origin(kind: Kind, origin: Origin) -> bytes:
    document: dict[str, Any] = {"version": VERSION, "kind": kind.value}
    document |= {f.name: getattr(origin, f.name) for f in fields(origin)}
    # Sequence numbers have 56 digits: as text, for readers whose JSON numbers are doubles.
    document |= {
        "first_sequence": str(origin.first_sequence),
        "last_sequence": str(origin.last_sequence),
        "marks": {source: asdict(mark) for source, mark in origin.marks.items()},
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _decode_origin(metadata: dict[bytes, bytes]) -> tuple[Kind, Origin]:
    document = json.loads(metadata[_METADATA_KEY])
    if document.pop("version") != VERSION:
        raise ValueError("another version")
    kind = Kind(document.pop("kind"))
    document |= {
        "first_sequence": int(document["first_sequence"]),
        "last_sequence": int(document["last_sequence"]),
        "previous": tuple(document["previous"]),
        "marks": {source: Mark.of(mark) for source, mark in document["marks"].items()},
    }
    return kind, Origin(**document)


def digest(body: bytes) -> str:
    """A short name for exactly these bytes, for logs."""
    return hashlib.sha256(body).hexdigest()[:12]
