"""Which node of the zones a query name is, or is below: a hash table of lower-case wire names.

A node is anything that the slow path answers in its own way: every owner name, every empty
non-terminal, every cut. Names that are no node are below their closest encloser (RFC 4592 §3.3).
Node 0 is the outside: names below no zone.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from resolver.fast.batch import NAME_BYTES, Batch
from resolver.fast.kernel import inlined, kernel
from resolver.fast.words import MIX, U64, Flag, Words

OUTSIDE = 0
NODE_BITS = 32


class Names(NamedTuple):
    """Open addressing, at most half full."""

    slot_hash: Words
    slot_node: NDArray[np.uint32]
    """0 is empty: the outside has no name."""
    start: NDArray[np.uint32]
    """[nodes] first word of the node's name in `words`."""
    length: NDArray[np.uint32]
    """[nodes] octets of the node's wire name."""
    words: Words
    labels_max: Words
    """[1] labels of the longest name: longer suffixes need not be looked up."""


@inlined
def name_hash(words: Words, start: U64, length: U64) -> U64:
    """Of a name that is padded with zeros to whole words."""
    mixed = uint64(length)
    for i in range((length + uint64(7)) >> uint64(3)):
        mixed = (mixed ^ words[start + uint64(i)]) * uint64(MIX)
        mixed ^= mixed >> uint64(32)
    return mixed


@inlined
def _same(names: Names, node: U64, words: Words, length: U64) -> Flag:
    if uint64(names.length[node]) != length:
        return False
    start = uint64(names.start[node])
    for i in range((length + uint64(7)) >> uint64(3)):
        if names.words[start + uint64(i)] != words[i]:
            return False
    return True


@inlined
def node_of(names: Names, words: Words, length: U64) -> U64:
    """The node of this very name, or OUTSIDE."""
    mixed = name_hash(words, uint64(0), length)
    last = uint64(names.slot_hash.shape[0] - 1)
    slot = mixed & last
    while names.slot_node[slot]:
        if names.slot_hash[slot] == mixed:
            node = uint64(names.slot_node[slot])
            if _same(names, node, words, length):
                return node
        slot = (slot + uint64(1)) & last
    return uint64(OUTSIDE)


@inlined
def _drop_first_label(batch: Batch, length: U64) -> U64:
    """Move the rest of the name to the front; its new length."""
    cut = uint64(batch.name[0]) + uint64(1)
    rest = length - cut
    for i in range(rest):
        batch.name[i] = batch.name[uint64(i) + cut]
    for i in range(rest, (rest + uint64(8)) & ~uint64(7)):
        batch.name[i] = 0
    return rest


@kernel
def closest_encloser(names: Names, batch: Batch, length: U64, labels: U64) -> U64:
    """The longest existing suffix of `batch.name` as `octets cut off << 32 | node`.

    Uses the name up. At most as many look-ups as the deepest name has labels.
    """
    rest = length
    while labels > uint64(0):
        rest = _drop_first_label(batch, rest)
        labels -= uint64(1)
        if labels <= names.labels_max[0]:
            node = node_of(names, batch.name_words, rest)
            if node != uint64(OUTSIDE):
                return ((length - rest) << uint64(NODE_BITS)) | node
    return uint64(OUTSIDE)


@kernel
def _insert(names: Names) -> None:
    last = uint64(names.slot_hash.shape[0] - 1)
    for node in range(uint64(1), uint64(names.start.shape[0])):
        mixed = name_hash(names.words, uint64(names.start[node]), uint64(names.length[node]))
        slot = mixed & last
        while names.slot_node[slot]:
            slot = (slot + uint64(1)) & last
        names.slot_hash[slot] = mixed
        names.slot_node[slot] = node


def names_of(wire_names: Sequence[bytes]) -> Names:
    """The table of lower-case wire names; the first gets node 1."""
    size = 16
    while size < 2 * len(wire_names) + 2:
        size *= 2
    length = np.array([0, *map(len, wire_names)], np.uint32)
    count = (length + np.uint32(7)) // np.uint32(8)
    start = (np.cumsum(count) - count).astype(np.uint32)
    padded = b"".join(name + bytes(-len(name) % 8) for name in wire_names)
    assert all(len(name) < NAME_BYTES for name in wire_names)
    names = Names(
        np.zeros(size, np.uint64),
        np.zeros(size, np.uint32),
        start,
        length,
        np.frombuffer(padded + bytes(8), "<u8").copy(),
        np.array([max(map(label_count, wire_names), default=0)], np.uint64),
    )
    _insert(names)
    return names


def label_count(wire_name: bytes) -> int:
    """Labels before the root."""
    count = at = 0
    while wire_name[at]:
        at += wire_name[at] + 1
        count += 1
    return count
