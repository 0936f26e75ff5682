"""The columns of RTT samples as they stand in a record: small under LZ4 alone. Pure.

Bytes that vary at random stand apart from bytes that hardly vary, as in Parquet's
BYTE_STREAM_SPLIT: the former are stored as they are, the latter vanish. That makes records as
small as zstd makes the plain columns, and they are read ten times as fast.

    dt_ms_low uint8, dt_ms_high uint8 or uint32    dt_ms = low + 256 * high
    net fixed_size_binary                          leading bytes of the network, network order
    plen uint8, subject uint16
    rtt_us_low uint16, rtt_us_high uint8 or uint16 rtt_us = low + 65536 * high
    method uint8, lost uint8

It owns the layout and no rule about values but one: what it reads fits the types it gives.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from popsteer.errors import RecordError
from popsteer.names import Net

NET_BYTES = 8
_DT_HIGH_MAX = 1 << 24


def write(columns: dict[str, NDArray[Any]]) -> tuple[list[Any], Any]:
    """The arrays of these columns, and their schema without metadata."""
    dt_ms, net, rtt_us = columns["dt_ms"], columns["net"], columns["rtt_us"]
    dt_high, rtt_high = dt_ms >> 8, rtt_us >> 16
    width = _net_bytes(net)
    schema = _schema(
        pa.uint8() if most(dt_high) < 256 else pa.uint32(),
        width,
        pa.uint8() if most(rtt_high) < 256 else pa.uint16(),
    )
    leading = net.astype(">u8").view(np.uint8).reshape(-1, NET_BYTES)[:, :width]
    arrays = [
        dt_ms.astype(np.uint8),
        dt_high,
        leading,
        columns["plen"],
        columns["subject"],
        rtt_us.astype(np.uint16),
        rtt_high,
        columns["method"],
        columns["lost"],
    ]
    return [_array(a, f.type) for a, f in zip(arrays, schema, strict=True)], schema


def _array(values: NDArray[Any], kind: Any) -> Any:
    if not pa.types.is_fixed_size_binary(kind):
        return pa.array(values.astype(kind.to_pandas_dtype(), copy=False), kind)
    body = pa.py_buffer(values.tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, body])


def most(values: NDArray[Any]) -> int:
    """The highest of whole numbers; 0 of none."""
    return int(values.max()) if len(values) else 0


def _net_bytes(net: Net) -> int:
    """How many leading bytes tell all networks."""
    union = int(np.bitwise_or.reduce(net))
    trailing = (union & -union).bit_length() - 1 if union else 63
    return max(1, NET_BYTES - trailing // 8)


def known(schema: Any) -> bool:
    """Whether `read` understands batches of this schema; its metadata may be anything."""
    return any(schema.equals(one) for one in _known())


@functools.cache
def _known() -> tuple[Any, ...]:
    """All schemas that `write` makes, /24 prefixes first: the first comparison is the usual one."""
    return tuple(
        _schema(dt_high, net_bytes, rtt_high)
        for net_bytes in sorted(range(1, NET_BYTES + 1), key=lambda width: abs(width - 3))
        for dt_high in (pa.uint8(), pa.uint32())
        for rtt_high in (pa.uint8(), pa.uint16())
    )


@functools.cache
def _schema(dt_high: Any, net_bytes: int, rtt_high: Any) -> Any:
    return pa.schema(
        [
            ("dt_ms_low", pa.uint8()),
            ("dt_ms_high", dt_high),
            ("net", pa.binary(net_bytes)),
            ("plen", pa.uint8()),
            ("subject", pa.uint16()),
            ("rtt_us_low", pa.uint16()),
            ("rtt_us_high", rtt_high),
            ("method", pa.uint8()),
            ("lost", pa.uint8()),
        ]
    )


@dataclass(frozen=True, slots=True)
class Extremes:
    """What the bounds of values are checked by."""

    subject: int
    rtt_us: int
    method: int
    lost: int
    plen_least: int
    plen_most: int
    net_union: int
    """All networks or-ed together."""


def read(stored: Sequence[Any]) -> tuple[dict[str, NDArray[Any]], Extremes]:
    """The columns of samples from those of a validated batch of a known schema, without nulls.

    Raises:
        RecordError: with reason `value`, a time beyond 32 bits.
    """
    from popsteer.unpack import EXTREMES, unpack

    dt_low, dt_high, net, plen, subject, rtt_low, rtt_high, method, lost = stored
    size, width = len(dt_low), net.type.byte_width
    columns = {
        "dt_ms": np.empty(size, np.uint32),
        "net": np.empty(size, np.uint64),
        "plen": plen.to_numpy(),
        "subject": subject.to_numpy(),
        "rtt_us": np.empty(size, np.uint32),
        "method": method.to_numpy(),
        "lost": lost.to_numpy(),
    }
    extremes = np.zeros(EXTREMES, np.uint64)
    if size:
        leading = np.frombuffer(net.buffers()[1], np.uint8, size * width, net.offset * width)
        unpack(
            dt_low.to_numpy(),
            dt_high.to_numpy(),
            leading,
            width,
            columns["plen"],
            columns["subject"],
            rtt_low.to_numpy(),
            rtt_high.to_numpy(),
            columns["method"],
            columns["lost"],
            columns["dt_ms"],
            columns["net"],
            columns["rtt_us"],
            extremes,
        )
    dt_high_most, *others = extremes.tolist()
    if dt_high_most >= _DT_HIGH_MAX:
        raise RecordError("value", "dt_ms beyond 32 bits")
    return columns, Extremes(*others)
