"""Demand: how many answers each client prefix was given, and with which POP.

Owns the counts between two reports. Memory is bounded: beyond `ENTRIES_MAX` prefixes the rest is
counted by wider ones, so that volume is not lost when a flood brings many addresses.
"""

from dataclasses import dataclass, field

import numpy as np

from popsteer.batch import Batcher
from popsteer.config import Config
from popsteer.names import (
    IPV6_BIT,
    LENGTH_MASK,
    Prefix,
    SourceId,
    demand_subject,
    dns_name,
    mask,
)
from popsteer.samples import Batch, Kind
from popsteer.table import Table
from resolver.answer import Served

ENTRIES_MAX = 131_072
LENGTHS = {False: 24, True: 48}
"""No client is told apart more finely, unless a row of the table is."""
COARSE_LENGTHS = {False: 12, True: 24}

_Entry = tuple[int, int, str]


@dataclass(slots=True)
class Demand:
    """Counts of one worker since its last report."""

    bits_of: dict[str, float]
    """Traffic that one answer brings, by service."""
    entries_max: int = ENTRIES_MAX
    dropped: int = 0
    """Answers that not even a wide prefix could take."""
    _counts: dict[_Entry, list[float]] = field(default_factory=dict)

    def add(self, served: Served, table: Table | None) -> None:
        """Count one answer."""
        bits = self.bits_of[served.service]
        subject = _subject(served, table)
        counted = self._counts.get((*_cut(served.client, _length(served, table)), subject))
        if counted is None:
            counted = self._entry(served, table)
            if counted is None:
                self.dropped += 1
                return
        counted[0] += 1
        counted[1] += bits

    def _entry(self, served: Served, table: Table | None) -> list[float] | None:
        """A new entry, as fine as there is room for."""
        length = _length(served, table)
        if len(self._counts) >= self.entries_max:
            length = COARSE_LENGTHS[served.client.is_ipv6]
        key = (*_cut(served.client, length), _subject(served, table))
        if key not in self._counts and len(self._counts) >= 2 * self.entries_max:
            return None
        return self._counts.setdefault(key, [0.0, 0.0])

    def report(self, source: SourceId, now_ms: int) -> list[Batch]:
        """The counts as batches, which starts them anew."""
        counts, self._counts = self._counts, {}
        pops = sorted({pop for _, _, pop in counts})
        index = {pop: i for i, pop in enumerate(pops)}
        batcher = Batcher(Kind.DEMAND, source, pops)
        batcher.extend(
            np.full(len(counts), now_ms, np.int64),
            np.array([net for net, _, _ in counts], np.uint64),
            np.array([plen for _, plen, _ in counts], np.uint8),
            np.array([index[pop] for _, _, pop in counts], np.uint16),
            np.array([queries for queries, _ in counts.values()], np.uint32),
            np.array([bits for _, bits in counts.values()], np.float32),
        )
        return batcher.take(now_ms, flush=True)


def demand_of(config: Config) -> Demand:
    """No counts yet, with the traffic of each service's answers."""
    return Demand({dns_name(s.name): s.query_bits for s in config.service})


def _subject(served: Served, table: Table | None) -> str:
    """The POP, with the set of answers that named it."""
    return demand_subject(served.pop, table.meta.set_of(served.service) if table else 0)


def _length(served: Served, table: Table | None) -> int:
    fine = LENGTHS[served.client.is_ipv6]
    if table is None or not 0 <= served.row < len(table):
        return fine
    return max(fine, int(table.plen[served.row]) & LENGTH_MASK)


def _cut(prefix: Prefix, length: int) -> tuple[int, int]:
    length = min(prefix.length, length)
    return prefix.net & mask(length), length | (prefix.plen & IPV6_BIT)
