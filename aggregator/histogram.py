"""Log-bucket histograms of RTT: the mapping of DDSketch, as numpy columns.

Bucket b holds the RTTs in (gamma^(b-1), gamma^b] microseconds, so the value that stands for a
bucket is within `RELATIVE_ERROR` of everything in it, and merging two histograms is adding counts.
No histogram objects: rows of (group, bucket, count), as they stand in the partials.

Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error
guarantees, PVLDB 12(12), 2019.
"""

import math

import numpy as np
from numpy.typing import NDArray

from popsteer.samples import RTT_US_MAX

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
LOST = -1
"""The bucket of lost probes: censored observations, which have no RTT."""

Buckets = NDArray[np.int16]


def bucket_of(rtt_us: NDArray[np.uint32]) -> Buckets:
    """The bucket of each RTT in microseconds; 0 us counts as 1 us (bucket 0)."""
    # No whole number up to the bound lies within 3e-10, relatively, of a power of gamma, except 1
    # itself. So every processor rounds this to the same bucket, and replays give the same bytes.
    # In place: fresh memory costs more than the arithmetic.
    exact = np.maximum(rtt_us, 1).astype(np.float64)
    np.log(exact, out=exact)
    exact /= np.log(GAMMA)
    buckets: Buckets = np.ceil(exact, out=exact).astype(np.int16)
    return buckets


def bucket_value_us(bucket: Buckets) -> NDArray[np.float64]:
    """The RTT that stands for each bucket: equally far, relatively, from both its ends.

    The lost bucket has none: NaN.
    """
    value = 2 / (GAMMA + 1) * np.power(GAMMA, bucket.astype(np.float64))
    return np.where(bucket == LOST, np.nan, value)


BUCKET_MAX = int(bucket_of(np.array([RTT_US_MAX], np.uint32))[0])
"""The highest bucket that a valid sample can have."""

_LOWEST_US = np.array(
    [0, 0, *(math.floor(GAMMA ** (b - 1)) + 1 for b in range(1, BUCKET_MAX + 1))], np.uint32
)


_CELL_BITS = 7
CELL_SHIFT = 52 - _CELL_BITS
CELLS_BELOW_1 = 1023 << _CELL_BITS
"""A cell is what a float64 is down to 7 bits of its fraction (IEEE 754: 52 bits, bias 1023), so
compiled loops find the level of an RTT without a logarithm: `CELLS`, then at most one up."""


def _cells() -> NDArray[np.uint16]:
    """The level at the low end of each cell: 128 cells between a power of two and the next.

    A cell is narrower than a bucket, so whatever is in it has this level or the one above.
    """
    count = (RTT_US_MAX.bit_length() << _CELL_BITS) + CELLS_BELOW_1
    bits = np.arange(CELLS_BELOW_1, count, dtype=np.uint64) << np.uint64(CELL_SHIFT)
    low_end = bits.view(np.float64)
    bucket = np.ceil(np.log(low_end) / np.log(GAMMA))
    level: NDArray[np.uint16] = (bucket - LOST).astype(np.uint16)
    return level


CELLS = _cells()
FIRST_US = np.append(_LOWEST_US, np.uint32(2**32 - 1))
"""Where each level (bucket - `LOST`) begins, with an end behind the last."""
