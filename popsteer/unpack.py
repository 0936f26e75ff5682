"""Compiled passes over the columns of a record: RTT put together from its planes; prefixes checked.

Apart from `popsteer.planes` and `popsteer.samples`, so that only who reads records about prefixes
loads the compiler's runtime.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from popsteer.kernel import kernel
from popsteer.names import IPV6_BIT, LENGTH_MASK

EXTREMES = 8
"""Highest dt_ms_high, subject, rtt_us, method, lost; least and highest plen; all nets or-ed."""


@kernel
def unpack(
    dt_low: NDArray[np.uint8],
    dt_high: NDArray[Any],
    leading: NDArray[np.uint8],
    width: int,
    plen: NDArray[np.uint8],
    subject: NDArray[np.uint16],
    rtt_low: NDArray[np.uint16],
    rtt_high: NDArray[Any],
    method: NDArray[np.uint8],
    lost: NDArray[np.uint8],
    dt_ms: NDArray[np.uint32],
    net: NDArray[np.uint64],
    rtt_us: NDArray[np.uint32],
    extremes: NDArray[np.uint64],
) -> None:
    """Fill `dt_ms`, `net`, `rtt_us` and `extremes`; there is at least one row."""
    high = subjects = rtts = methods = losses = longest = np.uint32(0)
    shortest = np.uint32(255)
    for i in range(len(dt_low)):
        high = max(high, np.uint32(dt_high[i]))
        dt_ms[i] = np.uint32(dt_high[i]) << np.uint32(8) | np.uint32(dt_low[i])
        value = np.uint32(rtt_high[i]) << np.uint32(16) | np.uint32(rtt_low[i])
        rtt_us[i] = value
        rtts = max(rtts, value)
        subjects = max(subjects, np.uint32(subject[i]))
        methods = max(methods, np.uint32(method[i]))
        losses = max(losses, np.uint32(lost[i]))
        longest = max(longest, np.uint32(plen[i]))
        shortest = min(shortest, np.uint32(plen[i]))
    extremes[0], extremes[1], extremes[2], extremes[3] = high, subjects, rtts, methods
    extremes[4], extremes[5], extremes[6] = losses, shortest, longest
    extremes[7] = _nets_of_24(leading, net) if width == 3 else _nets(leading, width, net)


@kernel
def _nets_of_24(leading: NDArray[np.uint8], net: NDArray[np.uint64]) -> np.uint64:
    """Of /24 alone, which most are: with the width known this takes a tenth of the time."""
    union = np.uint64(0)
    for i in range(len(net)):
        whole = np.uint64(leading[3 * i]) << np.uint64(56)
        whole |= np.uint64(leading[3 * i + 1]) << np.uint64(48)
        whole |= np.uint64(leading[3 * i + 2]) << np.uint64(40)
        net[i] = whole
        union |= whole
    return union


@kernel
def _nets(leading: NDArray[np.uint8], width: int, net: NDArray[np.uint64]) -> np.uint64:
    union = np.uint64(0)
    for i in range(len(net)):
        whole = np.uint64(0)
        for at in range(width):
            whole |= np.uint64(leading[i * width + at]) << np.uint64(56 - 8 * at)
        net[i] = whole
        union |= whole
    return union


@kernel
def are_prefixes(net: NDArray[np.uint64], plen: NDArray[np.uint8]) -> bool:
    """Whether no length is above its family's and no bit below a length is set."""
    wrong = np.uint64(0)
    for i in range(len(net)):
        length = np.uint64(plen[i] & LENGTH_MASK)
        most = np.uint64(64) if plen[i] & IPV6_BIT else np.uint64(32)
        wrong |= np.uint64(length > most)
        # A shift by the whole width is undefined, so it is made in two.
        half = min(length, np.uint64(64)) >> np.uint64(1)
        wrong |= net[i] << half << (min(length, np.uint64(64)) - half)
    return bool(wrong == 0)
