"""RTT samples of the open cut: two words each, in blocks that the next cut fills again.

A shard is folded for days, window after window of about the same size. Fresh memory for each
would cost as much as the arithmetic (the kernel clears every page), so the blocks of one cut are
kept for the next, and no more than that one filled.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from popsteer.kernel import kernel
from popsteer.samples import RttBatch, rows

BLOCK_ROWS = 1 << 17
"""Two megabytes; more than any record holds."""
RTT_BITS, METHOD_BITS, PLEN_BITS = 26, 3, 8
ANSWERED = RTT_BITS
"""The second word of a sample, from its lowest bit: RTT, answered, method, plen, place."""
METHOD = ANSWERED + 1
PLEN = METHOD + METHOD_BITS
PLACE = PLEN + PLEN_BITS
TRAITS = 1 << PLEN_BITS + METHOD_BITS
"""A trait is a plen and a method together, by which the rows of a prefix are sorted."""

Words = NDArray[np.uint64]


@dataclass(slots=True)
class Block:
    """The first `filled` rows count."""

    net: Words
    rest: Words
    filled: int = 0


@dataclass(slots=True)
class Blocks:
    """Owns the samples and what their columns have in common."""

    blocks: list[Block] = field(default_factory=list)
    used: int = 0
    """Blocks with samples of this cut; those behind are of the cut before."""
    traits: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(TRAITS, np.uint8))
    """1 at each trait that a sample has."""
    extremes: Words = field(default_factory=lambda: np.zeros(4, np.uint64))
    """Least and largest net, all nets or-ed, largest RTT."""

    def __len__(self) -> int:
        return sum(block.filled for block in self.filled())

    def filled(self) -> list[Block]:
        """The blocks with samples, in the order of arrival."""
        return self.blocks[: self.used]

    def add(self, batch: RttBatch, place: NDArray[np.uint32]) -> None:
        """The samples of a batch, at least one, each with the number of its place."""
        if not self.used:
            self.extremes[:] = batch.net[0], batch.net[0], 0, 0
        block = self._block(rows(batch))
        columns = batch.net, batch.plen, batch.rtt_us, batch.method, batch.lost
        at = block.filled
        _put(*columns, place, block.net[at:], block.rest[at:], self.traits, self.extremes)
        block.filled += rows(batch)

    def _block(self, size: int) -> Block:
        """One with room for so many."""
        if not self.used or self.blocks[self.used - 1].filled + size > BLOCK_ROWS:
            if self.used == len(self.blocks):
                net, rest = np.empty((2, BLOCK_ROWS), np.uint64)
                self.blocks.append(Block(net, rest))
            self.used += 1
        return self.blocks[self.used - 1]

    def clear(self) -> None:
        """Make ready for the next cut."""
        del self.blocks[self.used :]
        for block in self.blocks:
            block.filled = 0
        self.used = 0
        self.traits[:] = 0


@kernel
def _put(
    net: NDArray[np.uint64],
    plen: NDArray[np.uint8],
    rtt_us: NDArray[np.uint32],
    method: NDArray[np.uint8],
    lost: NDArray[np.uint8],
    place: NDArray[np.uint32],
    nets: Words,
    rests: Words,
    traits: NDArray[np.uint8],
    extremes: Words,
) -> None:
    low, high, union, slowest = extremes[0], extremes[1], extremes[2], np.uint32(extremes[3])
    length, way, differ = plen[0], method[0], np.uint8(0)
    for i in range(len(net)):
        here = net[i]
        low, high, union = min(low, here), max(high, here), union | here
        slowest = max(slowest, rtt_us[i])
        differ |= (plen[i] ^ length) | (method[i] ^ way)
        nets[i] = here
        answered = np.uint64(lost[i] == 0)
        rests[i] = (
            np.uint64(rtt_us[i])
            | answered << np.uint64(ANSWERED)
            | np.uint64(method[i]) << np.uint64(METHOD)
            | np.uint64(plen[i]) << np.uint64(PLEN)
            | np.uint64(place[i]) << np.uint64(PLACE)
        )
    extremes[0], extremes[1], extremes[2], extremes[3] = low, high, union, slowest
    traits[(np.uint32(length) << METHOD_BITS) | way] = 1
    if differ:
        for i in range(len(net)):
            traits[(np.uint32(plen[i]) << METHOD_BITS) | method[i]] = 1
