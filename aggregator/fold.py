"""The fold: batches of samples of one cut become the rows of its partials.

Pure and vectorised: no Python per sample or per group. RTT is the bulk and has a module of its own
(`aggregator.fold_rtt`); demand and signals, which are thousands of times fewer, are grouped here
by a plain lexicographic sort. Sums run in an order that the input fixes, so equal input gives
equal bits on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.partials import DemandPartial, Int64, Origin, SignalPartial
from popsteer.samples import Batch, DemandBatch, SignalBatch

Index = NDArray[np.int64]


def fold_demand(batches: Sequence[DemandBatch], origin: Origin) -> DemandPartial:
    """Sums per (event window, prefix, POP)."""
    places = places_in(batches, origin.window_ms)
    net = column(batches, "net", np.uint64)
    plen = column(batches, "plen", np.uint8)
    # A stable sort: samples of one row are added in the order in which they arrived.
    order = np.lexsort((plen, net, places.place))
    place, net, plen = places.place[order], net[order], plen[order]
    start, end = _groups(place, net, plen)
    queries = column(batches, "queries", np.uint32)[order].astype(np.uint64)
    pops, event_window_ms, pop = places.of(place[start])
    return DemandPartial(
        origin,
        pops,
        event_window_ms=event_window_ms,
        net=net[start],
        plen=plen[start],
        pop=pop,
        queries=np.add.reduceat(queries, start) if len(start) else queries,
        bits=_sums(column(batches, "bits", np.float32)[order], start, end),
    )


def fold_signal(batches: Sequence[SignalBatch], origin: Origin) -> SignalPartial:
    """Sum, extreme and newest value per (event window, subject, signal)."""
    places = places_in(batches, origin.window_ms)
    signal = column(batches, "signal", np.uint8)
    value = column(batches, "value", np.float64)
    at_ms = column(batches, "dt_ms", np.uint32) + np.repeat(
        np.array([b.header.t0_ms for b in batches], np.int64), [len(b.dt_ms) for b in batches]
    )
    order = np.lexsort((value, at_ms, signal, places.place))
    place, signal, value, at_ms = places.place[order], signal[order], value[order], at_ms[order]
    start, end = _groups(place, signal)
    subjects, event_window_ms, subject = places.of(place[start])
    return SignalPartial(
        origin,
        subjects,
        event_window_ms=event_window_ms,
        subject=subject,
        signal=signal[start],
        count=(end - start).astype(np.uint32),
        sum=_sums(value, start, end),
        max=np.maximum.reduceat(value, start) if len(start) else value,
        last=value[end - 1],
        last_ms=at_ms[end - 1],
    )


@dataclass(frozen=True, slots=True)
class Places:
    """Per sample, which (event window, name) it belongs to; numbered in that order."""

    place: NDArray[np.uint32]
    known: tuple[tuple[int, str], ...]
    """What the numbers mean: the start of the event window in ms, and the POP or link. Each has
    samples: what a header merely lists leaves no trace."""

    def of(self, rows: NDArray[Any]) -> tuple[tuple[str, ...], Int64, NDArray[np.uint16]]:
        """Of rows given by place: the names in use; event windows; indexes of names."""
        names, windows, indexes = names_of(self.known)
        return names, windows[rows], indexes[rows]


def names_of(
    places: Sequence[tuple[int, str]],
) -> tuple[tuple[str, ...], Int64, NDArray[np.uint16]]:
    """The names in use, sorted; of each place its event window and the index of its name."""
    names = tuple(sorted({name for _, name in places}))
    index = {name: place for place, name in enumerate(names)}
    windows = np.array([window_ms for window_ms, _ in places], np.int64)
    indexes = np.array([index[name] for _, name in places], np.uint16)
    return names, windows, indexes


def places_in(batches: Sequence[Batch], window_ms: int) -> Places:
    """The place of every sample of all batches."""
    known: dict[tuple[int, str], int] = {}
    parts = [numbers_of(batch, window_ms, known) for batch in batches]
    ordered = sorted(known)
    rank = np.empty(len(known), np.uint32)
    for position, pair in enumerate(ordered):
        rank[known[pair]] = position
    place = rank[np.concatenate(parts)] if parts else rank
    return Places(place, tuple(ordered))


def numbers_of(
    batch: Batch, window_ms: int, known: dict[tuple[int, str], int]
) -> NDArray[np.uint32]:
    """Of each sample the number of its (event window, name), in the order of first sight.

    `known` are the numbers given so far; new ones are added.
    """
    if not len(batch.dt_ms):
        return np.empty(0, np.uint32)
    names = batch.header.subjects
    start_ms = batch.header.t0_ms // window_ms * window_ms
    since_ms = np.uint64(batch.header.t0_ms - start_ms)
    event = (batch.dt_ms.astype(np.uint64) + since_ms) // np.uint64(window_ms)
    pair = event * np.uint64(len(names)) + batch.subject
    present, at = np.unique(pair, return_inverse=True)
    return numbered(present, start_ms, window_ms, names, known)[at]


def numbered(
    pairs: NDArray[Any],
    start_ms: int,
    window_ms: int,
    names: Sequence[str],
    known: dict[tuple[int, str], int],
) -> NDArray[np.uint32]:
    """Numbers of pairs, each `windows behind start_ms * len(names) + name`."""
    places = [divmod(pair, len(names)) for pair in pairs.tolist()]
    numbers = [
        known.setdefault((start_ms + event * window_ms, names[name]), len(known))
        for event, name in places
    ]
    return np.array(numbers, np.uint32)


def column(batches: Sequence[Batch], name: str, dtype: Any) -> NDArray[Any]:
    """A column of all batches, one after the other."""
    if not batches:
        return np.empty(0, dtype)
    return np.concatenate([getattr(b, name) for b in batches])


def _groups(*columns: NDArray[Any]) -> tuple[Index, Index]:
    """Start and end of every run of equal rows."""
    size = len(columns[0])
    if not size:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    changes = np.zeros(size - 1, bool)
    for column in columns:
        changes |= column[1:] != column[:-1]
    start = np.concatenate(([0], np.flatnonzero(changes) + 1))
    return start, np.append(start[1:], size)


def _sums(values: NDArray[Any], start: Index, end: Index) -> NDArray[np.float64]:
    # bincount adds one by one, in order; reduceat may add in blocks that differ by processor.
    row = np.repeat(np.arange(len(start)), end - start)
    sums: NDArray[np.float64] = np.bincount(row, values, minlength=len(start)).astype(np.float64)
    return sums
