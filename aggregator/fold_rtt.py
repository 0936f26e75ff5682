"""The fold of RTT samples: histograms by sorting packed 64-bit keys, in compiled passes.

Apart from `aggregator.fold`, so that only who folds RTT loads the compiled code. Each record's
samples go into blocks at once (`aggregator.blocks`), so nothing of the record stays; when the cut
closes they become keys (`aggregator.packing`), and runs of keys become rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator import light
from aggregator.blocks import METHOD_BITS, Blocks, Words
from aggregator.fold import names_of, numbered, numbers_of
from aggregator.histogram import CELL_SHIFT, CELLS, CELLS_BELOW_1, FIRST_US, LOST
from aggregator.light import Sites
from aggregator.packing import Packed, Packer
from aggregator.partials import Int64
from popsteer.kernel import kernel
from popsteer.names import Prefix
from popsteer.samples import RttBatch

PAIRS_MAX = 65_536
"""So many (event window, POP) of a record are told apart by a table, more by sorting."""
COLUMNS = {
    "event_window_ms": np.int64,
    "net": np.uint64,
    "plen": np.uint8,
    "pop": np.uint16,
    "method": np.uint8,
    "bucket": np.int16,
    "count": np.uint32,
    "max_us": np.uint32,
}


@dataclass(frozen=True, slots=True)
class Refused:
    """Samples of one POP that count nowhere."""

    reason: str
    pop: str
    samples: int
    detail: str
    """One of them, for the log."""


@dataclass(frozen=True, slots=True)
class RttRows:
    """What becomes a partial of RTT."""

    pops: tuple[str, ...]
    columns: dict[str, NDArray[Any]]
    """`COLUMNS`, sorted as a partial has them."""
    refused: tuple[Refused, ...] = ()


class RttFold:
    """Owns the RTT samples of the open cut of a shard, and their memory from cut to cut."""

    def __init__(self, window_ms: int, sites: Sites | None = None) -> None:
        """`sites` is by what samples are judged that light could not have made; None: none is."""
        self._window_ms = window_ms
        self._sites = sites
        self._blocks = Blocks()
        self._packer = Packer()
        self._places: dict[tuple[int, str], int] = {}
        """Number of each (event window, POP), in the order of first sight."""

    def add(self, batch: RttBatch, newest_ms: int) -> None:
        """Take the samples of a batch, of which this is the newest's time; it is needed no more."""
        if len(batch.dt_ms):
            self._blocks.add(batch, self._numbers(batch, newest_ms))

    def _numbers(self, batch: RttBatch, newest_ms: int) -> NDArray[np.uint32]:
        """Of each sample the number of its place.

        Most batches are of one agent and one moment, so of one place: that costs no arithmetic.
        """
        size, names, window_ms = len(batch.dt_ms), batch.header.subjects, self._window_ms
        start_ms = batch.header.t0_ms // window_ms * window_ms
        windows = (newest_ms - start_ms) // window_ms + 1
        if windows == len(names) == 1:
            number = self._places.setdefault((start_ms, names[0]), len(self._places))
            return np.full(size, number, np.uint32)
        if windows * len(names) > PAIRS_MAX:
            return numbers_of(batch, window_ms, self._places)
        place, pairs = np.empty(size, np.uint32), np.empty(size, np.int64)
        since_ms = batch.header.t0_ms - start_ms
        table = np.full(windows * len(names), -1, np.int32)
        found = _find_pairs(
            batch.dt_ms, batch.subject, since_ms, window_ms, len(names), table, pairs, place
        )
        return numbered(pairs[:found], start_ms, window_ms, names, self._places)[place]

    def close(self) -> RttRows:
        """Histograms per (event window, POP, prefix, method) of all samples since the last."""
        ordered = sorted(self._places)
        pops, windows_ms, pop_of = names_of(ordered)
        if ordered:
            rank = np.empty(len(ordered), np.uint32)
            rank[[self._places[pair] for pair in ordered]] = np.arange(len(ordered))
            traits = np.flatnonzero(self._blocks.traits)
            packed = self._packer.pack(self._blocks, rank, traits)
            columns = _rows(packed, windows_ms, pop_of, traits)
        else:
            columns = {name: np.empty(0, kind) for name, kind in COLUMNS.items()}
        self._blocks.clear()
        self._places.clear()
        if self._sites is None:
            return RttRows(pops, columns)
        wrong = light.impossible(self._sites, pops, columns)
        if not wrong.any():
            return RttRows(pops, columns)
        kept = {name: column[~wrong] for name, column in columns.items()}
        return RttRows(pops, kept, _refused(pops, columns, wrong))


@kernel
def _find_pairs(
    dt_ms: NDArray[np.uint32],
    subject: NDArray[np.uint16],
    since_ms: int,
    window_ms: int,
    names: int,
    table: NDArray[np.int32],
    pairs: Int64,
    place: NDArray[np.uint32],
) -> int:
    """Number the pairs of samples as they come into `place`; gives how many `pairs` there are."""
    found = 0
    event, first, end = np.int64(0), np.int64(0), np.int64(window_ms)
    for i in range(len(dt_ms)):
        at = np.int64(dt_ms[i]) + since_ms
        if not first <= at < end:
            event = at // window_ms
            first, end = event * window_ms, event * window_ms + window_ms
        pair = event * names + np.int64(subject[i])
        if table[pair] < 0:
            table[pair] = found
            pairs[found] = pair
            found += 1
        place[i] = table[pair]
    return found


