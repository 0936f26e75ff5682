"""Which link each POP of the lab reaches a prefix by: half of every metro's demand by each link.

Owns the rule; `popsteer up` writes it down as the POPs' routes, the POPs' reports obey it.
"""

import numpy as np
from numpy.typing import NDArray

from popsteer import routes
from popsteer.world import World

LINKS = ("transit", "peering")
TRANSIT, PEERING = range(2)
NOON_UTC = 12.0


def link_of(world: World) -> NDArray[np.int64]:
    """[n], the link to each prefix, which is the same at all POPs: by turns, the heaviest first."""
    order = np.lexsort((-world.prefix_demand_bps(NOON_UTC), world.metro))
    link = np.empty(len(order), np.int64)
    link[order] = np.arange(len(order)) % len(LINKS)
    return link


def routes_of(world: World) -> bytes:
    """The routes of any POP: everybody by transit, but for those with whom it peers."""
    lines = [f"{everybody},{LINKS[TRANSIT]}" for everybody in ("0.0.0.0/0", "::/0")]
    lines += [
        f"{prefix},{LINKS[PEERING]}"
        for prefix, link in zip(world.prefixes(), link_of(world).tolist(), strict=True)
        if link == PEERING
    ]
    return "\n".join((",".join(routes.HEADER), *lines, "")).encode()
