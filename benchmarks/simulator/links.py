"""Queues of POPs and links: what utilisation costs in delay and loss. Pure.

Below the knee delay follows rho / (1 - rho) as in an M/M/1 queue, bounded by the buffer of a
router; beyond the capacity the rest is lost.
"""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

DELAY_MS_MAX = 60.0
KNEE = 0.97


def delay_ms(used: F64) -> F64:
    """Queueing delay at a utilisation."""
    below = np.minimum(used, KNEE)
    delay: F64 = np.minimum(DELAY_MS_MAX, 2 * below / (1 - below))
    return np.where(used >= KNEE, DELAY_MS_MAX, delay)


def loss(used: F64) -> F64:
    """Share of traffic that a full resource drops."""
    dropped: F64 = np.maximum(0.0, 1 - 1 / np.maximum(used, 1e-9))
    return dropped
