"""Response rate limiting: token buckets by client network and class of response.

Networks are /24 and /56. What is over the rate is dropped, but every second one is answered TC=1,
so that a real client behind a forged address comes back over TCP.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import float32, uint64
from numpy.typing import NDArray

from popsteer.names import Prefix
from resolver.fast.kernel import inlined
from resolver.fast.words import MIX, U64

PASS, SLIP, HOLD = 0, 1, 2
BUCKETS = 1 << 16
BURST_S = 2.0
"""A bucket holds the responses of so many seconds."""
_RATE, _BURST = 0, 1


class Limits(NamedTuple):
    """Buckets that collide share their rate; memory is fixed under any flood."""

    tokens: NDArray[np.float32]
    filled_s: NDArray[np.float32]
    """When a bucket was last filled, in seconds since the loop's epoch."""
    slips: NDArray[np.uint8]
    rate: NDArray[np.float32]
    """[2] responses a second (0 is off) and burst."""
    exempt: NDArray[np.uint64]
    """[nets, 3] first and last address of a network that is never limited, and 1 for IPv6."""


@inlined
def _is_exempt(limits: Limits, net: U64, ipv6: U64) -> bool:
    for i in range(limits.exempt.shape[0]):
        if limits.exempt[i, 0] <= net <= limits.exempt[i, 1] and limits.exempt[i, 2] == ipv6:
            return True
    return False


@inlined
def limit(limits: Limits, net: U64, ipv6: U64, response_class: U64, now_s: float) -> U64:
    """PASS, SLIP or HOLD for one response."""
    rate = limits.rate[_RATE]
    if rate <= float32(0):
        return PASS
    network = (net >> uint64(8)) if ipv6 else (net >> uint64(40))
    key = (network << uint64(4)) | (response_class << uint64(1)) | ipv6
    mixed = key * uint64(MIX)
    bucket = (mixed >> uint64(40)) & uint64(BUCKETS - 1)
    filled = limits.tokens[bucket] + float32(now_s - limits.filled_s[bucket]) * rate
    limits.filled_s[bucket] = now_s
    filled = min(filled, limits.rate[_BURST])
    if filled >= float32(1):
        limits.tokens[bucket] = filled - float32(1)
        return PASS
    limits.tokens[bucket] = filled
    if _is_exempt(limits, net, ipv6):
        return PASS
    limits.slips[bucket] ^= 1
    return SLIP if limits.slips[bucket] else HOLD


def limits(rate_per_s: float, exempt: Sequence[Prefix] = ()) -> Limits:
    """Full buckets, and the networks that they do not bind."""
    burst = max(rate_per_s * BURST_S, 1.0)
    return Limits(
        np.full(BUCKETS, burst, np.float32),
        np.zeros(BUCKETS, np.float32),
        np.zeros(BUCKETS, np.uint8),
        np.array([rate_per_s, burst], np.float32),
        np.array([(p.net, p.last, p.is_ipv6) for p in exempt], np.uint64).reshape(-1, 3),
    )
