"""Evidence: why a table says what it says, `evidence/<generation>.arrow`.

One row per (prefix, POP) that the planner considered, with the estimate it used and the rule
that placed or removed the POP. `explain` reads it; no decision rests on it.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

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


def key(generation: int) -> str:
    """The object that holds the evidence of a generation."""
    return f"evidence/{generation:012d}.arrow"


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


_COLUMNS = [
    ("net", pa.uint64()),
    ("plen", pa.uint8()),
    ("demand_bps", pa.float32()),
    ("pop", pa.uint16()),
    ("rtt_us", pa.float32()),
    ("spread_us", pa.float32()),
    ("samples", pa.float32()),
    ("age_s", pa.float32()),
    ("loss", pa.float32()),
    ("price_us", pa.float32()),
    ("reason", pa.uint8()),
]


def encode(evidence: Evidence) -> bytes:
    """The bytes of the object."""
    metadata = {
        "generation": str(evidence.generation),
        "created_ms": str(evidence.created_ms),
        "pops": ",".join(evidence.pops),
    }
    schema = pa.schema(_COLUMNS, metadata=metadata)
    arrays = [pa.array(getattr(evidence, name), kind) for name, kind in _COLUMNS]
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as w:
        w.write_batch(pa.record_batch(arrays, schema=schema))
    data: bytes = out.getvalue().to_pybytes()
    return data


def decode(data: bytes) -> Evidence:
    """The evidence in the bytes.

    Raises:
        TableError: not evidence.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            metadata = {k.decode(): v.decode() for k, v in (reader.schema.metadata or {}).items()}
            batch = reader.read_next_batch()
            columns: dict[str, Any] = {
                name: batch.column(name).to_numpy(zero_copy_only=False) for name, _ in _COLUMNS
            }
            generation, created_ms = int(metadata["generation"]), int(metadata["created_ms"])
            pops = tuple(metadata["pops"].split(","))
    except (pa.ArrowException, ValueError, OSError, StopIteration, KeyError) as error:
        raise TableError(f"not evidence: {str(error)[:200]}") from None
    return Evidence(generation, created_ms, pops, **columns)
