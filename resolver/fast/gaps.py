"""Between which two children of a node a name falls that is not there: which NSEC denies it.

Names of a signed zone are in canonical order (RFC 4034 §6.1), so this is a binary search among
the labels right below the node.
"""

from numba import uint64

from resolver.fast.book import CHILD_COUNT, CHILD_START, LABEL_LENGTH, LABEL_START, Book
from resolver.fast.kernel import inlined, kernel
from resolver.fast.words import U64, Bytes, Flag
from resolver.wire import HEADER_BYTES


@inlined
def _is_before(book: Book, child: U64, rx: Bytes, at: U64) -> Flag:
    """Whether a child sorts before the label at `at` of the packet, in lower case."""
    start, length = uint64(book.child[child, LABEL_START]), uint64(book.child[child, LABEL_LENGTH])
    size = uint64(rx[at])
    for k in range(min(size, length)):
        octet = rx[at + uint64(1) + uint64(k)]
        if octet >= 65 and octet <= 90:
            octet |= 0x20
        known = book.label[start + uint64(k)]
        if known != octet:
            return known < octet
    return length < size


@kernel
def gap_of(book: Book, rx: Bytes, node: U64, cut: U64) -> U64:
    """How many children of `node` sort before the query name, which is below it.

    Args:
        book: The answers.
        rx: The packet.
        node: The closest encloser.
        cut: Octets of the query name before the node's name.
    """
    at = uint64(HEADER_BYTES)
    while at + uint64(rx[at]) + uint64(1) < uint64(HEADER_BYTES) + cut:
        at += uint64(rx[at]) + uint64(1)
    first = uint64(book.node[node, CHILD_START])
    low, high = uint64(0), uint64(book.node[node, CHILD_COUNT])
    while low < high:
        middle = (low + high) >> uint64(1)
        if _is_before(book, first + middle, rx, at):
            low = middle + uint64(1)
        else:
            high = middle
    return low
