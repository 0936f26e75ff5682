"""Orders that pin prefixes to POPs, as one table obeys them. Pure.

The widest pin comes first, so that the longest that covers a row has the last word. One whose POP
may not serve now waits until it may.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aggregator.rows import Rows8
from aggregator.solve import NOWHERE
from popsteer.names import IPV6_BIT, LENGTH_MASK, Net, Plen, Prefix

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pin:
    """One order."""

    prefix: Prefix
    pop: int
    """NOWHERE when the fleet has no such POP."""
    obeyed: bool
    """Whether the POP may serve now."""

    def inside(self, net: Net, plen: Plen) -> Bools:
        """[n], which prefixes lie within it."""
        return inside(self.prefix, net, plen)


def pins_of(orders: Mapping[Prefix, str], pops: tuple[str, ...], usable: Bools) -> list[Pin]:
    """The pins among POPs, of which `usable` [p] may serve; the widest first."""
    pins = []
    for prefix, name in sorted(orders.items(), key=lambda order: order[0].length):
        pop = pops.index(name) if name in pops else NOWHERE
        pins.append(Pin(prefix, pop, pop != NOWHERE and bool(usable[pop])))
    return pins


def inside(prefix: Prefix, net: Net, plen: Plen) -> Bools:
    """[n], which prefixes lie within one."""
    family = (plen & np.uint8(IPV6_BIT)) == (prefix.plen & IPV6_BIT)
    found: Bools = (
        family
        & ((plen & np.uint8(LENGTH_MASK)) >= prefix.length)
        & (net >= np.uint64(prefix.net))
        & (net <= np.uint64(prefix.last))
    )
    return found


def allowed(pins: Sequence[Pin], net: Net, plen: Plen, pop: Ints) -> Bools:
    """[n, k], what pins leave of candidates `pop`: those of the prefixes inside are theirs."""
    left = np.ones(pop.shape, bool)
    for pin in pins:
        if pin.obeyed:
            chosen = pop == pin.pop
            known = pin.inside(net, plen) & chosen.any(axis=1)
            left[known] = chosen[known]
    return left


def shared(sets: Sequence[Sequence[Pin]]) -> list[list[Pin]]:
    """Of the same pins in several sets those that some set obeys: sets share their rows."""
    kept = [any(pin.obeyed for pin in same) for same in zip(*sets, strict=True)]
    return [[pin for pin, one in zip(pins, kept, strict=True) if one] for pins in sets]


def pinned(
    rows: Rows8,
    pins: Sequence[Pin],
    net: Net,
    plen: Plen,
    pops: tuple[str, ...],
    default: Sequence[str],
) -> Rows8:
    """Rows inside a pinned prefix, and the prefix itself, answer with its POP while it can.

    Where it cannot, the prefix itself says what the `default` order says first.
    """
    for pin in pins:
        if pin.obeyed:
            rows = rows.pinned(pin.prefix, pin.pop, np.flatnonzero(pin.inside(net, plen)), pops)
        else:
            rows = rows.pinned(pin.prefix, pops.index(default[0]), np.zeros(0, np.int64), pops)
    return rows
