"""Letting packets gather under load: many small batches cost more than a few large ones.

A server that is faster than its clients would wake for every few packets, and pay system calls
and wake-ups on both sides for each handful. Network cards moderate their interrupts for that
reason (ethtool's rx-usecs); this is the same one level up. Where packets come more than
125,000 a second and a batch was small, the loop naps before the next one. An answer is at most
that much later, and a nap that gathered nothing is not soon tried again.
"""

import numpy as np
from numba import uint32
from numpy.typing import NDArray

from resolver.fast import libc
from resolver.fast.batch import Batch
from resolver.fast.kernel import inlined

NAP_US = 50
_FEW = 32
"""A batch of so many is worth its system calls."""
_GATHERED = 8
"""A nap that gave fewer was not worth its own."""
_SPARSE_NS = 8_000
"""Packets that come further apart are no load."""
_WAIT_BATCHES = 256
"""How many batches pass without a nap after one that gathered too little."""

# Slots of `Loop.pace`.
LAST_NS, NAPPED, WAIT = range(3)


@inlined
def let_gather(batch: Batch, received: int, pace: NDArray[np.int64]) -> None:
    """Nap if it pays; `batch.clock` is when this batch of `received` came."""
    now_ns = batch.clock[0] * 1_000_000_000 + batch.clock[1]
    took_ns = now_ns - pace[LAST_NS]
    pace[LAST_NS] = now_ns
    if pace[NAPPED] and received < _GATHERED:
        pace[WAIT] = _WAIT_BATCHES
    pace[NAPPED] = 0
    if pace[WAIT]:
        pace[WAIT] -= 1
    elif received < _FEW and 0 < took_ns < received * _SPARSE_NS:
        libc.usleep(uint32(NAP_US))
        pace[NAPPED] = 1
