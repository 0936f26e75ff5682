"""Sending a batch: responses of one length to one client leave as one message (UDP_SEGMENT).

The system then goes through routing and its queues once for all of them, and cuts them apart at
the end or lets the network card do it (linux/Documentation/networking/segmentation-offloads.rst).
Forwarders and load balancers ask from few ports, so under load many responses of a batch go the
same way. A client with a port of its own for each query gets its responses one by one, as ever.
"""

from numba import uint32, uint64

from resolver.fast import libc
from resolver.fast.batch import (
    AT_POLL,
    AT_TX,
    AT_TX_CONTROL,
    AT_TX_OCTETS,
    AT_TX_VECTOR,
    CONTROL_BYTES,
    GROUP_COUNT,
    GROUP_FIRST,
    GROUP_VECTOR,
    GROUPS,
    MERGES,
    READY,
    REPLY_LENGTH,
    SEGMENT_CMSG_BYTES,
    Batch,
)
from resolver.fast.kernel import inlined
from resolver.fast.words import MIX, U64, Flag

_SEND_WAIT_MS = 5
_SLOT_SHIFT = 64 - 7
"""`Batch.group_at` has 128 slots."""
_SEGMENTS_MAX = 64
"""UDP_MAX_SEGMENTS, of the oldest kernels that have it."""
_MESSAGE_BYTES_MAX = 65_000
"""An IP packet's bound on the whole message, less its headers."""
# struct cmsghdr and its data, as words: length; level SOL_UDP and type UDP_SEGMENT; 16 bits.
_CMSG_LENGTH = 16 + 2
_CMSG_KIND = libc.UDP_SEGMENT << 32 | libc.SOL_UDP
_VECTOR_BYTES = 16


