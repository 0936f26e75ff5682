"""What a long-lived process keeps of memory that it needed for a moment.

A window of samples, a cycle of planning or a new table takes tens to hundreds of megabytes for a
second, and the C library, and Arrow's own pool, would keep much of that for later.
"""

import ctypes
import mmap
from pathlib import Path

import pyarrow as pa

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 1 << 19
_ARENAS = 2
_MAPS = Path("/proc/self/maps")
_COMPILER = "libllvmlite"


def keep_little() -> None:
    """Have large blocks mapped one by one, so that each goes back when it is freed.

    By itself glibc raises the bound up to 32 MB after the first such block. To be called before
    threads are started.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc alone has it
        libc.mallopt(_M_ARENA_MAX, _ARENAS)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return what is free, and the compiler's own code.

    Machine code once loaded needs no compiler: its 60 MB are clean pages of a file, and what is
    called after all comes back from there.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    for line in _MAPS.read_text().splitlines() if _MAPS.exists() else ():
        span, access, *_ = line.split()
        if _COMPILER in line and access == "r-xp":
            first, end = (int(address, 16) for address in span.split("-"))
            libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)