def _refused(
    pops: tuple[str, ...], columns: dict[str, NDArray[Any]], wrong: NDArray[np.bool_]
) -> tuple[Refused, ...]:
    """By POP, with its first row as the example."""
    refused = []
    for pop in np.unique(columns["pop"][wrong]).tolist():
        rows = np.flatnonzero(wrong & (columns["pop"] == pop))
        net, plen, max_us = (int(columns[name][rows[0]]) for name in ("net", "plen", "max_us"))
        detail = f"{Prefix(net, plen)} within {max_us} us of {pops[pop]}: faster than light"
        refused.append(Refused(light.REASON, pops[pop], int(columns["count"][rows].sum()), detail))
    return tuple(refused)


def _rows(
    packed: Packed, windows_ms: Int64, pop_of: NDArray[np.uint16], traits: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    columns = _room(len(packed.keys))
    rows = _fill_rows(
        packed.keys,
        packed.ends,
        packed.layout.shifts(),
        windows_ms,
        pop_of,
        traits,
        CELLS,
        FIRST_US,
        *columns.values(),
    )
    columns = {name: column[:rows] for name, column in columns.items()}
    if packed.nets is not None:
        columns["net"] = packed.nets[columns["net"]]
    return columns


def _room(size: int) -> dict[str, NDArray[Any]]:
    """Columns as long as if each sample had a row of its own: what is not touched costs nothing.

    One stretch of memory, because numpy asks for huge pages for large ones alone, which halves
    what fresh memory costs.
    """
    widths = {name: size * np.dtype(kind).itemsize for name, kind in COLUMNS.items()}
    memory = np.empty(sum(widths.values()), np.uint8)
    # From wide to narrow types, so that each column is aligned.
    ends = np.cumsum(sorted(widths.values(), reverse=True)).tolist()
    names = sorted(COLUMNS, key=lambda name: -widths[name])
    places = {n: memory[end - widths[n] : end] for n, end in zip(names, ends, strict=True)}
    return {name: places[name].view(kind) for name, kind in COLUMNS.items()}


@kernel
def _fill_rows(
    keys: Words,
    ends: NDArray[np.int64],
    shifts: Words,
    windows_ms: Int64,
    pop_of: NDArray[np.uint16],
    traits: NDArray[np.int64],
    cells: NDArray[np.uint16],
    first_us: NDArray[np.uint32],
    event_window_ms: Int64,
    net: NDArray[np.uint64],
    plen: NDArray[np.uint8],
    pop: NDArray[np.uint16],
    method: NDArray[np.uint8],
    bucket: NDArray[np.int16],
    count: NDArray[np.uint32],
    max_us: NDArray[np.uint32],
) -> int:
    """Fill the rows in; gives how many. A row is a run of keys of one pair and bucket."""
    zeros, low, rtt_bits, net_at = shifts[0], shifts[1], shifts[2], shifts[3]
    place_at, place_mask, net_mask = shifts[4], shifts[5], shifts[6]
    place_right, of_net, net_right = shifts[7], shifts[8], shifts[9]
    answered = np.uint64(1) << (rtt_bits - np.uint64(1))
    trait_mask = (np.uint64(1) << (net_at - rtt_bits)) - np.uint64(1)
    i, rows = 0, 0
    for part in range(len(ends)):
        above = (np.uint64(part) >> of_net) << place_right
        beside = (np.uint64(part) & ((np.uint64(1) << of_net) - np.uint64(1))) << net_right
        while i < ends[part]:
            key = keys[i]
            us = key & (answered - np.uint64(1))
            level, most = 0, answered - np.uint64(1)
            if key & answered:
                bits = np.float64(max(us, np.uint64(1))).view(np.uint64)
                level = int(cells[(bits >> np.uint64(CELL_SHIFT)) - np.uint64(CELLS_BELOW_1)])
                level += us >= first_us[level + 1]
                most = answered | (min(np.uint64(first_us[level + 1]), answered) - np.uint64(1))
            # What belongs to the same row comes next, up to the bucket's last.
            most |= (key >> rtt_bits) << rtt_bits
            first = i
            i += 1
            while i < ends[part] and keys[i] <= most:
                i += 1
            place = above | ((key >> place_at) & place_mask)
            trait = traits[(key >> rtt_bits) & trait_mask]
            event_window_ms[rows] = windows_ms[place]
            pop[rows] = pop_of[place]
            net[rows] = ((beside | ((key >> net_at) & net_mask)) + low) << zeros
            plen[rows] = trait >> METHOD_BITS
            method[rows] = trait & ((1 << METHOD_BITS) - 1)
            bucket[rows] = level + LOST
            count[rows] = i - first
            max_us[rows] = keys[i - 1] & (answered - np.uint64(1))
            rows += 1
    return rows