@inlined
def _goes_along(batch: Batch, i: U64, first: U64) -> Flag:
    """Whether two responses have one length, one client and one address of ours."""
    if batch.query[i, REPLY_LENGTH] != batch.query[first, REPLY_LENGTH]:
        return False
    for k in range(uint64(libc.SOCKADDR_BYTES // 8)):
        if batch.address_words[i, uint64(k)] != batch.address_words[first, uint64(k)]:
            return False
    if batch.rx_header[i, libc.WORD_CONTROLLEN]:
        for k in range(uint64(CONTROL_BYTES // 8)):
            if batch.control_words[i, uint64(k)] != batch.control_words[first, uint64(k)]:
                return False
    return True


@inlined
def _forget_interface(batch: Batch, i: U64) -> None:
    """The same address whichever interface leads to the client: no ipi_ifindex, ipi6_ifindex."""
    if batch.rx_header[i, libc.WORD_CONTROLLEN]:
        index = uint64(32) if batch.address[i, 0] == libc.AF_INET6 else uint64(16)
        for k in range(index, index + uint64(4)):
            batch.control[i, k] = 0


@inlined
def _group_of(batch: Batch, i: U64, slot: U64) -> U64:
    """The group that the response to packet `i` joins, or the number of a new one."""
    group, groups = batch.group_at[slot], batch.made[GROUPS]
    if group >= groups or not batch.made[MERGES]:
        return groups
    count = batch.group[group, GROUP_COUNT]
    whole = (count + uint64(1)) * batch.query[i, REPLY_LENGTH]
    if count >= uint64(_SEGMENTS_MAX) or whole > uint64(_MESSAGE_BYTES_MAX):
        return groups
    return group if _goes_along(batch, i, batch.group[group, GROUP_FIRST]) else groups


@inlined
def add_response(batch: Batch, i: U64) -> None:
    """Note that the response to packet `i` is ready, and which others it goes with.

    A collision in the little hash table costs a message of its own, nothing else.
    """
    _forget_interface(batch, i)
    # An IPv4 client is the first word, an IPv6 one the first three.
    client = batch.address_words[i, 0] ^ batch.address_words[i, 1] ^ batch.address_words[i, 2]
    mixed = (client * uint64(MIX)) ^ (batch.query[i, REPLY_LENGTH] * uint64(MIX))
    slot = mixed >> uint64(_SLOT_SHIFT)
    group = _group_of(batch, i, slot)
    if group == batch.made[GROUPS]:
        batch.group_at[slot] = group
        batch.group[group, GROUP_FIRST] = i
        batch.group[group, GROUP_COUNT] = uint64(0)
        batch.made[GROUPS] = group + uint64(1)
    batch.group[group, GROUP_COUNT] += uint64(1)
    at = batch.made[READY]
    batch.ready[at, 0], batch.ready[at, 1] = i, group
    batch.made[READY] = at + uint64(1)


@inlined
def lay_out(batch: Batch) -> None:
    """Fill the kernel's structs: a header for each group, the vectors of a group side by side."""
    at = uint64(0)
    for k in range(batch.made[GROUPS]):
        group = uint64(k)
        batch.group[group, GROUP_VECTOR] = at
        _write_header(batch, group, at)
        at += batch.group[group, GROUP_COUNT]
    for k in range(batch.made[READY]):
        i, group = batch.ready[uint64(k), 0], batch.ready[uint64(k), 1]
        at = batch.group[group, GROUP_VECTOR]
        batch.group[group, GROUP_VECTOR] = at + uint64(1)
        batch.tx_vector[at, 0] = batch.at[AT_TX_OCTETS] + i * uint64(batch.tx.shape[1])
        batch.tx_vector[at, 1] = batch.query[i, REPLY_LENGTH]


@inlined
def _write_header(batch: Batch, group: U64, vector: U64) -> None:
    """To the client, from where it asked; of more than one response also how long each is."""
    i, count = batch.group[group, GROUP_FIRST], batch.group[group, GROUP_COUNT]
    received, header = batch.rx_header[i], batch.tx_header[group]
    length = received[libc.WORD_CONTROLLEN]
    header[libc.WORD_NAME] = received[libc.WORD_NAME]
    header[libc.WORD_NAMELEN] = received[libc.WORD_NAMELEN] & uint64(0xFFFFFFFF)
    header[libc.WORD_IOV] = batch.at[AT_TX_VECTOR] + vector * uint64(_VECTOR_BYTES)
    header[libc.WORD_IOVLEN] = count
    header[libc.WORD_CONTROL] = received[libc.WORD_CONTROL]
    header[libc.WORD_CONTROLLEN] = length
    if count == uint64(1):
        return
    control, words = batch.tx_control[group], length >> uint64(3)
    for k in range(words):
        control[uint64(k)] = batch.control_words[i, uint64(k)]
    control[words] = uint64(_CMSG_LENGTH)
    control[words + uint64(1)] = uint64(_CMSG_KIND)
    control[words + uint64(2)] = batch.query[i, REPLY_LENGTH]
    header[libc.WORD_CONTROL] = batch.at[AT_TX_CONTROL] + group * uint64(8 * control.shape[0])
    header[libc.WORD_CONTROLLEN] = length + uint64(SEGMENT_CMSG_BYTES)


@inlined
def _send_singly(batch: Batch, fd: int, group: U64) -> U64:
    """Send a group's responses one by one; how many the system did not take.

    Some paths have no segmentation (IPsec, a card without checksums): if that was it, what is
    still to come in this turn of the loop is not merged either.
    """
    received, header = batch.rx_header[batch.group[group, GROUP_FIRST]], batch.tx_header[group]
    count, lost = header[libc.WORD_IOVLEN], uint64(0)
    header[libc.WORD_CONTROL] = received[libc.WORD_CONTROL]
    header[libc.WORD_CONTROLLEN] = received[libc.WORD_CONTROLLEN]
    header[libc.WORD_IOVLEN] = uint64(1)
    at = batch.at[AT_TX] + group * uint64(8 * libc.MSGHDR_WORDS)
    for _ in range(count):
        lost += uint64(libc.sendmmsg(fd, at, uint32(1), libc.MSG_DONTWAIT) <= 0)
        header[libc.WORD_IOV] += uint64(_VECTOR_BYTES)
    if lost < count:
        batch.made[MERGES] = uint64(0)
    return lost


@inlined
def send(batch: Batch, fd: int) -> U64:
    """Send what is laid out; how many the system did not take even after a wait."""
    count, sent, lost = batch.made[GROUPS], uint64(0), uint64(0)
    while sent < count:
        at = batch.at[AT_TX] + sent * uint64(8 * libc.MSGHDR_WORDS)
        taken = libc.sendmmsg(fd, at, uint32(count - sent), libc.MSG_DONTWAIT)
        if taken <= 0:
            # The buffer is full, or this client cannot be reached.
            libc.poll(batch.at[AT_POLL] + uint64(16), uint64(1), _SEND_WAIT_MS)
            taken = libc.sendmmsg(fd, at, uint32(1), libc.MSG_DONTWAIT)
            if taken <= 0:
                single = batch.group[sent, GROUP_COUNT] == uint64(1)
                lost += uint64(1) if single else _send_singly(batch, fd, sent)
                taken = 1
        sent += uint64(taken)
    return lost
