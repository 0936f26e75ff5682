"""The choice of a POP, compiled. Twin and specification: `resolver.route.decide`.

What does not depend on the client is worked out before: whether a POP can serve a service in a
family, and the order in which POPs stand in when no candidate of the row can.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from popsteer.table import CANDIDATES_MAX, NO_POP, SHARE_WHOLE
from resolver.fast.index import NO_ROW, SHARE_AT, Index
from resolver.fast.kernel import inlined
from resolver.fast.words import U64
from resolver.route import Fleet, Outlook

UNUSABLE, DOWN, DRAINED, ABLE = range(4)
"""What a POP is to a service in a family."""
OTHER = CANDIDATES_MAX
"""The slot of a choice that was no candidate of the row."""
_PART_BITS = 16
_PART = 1 << _PART_BITS
_DRAINED_FIRST, _DOWN_FIRST = 0, 1


class Standing(NamedTuple):
    """What POPs are now; the first axis is group of services * 2 + family."""

    status: NDArray[np.uint8]
    """[2 * groups, pops]"""
    stand_in: NDArray[np.uint16]
    """[2 * groups, pops] who serves when no candidate of the row can, in order, to NO_POP."""
    last: NDArray[np.uint16]
    """[2 * groups, 2] the first that is drained and the first that is down, or NO_POP."""
    shed: NDArray[np.uint32]
    """[pops] of 65,536."""


@inlined
def _start(index: Index, row: U64, draw: U64) -> U64:
    """The candidate into whose share the draw falls."""
    left = (draw * uint64(SHARE_WHOLE)) >> uint64(_PART_BITS)
    for slot in range(uint64(CANDIDATES_MAX)):
        share = uint64(index.octet[row, uint64(SHARE_AT) + uint64(slot)])
        if left < share:
            return uint64(slot)
        left -= share
    return uint64(0)


@inlined
def _choice(slot: U64, pop: U64) -> U64:
    return (slot << uint64(16)) | pop


@inlined
def _walk_row(index: Index, now: Standing, row: U64, group: U64, draw: U64) -> U64:
    """From the start down the ranks and round; NO_POP if no candidate can serve."""
    count = uint64(0)
    while count < uint64(CANDIDATES_MAX) and index.pop[row, count] != NO_POP:
        count += uint64(1)
    slot = _start(index, row, draw & uint64(_PART - 1))
    shed_draw = (draw >> uint64(_PART_BITS)) & uint64(_PART - 1)
    first = uint64(NO_POP)
    for _ in range(count):
        pop = uint64(index.pop[row, slot])
        if now.status[group, pop] == ABLE:
            part = uint64(now.shed[pop])
            if shed_draw >= part:
                return _choice(slot, pop)
            if first == uint64(NO_POP):
                first = _choice(slot, pop)  # stays where all shed
            # Given that it fell below `part`, the draw is uniform there: stretch it.
            shed_draw = (shed_draw << uint64(_PART_BITS)) // part
        slot += uint64(1)
        if slot == count:
            slot = uint64(0)
    return first


@inlined
def _walk_stand_ins(now: Standing, group: U64, draw: U64) -> U64:
    shed_draw = (draw >> uint64(_PART_BITS)) & uint64(_PART - 1)
    for at in range(uint64(now.stand_in.shape[1])):
        pop = uint64(now.stand_in[group, at])
        if pop == uint64(NO_POP):
            break
        part = uint64(now.shed[pop])
        if shed_draw >= part:
            return _choice(uint64(OTHER), pop)
        shed_draw = (shed_draw << uint64(_PART_BITS)) // part
    return _choice(uint64(OTHER), uint64(now.stand_in[group, 0]))


@inlined
def _last_resort(index: Index, now: Standing, row: U64, group: U64) -> U64:
    """The best that is only drained, else the best that has an address at all."""
    for at in range(uint64(2)):
        wanted = DRAINED if at == uint64(_DRAINED_FIRST) else DOWN
        if row != uint64(NO_ROW):
            for slot in range(uint64(CANDIDATES_MAX)):
                pop = uint64(index.pop[row, slot])
                if pop == uint64(NO_POP):
                    break
                if now.status[group, pop] == wanted:
                    return _choice(uint64(slot), pop)
        if now.last[group, at] != NO_POP:
            return _choice(uint64(OTHER), uint64(now.last[group, at]))
    return uint64(NO_POP)


@inlined
def choose(index: Index, now: Standing, row: U64, group: U64, draw: U64) -> U64:
    """`slot << 16 | pop`; the low half is NO_POP if no POP has an address in the family."""
    if now.stand_in[group, 0] == NO_POP and row == uint64(NO_ROW):
        return _last_resort(index, now, row, group)
    if row != uint64(NO_ROW):
        choice = _walk_row(index, now, row, group, draw)
        if choice != uint64(NO_POP):
            return choice
        if now.stand_in[group, 0] == NO_POP:
            return _last_resort(index, now, row, group)
    return _walk_stand_ins(now, group, draw)


def numbering(
    table_pops: Sequence[str], default: Sequence[str], config_pops: Sequence[str]
) -> tuple[str, ...]:
    """POPs by number: the table's, then those that only its defaults or the configuration name."""
    return tuple(dict.fromkeys((*table_pops, *default, *config_pops)))


def standing(
    pops: Sequence[str],
    groups: Sequence[tuple[str, ...]],
    defaults: Sequence[Sequence[str]],
    fleet: Fleet,
    outlook: Outlook,
) -> Standing:
    """What POPs are to each group of services, the tuples of POPs that services name.

    `defaults` are the default orders of the groups.
    """
    number = {pop: i for i, pop in enumerate(pops)}
    status = np.zeros((2 * max(len(groups), 1), max(len(pops), 1)), np.uint8)
    stand_in = np.full((len(status), status.shape[1] + 1), NO_POP, np.uint16)
    last = np.full((len(status), 2), NO_POP, np.uint16)
    for group, members in enumerate(groups):
        for ipv6 in (False, True):
            line = 2 * group + ipv6
            for pop in members:
                if fleet.addresses(pop, ipv6):
                    status[line, number[pop]] = _status(pop, outlook)
            tiers = defaults[group], members
            order = [number[pop] for pop in tiers[0]], [number[pop] for pop in tiers[1]]
            _fill_order(status[line], order, stand_in[line], last[line])
    shed = np.array([_part(outlook.shed, pop) for pop in pops] or [0], np.uint32)
    return Standing(status, stand_in, last, shed)


def _status(pop: str, outlook: Outlook) -> int:
    if pop in outlook.down or pop in outlook.reported_down:
        return DOWN
    return DRAINED if pop in outlook.drained else ABLE


def _part(shed: Mapping[str, float], pop: str) -> int:
    return min(_PART, round(shed.get(pop, 0.0) * _PART))


def _fill_order(
    status: NDArray[np.uint8],
    tiers: tuple[list[int], list[int]],
    stand_in: NDArray[np.uint16],
    last: NDArray[np.uint16],
) -> None:
    able = next((got for tier in tiers if (got := [n for n in tier if status[n] == ABLE])), [])
    unique = list(dict.fromkeys(able))
    stand_in[: len(unique)] = unique
    for at, wanted in ((_DRAINED_FIRST, DRAINED), (_DOWN_FIRST, DOWN)):
        last[at] = next((n for tier in tiers for n in tier if status[n] == wanted), NO_POP)
