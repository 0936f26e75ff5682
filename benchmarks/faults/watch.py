"""What the partials in S3 say, read straight from the store, past the proxy.

It reads each object once and keeps sums; it never writes.
"""

import time
from collections import Counter, defaultdict

import numpy as np

from aggregator.partials import (
    DemandPartial,
    Partial,
    RttPartial,
    SignalPartial,
    decode,
    kind_prefix,
    window_prefix,
)
from benchmarks.faults.world import KINDS, PREFIXES, Tally, pops
from popsteer.config import Aws
from popsteer.samples import Kind
from popsteer.store import s3_store

LOOKBACK_MS = 180_000
"""Who writes, writes windows that are no older, unless an outage lasts that long."""
_POP = {pop: number for number, pop in enumerate(pops())}


class Watch:
    """The sums of all partials seen."""

    def __init__(self, aws: Aws) -> None:
        self._store = s3_store(aws)
        self.seen: set[str] = set()
        self.lookback_ms = LOOKBACK_MS
        self.runs: defaultdict[int, Tally] = defaultdict(Tally)
        """By run; without signals, which are told together."""
        self.signals: Counter[str] = Counter()
        self.by_event: Counter[tuple[int, int]] = Counter()
        """RTT samples by run and event window."""
        self.quarantined: Counter[str] = Counter()
        """Records by reason."""
        self.duplicates = 0

    def look(self) -> None:
        """Take up what has been written since."""
        since_ms = int(time.time() * 1_000) - self.lookback_ms
        for kind in KINDS:
            for key in self._store.list(kind_prefix(kind), after=window_prefix(kind, since_ms)):
                if key not in self.seen and (stored := self._store.read(key)) is not None:
                    self.seen.add(key)
                    self._add(decode(stored.body))

    def before(self, run: int, event_ms: int) -> int:
        """RTT samples of a run whose event window begins before a time."""
        return sum(
            count for (of, at_ms), count in self.by_event.items() if of == run and at_ms < event_ms
        )

    def _add(self, partial: Partial) -> None:
        if partial.kind is not Kind.DEMAND:
            # The partials of a cut have one origin; of the bulk stream this is the second one.
            self.quarantined += Counter(partial.origin.quarantined)
            self.duplicates += partial.origin.duplicates
        match partial:
            case RttPartial():
                self._add_rtt(partial)
            case DemandPartial():
                for pop, index, queries in _rows(partial, partial.queries):
                    run, prefix = divmod(index, PREFIXES)
                    self.runs[run].queries[pop, prefix] += queries
            case SignalPartial():
                for subject, count in zip(partial.subject, partial.count, strict=True):
                    self.signals[partial.subjects[subject]] += int(count)

    def _add_rtt(self, partial: RttPartial) -> None:
        pop = np.array([_POP[name] for name in partial.pops], np.int64)[partial.pop]
        index = (partial.net >> np.uint64(40)).astype(np.int64)
        for run in np.unique(index // PREFIXES).tolist():
            rows = index // PREFIXES == run
            place = (pop[rows], index[rows] % PREFIXES)
            np.add.at(self.runs[run].rtt, place, partial.count[rows])
            for at_ms in np.unique(partial.event_window_ms[rows]).tolist():
                of_window = rows & (partial.event_window_ms == at_ms)
                self.by_event[run, at_ms] += int(partial.count[of_window].sum())


def _rows(partial: DemandPartial, values: "np.typing.NDArray[np.uint64]") -> list[tuple[int, ...]]:
    pop = [_POP[partial.pops[number]] for number in partial.pop]
    index = (partial.net >> np.uint64(40)).astype(np.int64).tolist()
    return list(zip(pop, index, values.astype(np.int64).tolist(), strict=True))
