"""Known samples for the stream's benchmark: records made once, numbered and dated as they go out.

So the load generator takes little of the machine that it measures, and what must be counted in
the end is known per (prefix, POP).
"""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from popsteer.batch import ROWS_MAX_OF
from popsteer.names import SourceId
from popsteer.samples import Header, Kind, Method, RttBatch, encode

POPS, PREFIXES, ROWS = 85, 200_000, ROWS_MAX_OF[Kind.RTT]
FIRST_SEQUENCE = 10**15
FIRST_MS = 10**12
"""Both have as many digits as what is written over them."""


def batch(pop: str, number: int, seed: int) -> RttBatch:
    """One second of an agent: prefixes at random, RTT log-normal, one probe in a hundred lost."""
    rng = np.random.default_rng((seed, number))
    return RttBatch(
        Header(SourceId(f"{pop}.b{number}"), FIRST_SEQUENCE, FIRST_MS, (pop,)),
        np.sort(rng.integers(0, 1_000, ROWS)).astype(np.uint32),
        rng.integers(0, PREFIXES, ROWS).astype(np.uint64) << np.uint64(40),
        np.full(ROWS, 24, np.uint8),
        np.zeros(ROWS, np.uint16),
        rng.lognormal(10.8, 0.6, ROWS).astype(np.uint32),
        np.full(ROWS, Method.TCP, np.uint8),
        (rng.random(ROWS) < 0.01).astype(np.uint8),
    )


def pops() -> list[str]:
    """Names of all POPs."""
    return [f"p{number:02}" for number in range(POPS)]


class Templates:
    """Encoded records, several of each POP; gives them again and again with fresh headers."""

    def __init__(self, records: int, seed: int) -> None:
        names = pops()
        self._batches = [batch(names[i % POPS], i, seed) for i in range(records)]
        self._bodies = [encode(one) for one in self._batches]
        self._sent: Counter[int] = Counter()
        self._next = 0

    def take(self, now_ms: int) -> tuple[str, bytes]:
        """The next record and its partition key; counted as sent."""
        at = self._next % len(self._bodies)
        number = FIRST_SEQUENCE + 1 + self._sent[at]
        body = self._bodies[at].replace(b"%d" % FIRST_SEQUENCE, b"%d" % number)
        body = body.replace(b"%d" % FIRST_MS, b"%d" % (now_ms - 1_000))
        self._sent[at] += 1
        self._next += 1
        return self._batches[at].header.source, body

    @property
    def samples(self) -> int:
        """Sent so far."""
        return self._next * ROWS

    def counts(self) -> NDArray[np.int64]:
        """Samples sent, by POP and prefix number."""
        counts = np.zeros((POPS, PREFIXES), np.int64)
        for at, times in self._sent.items():
            net = (self._batches[at].net >> np.uint64(40)).astype(np.int64)
            np.add.at(counts[at % POPS], net, times)
        return counts
