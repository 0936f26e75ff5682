"""Evidence: why a table says what it says, `evidence/<generation>.arrow`.

Of each (prefix, POP) that the planner considered: the estimate it used and the rule that placed or
removed the POP. `explain` reads it; no decision rests on it. The bytes are an Arrow IPC stream with
a row per prefix; they must not outweigh the table, so numbers have half precision there.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from popsteer.errors import TableError
from popsteer.intervals import last_of
from popsteer.names import IPV6_BIT, Net, Plen, Prefix


class Reason(IntEnum):
    """What became of a candidate."""

    CHOSEN = 0
    SHARED = 1
    """It takes a part of a prefix whose demand is split."""
    SLOWER = 2
    FULL = 3
    """Faster than the chosen one, but its capacity is taken."""
    DOWN = 4
    DRAINED = 5
    UNMEASURED = 6
    """The RTT is inferred, not measured."""
    PINNED_ELSEWHERE = 7
    NOT_WORTH_MOVING = 8
    """Faster, but not by more than the uncertainty and the cost of moving."""
    POLICY = 9
    """The policy in force prefers another for a reason other than latency."""


class Source(IntEnum):
    """Where an RTT comes from; the later, the less is known."""

    MEASURED = 0
    WIDER = 1
    """A wider prefix that was measured."""
    NETWORK = 2
    """Other prefixes of the same autonomous system."""
    PLACE = 3
    """The distance on the map."""


def key(generation: int, number: int = 0) -> str:
    """The object that holds the evidence of a generation, of one of its sets of answers."""
    further = f"-{number}" if number else ""
    return f"evidence/{generation:012d}{further}.arrow"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Long form: n pairs, sorted by (family, prefix), then rank. NaN is unknown."""

    generation: int
    created_ms: int
    pops: tuple[str, ...]
    net: Net
    plen: Plen
    demand_bps: NDArray[np.float32]
    """Of the prefix, repeated on each of its rows."""
    pop: NDArray[np.uint16]
    rtt_us: NDArray[np.float32]
    spread_us: NDArray[np.float32]
    """Half the width of the interval that holds the true RTT nine times in ten."""
    samples: NDArray[np.float32]
    """Effective number of samples, after decay."""
    age_s: NDArray[np.float32]
    """Of the newest sample, at `created_ms`."""
    loss: NDArray[np.float32]
    price_us: NDArray[np.float32]
    """What the POP's scarce capacity cost in this solution, as added RTT."""
    reason: NDArray[np.uint8]
    source: NDArray[np.uint8]
    """Of the RTT, a `Source`."""

    def rows_of(self, prefix: Prefix) -> NDArray[np.int64]:
        """Rows of the longest prefix here that covers the start of `prefix`, best first."""
        family = (self.plen & np.uint8(IPV6_BIT)) == (prefix.plen & IPV6_BIT)
        number = np.uint64(prefix.net)
        covering = family & (self.net <= number) & (number <= last_of(self.net, self.plen))
        rows = np.flatnonzero(covering)
        if not len(rows):
            return rows
        longest = self.plen[rows].max()
        chosen: NDArray[np.int64] = rows[self.plen[rows] == longest]
        return chosen


_PAIR = pa.struct(
    [
        ("pop", pa.uint16()),
        ("rtt_ms", pa.float16()),
        ("spread_ms", pa.float16()),
        ("samples", pa.float16()),
        ("age_s", pa.float16()),
        ("loss", pa.float16()),
        ("reason", pa.uint8()),
        ("source", pa.uint8()),
    ]
)
_COLUMNS = [
    ("net", pa.uint64()),
    ("plen", pa.uint8()),
    ("demand_bps", pa.float32()),
    ("pairs", pa.list_(_PAIR)),
]
_UNITS = {"rtt_ms": ("rtt_us", 1e3), "spread_ms": ("spread_us", 1e3)}
"""Column of `Evidence` behind a column of the bytes, and how many of its units are one."""
_HALF_MAX = 65_504.0
"""The largest half-precision number; more is written as this."""


class _Head(msgspec.Struct):
    generation: int
    created_ms: int
    pops: tuple[str, ...]
    price_us: tuple[float, ...]


def encode(evidence: Evidence) -> bytes:
    """The bytes of the object: one row per prefix, its pairs as a list.

    Numbers of pairs keep three digits, as precise as they are known.
    """
    price = np.zeros(len(evidence.pops), np.float32)
    price[evidence.pop] = evidence.price_us
    head = _Head(evidence.generation, evidence.created_ms, evidence.pops, tuple(price.tolist()))
    metadata = {"popsteer.evidence": msgspec.json.encode(head)}
    schema = pa.schema(_COLUMNS, metadata=metadata)
    net, plen = evidence.net, evidence.plen
    first = np.flatnonzero(
        np.append(np.ones(min(1, len(net)), bool), (net[1:] != net[:-1]) | (plen[1:] != plen[:-1]))
    )
    columns = [_column(evidence, field) for field in _PAIR]
    pairs = pa.ListArray.from_arrays(
        pa.array(np.append(first, len(net)).astype(np.int32)),
        pa.StructArray.from_arrays(columns, fields=list(_PAIR)),
    )
    arrays = [net[first], plen[first], evidence.demand_bps[first], pairs]
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as w:
        w.write_batch(pa.record_batch([pa.array(array) for array in arrays], schema=schema))
    data: bytes = out.getvalue().to_pybytes()
    return data


def _column(evidence: Evidence, field: Any) -> Any:
    name, unit = _UNITS.get(field.name, (field.name, 1.0))
    values = getattr(evidence, name)
    if field.type == pa.float16():
        values = np.minimum(values / np.float32(unit), np.float32(_HALF_MAX)).astype(np.float16)
    return pa.array(values, field.type)


def decode(data: bytes) -> Evidence:
    """The evidence in the bytes.

    Raises:
        TableError: not evidence.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            metadata = reader.schema.metadata or {}
            head = msgspec.json.decode(metadata[b"popsteer.evidence"], type=_Head)
            batch = reader.read_next_batch()
            batch.validate(full=True)
        if not batch.schema.equals(pa.schema(_COLUMNS)):
            raise TableError("not evidence: other columns")
        return _evidence(head, batch)
    except (pa.ArrowException, ValueError, OSError, StopIteration, KeyError, IndexError) as error:
        raise TableError(f"not evidence: {str(error)[:200]}") from None


def _evidence(head: _Head, batch: Any) -> Evidence:
    lists = batch.column("pairs")
    pairs, count = lists.flatten(), np.diff(lists.offsets.to_numpy())
    columns: dict[str, Any] = {
        name: np.repeat(batch.column(name).to_numpy(), count)
        for name in ("net", "plen", "demand_bps")
    }
    for field in _PAIR:
        name, unit = _UNITS.get(field.name, (field.name, 1.0))
        values = pairs.field(field.name).to_numpy(zero_copy_only=False)
        if field.type == pa.float16():
            values = values.astype(np.float32) * np.float32(unit)
        columns[name] = values
    columns["price_us"] = np.array(head.price_us, np.float32)[columns["pop"]]
    return Evidence(head.generation, head.created_ms, head.pops, **columns)
