"""What a long-lived process keeps of memory that it needed for a moment.

A window of samples, a cycle of planning or a new table takes tens to hundreds of megabytes for a
second, and the C library, and Arrow's own pool, would keep much of that for later.
"""

import ctypes
import mmap
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BYTES = 1 << 19
_ARENAS = 2
_MAPS = Path("/proc/self/smaps")
_WORK_SELDOM = ("libllvmlite", "libarrow")
"""The compiler of numba, and the reader of tables and records."""


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
    """Return what is free, and the code of libraries that work only now and then.

    Machine code once loaded needs no compiler: its 80 MB are clean pages of a file, and what is
    called after all comes back from there.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    for first, end in _clean_spans():
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), mmap.MADV_DONTNEED)


def _clean_spans() -> Iterator[tuple[int, int]]:
    """Addresses of those libraries' code and constants, where nothing was written (proc(5))."""
    span = ""
    for line in _MAPS.read_text().splitlines() if _MAPS.exists() else ():
        first, *rest = line.split()
        if not first.endswith(":"):
            wanted = rest[0] in {"r-xp", "r--p"} and any(name in line for name in _WORK_SELDOM)
            span = first if wanted else ""
        elif span and first == "Anonymous:" and rest[0] == "0":
            begin, end = (int(address, 16) for address in span.split("-"))
            yield begin, end
