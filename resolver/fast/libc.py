"""System calls that kernels make, by their C names, and the C structs that they read.

The JIT linker finds the symbols by name, so code that calls them caches on disk; a ctypes pointer
would be an address of this run. Addresses of arrays come in as integers; the owner of an array
(`resolver.fast.batch`) keeps it alive and in place.
"""

from typing import Any

from numba import types
from numba.core.types import ExternalFunction

MSG_DONTWAIT = 0x40
MSG_WAITFORONE = 0x10000
CLOCK_REALTIME = 0
CLOCK_MONOTONIC = 1
POLLIN, POLLOUT, POLLNVAL = 0x1, 0x4, 0x20
AF_INET6 = 10
SOL_UDP, UDP_SEGMENT = 17, 103

SOCKADDR_BYTES = 32
"""sockaddr_in6 takes 28; slots of 32 stay aligned."""
MSGHDR_WORDS = 8
"""struct mmsghdr in 64-bit words: name, namelen, iov, iovlen, control, controllen, flags, len."""
(
    WORD_NAME,
    WORD_NAMELEN,
    WORD_IOV,
    WORD_IOVLEN,
    WORD_CONTROL,
    WORD_CONTROLLEN,
    WORD_FLAGS,
    WORD_LEN,
) = range(MSGHDR_WORDS)

recvmmsg: Any = ExternalFunction(
    "recvmmsg", types.int32(types.int32, types.uintp, types.uint32, types.int32, types.uintp)
)
sendmmsg: Any = ExternalFunction(
    "sendmmsg", types.int32(types.int32, types.uintp, types.uint32, types.int32)
)
poll: Any = ExternalFunction("poll", types.int32(types.uintp, types.uint64, types.int32))
usleep: Any = ExternalFunction("usleep", types.int32(types.uint32))
write: Any = ExternalFunction("write", types.int64(types.int32, types.uintp, types.uint64))
clock_gettime: Any = ExternalFunction("clock_gettime", types.int32(types.int32, types.uintp))
