"""The preallocated memory of one serving loop: packets, addresses and the structs of the kernel.

One owner: the loop that was given it. Nothing here is ever reallocated, because the structs hold
the addresses of the arrays.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from resolver.fast import libc
from resolver.fast.words import Bytes, Words

BATCH = 64
"""Packets a system call: enough to hide the call, few enough to stay in the L2 cache."""
RX_BYTES = 4096
TX_BYTES = 1232
"""The most that we send over UDP (RFC 9715)."""
# Strides of an odd number of cache lines spread the first lines of packets over all cache sets.
_RX_STRIDE = RX_BYTES + 64
_TX_STRIDE = 1344
CONTROL_BYTES = 64
NAME_BYTES = 256
NAME_WORDS = NAME_BYTES // 8 + 1

# Columns of `Batch.query`, one row a packet.
(
    LENGTH,
    QUESTION_END,
    QTYPE,
    LABELS,
    LOWER_LABELS,
    CUT,
    EDNS,
    UDP_MAX,
    ECS_AT,
    ECS_SOURCE,
    COOKIE_AT,
    COOKIE_LENGTH,
    NET,
    IPV6,
    ENTRY,
    ANSWER,
    CHOICE,
    DRAW,
    ACTION,
    TRUSTED,
    COOKIE_STAMP,
    COOKIE_HASH,
    LINE,
    REPLY_LENGTH,
) = range(24)
QUERY_WORDS = 24
"""Three cache lines."""

# Bits of `EDNS`.
EDNS_PRESENT, EDNS_DO, EDNS_ECS, EDNS_NSID, EDNS_COOKIE = 1, 2, 4, 8, 16

# Values of `ACTION`.
DROP, SLOW, ANSWERED = 0, 1, 2

# Slots of `Batch.at`, addresses of arrays.
(
    AT_RX,
    AT_TX,
    AT_POLL,
    AT_CLOCK,
    AT_ONE,
    AT_TX_OCTETS,
    AT_TX_VECTOR,
    AT_TX_CONTROL,
) = range(8)

# Slots of `Batch.made`.
READY, GROUPS, MERGES = range(3)
# Columns of `Batch.group`.
GROUP_FIRST, GROUP_COUNT, GROUP_VECTOR = range(3)
_GROUP_SLOTS = 128
SEGMENT_CMSG_BYTES = 24
"""One control message of 16 bits, padded."""


class Batch(NamedTuple):
    """One serving loop's memory."""

    rx: Bytes
    tx: Bytes
    name: Bytes
    """[256 + 8] the query name in lower case, padded with zeros to whole words."""
    name_words: Words
    """The same memory as words."""
    address: Bytes
    """[n, 32] sockaddr_in or sockaddr_in6 of each client."""
    control: Bytes
    """[n, 64] the local address that a packet came to, as IP_PKTINFO gives and takes it."""
    address_words: Words
    control_words: Words
    """The same memory as words."""
    rx_header: Words
    tx_header: Words
    tx_vector: Words
    tx_control: Words
    """[n, 11] for a message of several responses: where it comes from, how long each is."""
    ready: Words
    """[n, 2] packet and group of each response."""
    group: Words
    """[n, 3] responses that leave as one message: the first's packet, how many, the next vector."""
    group_at: Words
    """[128] the latest group of a client, by a hash; from GROUPS up it is an older batch's."""
    made: Words
    """[3] responses and groups of this batch, and whether responses are merged."""
    query: Words
    """[n, QUERY_WORDS] what is known of each query."""
    poll: NDArray[np.int32]
    """struct pollfd of the socket, of the wake-up event, and of the socket for writing."""
    clock: NDArray[np.int64]
    at: Words


def batch(size: int = BATCH) -> tuple[Batch, list[NDArray[np.uint64]]]:
    """Memory for `size` packets, and the arrays that the structs point to but kernels never read.

    The caller keeps both alive as long as a loop runs.
    """
    name = np.zeros(NAME_WORDS, np.uint64)
    rx_vector = np.zeros((size, 2), np.uint64)
    address = np.zeros((size, libc.SOCKADDR_BYTES), np.uint8)
    control = np.zeros((size, CONTROL_BYTES), np.uint8)
    made = Batch(
        rx=np.zeros((size, _RX_STRIDE), np.uint8),
        tx=np.zeros((size, _TX_STRIDE), np.uint8),
        name=name.view(np.uint8),
        name_words=name,
        address=address,
        control=control,
        address_words=address.view(np.uint64),
        control_words=control.view(np.uint64),
        rx_header=np.zeros((size, libc.MSGHDR_WORDS), np.uint64),
        tx_header=np.zeros((size, libc.MSGHDR_WORDS), np.uint64),
        tx_vector=np.zeros((size, 2), np.uint64),
        tx_control=np.zeros((size, (CONTROL_BYTES + SEGMENT_CMSG_BYTES) // 8), np.uint64),
        ready=np.zeros((size, 2), np.uint64),
        group=np.zeros((size, 3), np.uint64),
        group_at=np.zeros(_GROUP_SLOTS, np.uint64),
        made=np.zeros(3, np.uint64),
        query=np.zeros((size, QUERY_WORDS), np.uint64),
        poll=np.zeros(8, np.int32),
        clock=np.zeros(2, np.int64),
        at=np.zeros(8, np.uint64),
    )
    one = np.ones(1, np.uint64)
    pointed = (
        *(made.rx_header, made.tx_header, made.poll, made.clock),
        *(one, made.tx, made.tx_vector, made.tx_control),
    )
    made.at[: len(pointed)] = [_address(array) for array in pointed]
    for i in range(size):
        rx_vector[i] = (_address(made.rx[i]), RX_BYTES)
        made.rx_header[i, : libc.WORD_IOVLEN + 1] = (
            _address(made.address[i]),
            libc.SOCKADDR_BYTES,
            _address(rx_vector[i]),
            1,
        )
        made.rx_header[i, libc.WORD_CONTROL] = _address(made.control[i])
    return made, [rx_vector, one]


def _address(array: NDArray[np.generic]) -> int:
    return int(array.ctypes.data)
