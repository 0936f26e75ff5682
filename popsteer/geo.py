"""Geography: great-circle distance and the RTT that it allows.

Geography is the fallback where nothing is measured and the floor below which nothing is believed:
light in fibre covers about 200 km a millisecond one way, so 100 km cost 1 ms of round trip.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6_371.0
FIBRE_KM_PER_RTT_MS = 100.0
LIGHT_KM_PER_RTT_MS = 299_792.458 / 1_000 / 2
"""In vacuum, out and back: what physics allows, whatever the path is made of (SI, the metre)."""
Degrees = NDArray[np.float64]


def distance_km(
    lat_a: Degrees, lon_a: Degrees, lat_b: Degrees, lon_b: Degrees
) -> NDArray[np.float64]:
    """Great-circle distance of every a to every b: [a, b] km."""
    return arc_km(lat_a[:, None], lon_a[:, None], lat_b[None, :], lon_b[None, :])


def arc_km(lat_a: Degrees, lon_a: Degrees, lat_b: Degrees, lon_b: Degrees) -> NDArray[np.float64]:
    """Great-circle distance of each a to the b in its place, km (haversine)."""
    phi_a, phi_b = np.radians(lat_a), np.radians(lat_b)
    turn = np.radians(lon_b) - np.radians(lon_a)
    h = np.sin((phi_b - phi_a) / 2) ** 2 + np.cos(phi_a) * np.cos(phi_b) * np.sin(turn / 2) ** 2
    arc: NDArray[np.float64] = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1)))
    return arc


def floor_rtt_ms(km: NDArray[np.float64]) -> NDArray[np.float64]:
    """The RTT that light in fibre along the great circle would take, ms."""
    floor: NDArray[Any] = km / FIBRE_KM_PER_RTT_MS
    return floor
