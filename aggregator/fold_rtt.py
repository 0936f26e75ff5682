"""The fold of RTT samples: histograms by sorting packed 64-bit keys, in compiled passes.

Apart from `aggregator.fold`, so that only who folds RTT loads the compiled code.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from aggregator.fold import column, places_in
from aggregator.histogram import FIRST_US, LOST, levels
from aggregator.packing import Keys, Packing, pack
from aggregator.partials import Int64, Origin, RttPartial
from popsteer.kernel import kernel
from popsteer.samples import RttBatch


def fold_rtt(batches: Sequence[RttBatch], origin: Origin) -> RttPartial:
    """Histograms per (event window, POP, prefix, method)."""
    places = places_in(batches, origin.window_ms)
    level, above_us = levels(
        column(batches, "rtt_us", np.uint32), column(batches, "lost", np.uint8)
    )
    columns: dict[str, NDArray[Any]] = {
        # From most to least significant: sorting the keys sorts the rows as a partial wants them,
        # and the samples of a bucket by RTT, so that the last of them is its maximum.
        "place": places.place,
        "net": column(batches, "net", np.uint64),
        "plen": column(batches, "plen", np.uint8),
        "method": column(batches, "method", np.uint8),
        "level": level,
        "above_us": above_us,
    }
    nets, packing = None, Packing.of(columns)
    if not packing.fits:
        nets, columns["net"] = _ranked(columns["net"])
        packing = Packing.of(columns)
    dtypes = {name: column.dtype for name, column in columns.items()}
    rows = [_rtt_rows(part, keys, dtypes) for part, keys in pack(columns, packing)]
    row = {n: np.concatenate([r[n] for r in rows]) for n in rows[0]} if rows[1:] else rows[0]
    pops, window_ms, number = places.names()
    event_window_ms, pop, bucket, max_us = _spread(row, window_ms, number)
    return RttPartial(
        origin,
        pops,
        event_window_ms=event_window_ms,
        net=row["net"] if nets is None else nets[row["net"]],
        plen=row["plen"],
        pop=pop,
        method=row["method"],
        bucket=bucket,
        count=row["count"],
        max_us=max_us,
    )


def _spread(
    row: dict[str, NDArray[Any]], window_ms: Int64, number: NDArray[np.uint16]
) -> tuple[Int64, NDArray[np.uint16], NDArray[np.int16], NDArray[np.uint32]]:
    """What places and levels stand for, in one pass: window, POP, bucket, highest RTT."""
    size = len(row["place"])
    event_window_ms, pop = np.empty(size, np.int64), np.empty(size, np.uint16)
    bucket, max_us = np.empty(size, np.int16), np.empty(size, np.uint32)
    _fill(
        row["place"],
        row["level"],
        row["above_us"],
        window_ms,
        number,
        FIRST_US,
        event_window_ms,
        pop,
        bucket,
        max_us,
    )
    return event_window_ms, pop, bucket, max_us


@kernel
def _fill(
    place: NDArray[np.uint32],
    level: NDArray[np.uint16],
    above_us: NDArray[np.uint32],
    window_of: Int64,
    number_of: NDArray[np.uint16],
    first_us: NDArray[np.uint32],
    event_window_ms: Int64,
    pop: NDArray[np.uint16],
    bucket: NDArray[np.int16],
    max_us: NDArray[np.uint32],
) -> None:
    for i in range(len(place)):
        event_window_ms[i] = window_of[place[i]]
        pop[i] = number_of[place[i]]
        bucket[i] = np.int16(level[i]) + LOST
        max_us[i] = first_us[level[i]] + above_us[i]


def _rtt_rows(
    packing: Packing, keys: Keys, dtypes: dict[str, np.dtype[Any]]
) -> dict[str, NDArray[Any]]:
    last, count = packing.runs(keys, "above_us")
    columns = {name: packing.read(keys, last, name, dtypes[name]) for name in packing.bits}
    return {**columns, "count": count}


def _ranked(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """The distinct values, ascending, and the rank of each; six times as fast as np.unique."""
    encoded = pa.array(values).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    order = np.argsort(distinct)
    rank = np.empty(len(order), np.uint32)
    rank[order] = np.arange(len(order), dtype=np.uint32)
    return distinct[order], rank[encoded.indices.to_numpy()]
