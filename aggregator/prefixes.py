"""Row numbers for prefixes: whoever keeps a column per prefix asks here which row it is.

Rows are given in the order of appearance and never change, so columns only grow. It owns no
measurement; when there are too many prefixes the newcomers are refused, never the known.
"""

import numpy as np
from numpy.typing import NDArray

from popsteer.kernel import kernel
from popsteer.names import IPV6_BIT, LENGTH_MASK, Net, Plen, mask

UNKNOWN = -1
"""Row of a prefix that is not here."""
ROWS_MAX = 4_000_000

Rows = NDArray[np.int64]


@kernel
def _find(nets: Net, rows: Rows, net: Net, plen: Plen, length: int, found: Rows) -> None:
    """The rows of the prefixes of one `length` of which `nets`, sorted, knows.

    A search begins where the last one ended, as prefixes mostly come in order.
    """
    here = 0
    for i in range(len(net)):
        if plen[i] != length:
            continue
        low, high = 0, len(nets)
        if here < high and nets[here] <= net[i]:
            low = here
            step = 1
            while low + step < high and nets[low + step] <= net[i]:
                low += step
                step *= 2
            high = min(high, low + step)
        while low < high:
            middle = (low + high) // 2
            if nets[middle] <= net[i]:
                low = middle + 1
            else:
                high = middle
        here = max(low - 1, 0)
        if len(nets) and nets[here] == net[i]:
            found[i] = rows[here]


class Prefixes:
    """All prefixes seen, each with its row."""

    def __init__(self, rows_max: int = ROWS_MAX) -> None:
        self.net: Net = np.zeros(0, np.uint64)
        self.plen: Plen = np.zeros(0, np.uint8)
        self.refused = 0
        """How many lookups found no place for a new prefix."""
        self._rows_max = rows_max
        # Sorted nets and their rows, by `plen`: there are few lengths, and within one a lookup
        # is a binary search.
        self._sorted: dict[int, tuple[Net, Rows]] = {}
        # Both are of so many prefixes as they are long, and made anew when there are more.
        self._by_address: Rows = np.zeros(0, np.int64)
        self._covering: Rows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return len(self.net)

    def rows(self, net: Net, plen: Plen) -> Rows:
        """The row of each prefix, UNKNOWN where it was never added."""
        found = np.full(len(net), UNKNOWN, np.int64)
        for one, (nets, rows) in self._sorted.items():
            _find(nets, rows, net, plen, one, found)
        return found

    def add(self, net: Net, plen: Plen) -> Rows:
        """The row of each prefix, with new rows for new ones; UNKNOWN beyond the bound."""
        found = self.rows(net, plen)
        missing = found == UNKNOWN
        if not missing.any():
            return found
        for one in np.unique(plen[missing]).tolist():
            self._insert(np.unique(net[missing & (plen == one)]), one)
        found[missing] = self.rows(net[missing], plen[missing])
        self.refused += int((found == UNKNOWN).sum())
        return found

    def _insert(self, new: Net, plen: int) -> None:
        new = new[: max(0, self._rows_max - len(self))]
        if not len(new):
            return
        rows = np.arange(len(self), len(self) + len(new))
        self.net = np.concatenate([self.net, new])
        self.plen = np.concatenate([self.plen, np.full(len(new), plen, np.uint8)])
        old_net, old_rows = self._sorted.get(plen, (new[:0], rows[:0]))
        nets, all_rows = np.concatenate([old_net, new]), np.concatenate([old_rows, rows])
        order = np.argsort(nets, kind="stable")
        self._sorted[plen] = nets[order], all_rows[order]

    def by_address(self) -> Rows:
        """All rows, sorted by family, address and length."""
        if len(self._by_address) < len(self):
            length, family = self.plen & LENGTH_MASK, self.plen & IPV6_BIT
            self._by_address = np.lexsort((length, self.net, family))
        return self._by_address

    def covering(self) -> Rows:
        """Of each row, that of the longest known prefix that properly contains it, or UNKNOWN."""
        if len(self._covering) < len(self):
            self._covering = self._covers()
        return self._covering

    def _covers(self) -> Rows:
        best = np.full(len(self), UNKNOWN, np.int64)
        net, plen = self.net, self.plen
        for wide in sorted(self._sorted, key=lambda p: p & LENGTH_MASK):
            nets, wide_rows = self._sorted[wide]
            length = wide & LENGTH_MASK
            inside = ((plen & IPV6_BIT) == (wide & IPV6_BIT)) & ((plen & LENGTH_MASK) > length)
            here = np.flatnonzero(inside)
            if not len(here):
                continue
            wanted = net[here] & np.uint64(mask(length))
            at = np.minimum(np.searchsorted(nets, wanted), len(nets) - 1)
            hit = nets[at] == wanted
            # Lengths ascend, so a longer cover overwrites a shorter one.
            best[here[hit]] = wide_rows[at[hit]]
        return best
