"""What a server keeps of memory that it needed for a moment.

A table of a million rows takes hundreds of megabytes while it is read and built, and the C
library would keep much of that for later.
"""

import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 1 << 20


def map_large_blocks() -> None:
    """Have large blocks mapped one by one, so that each goes back when it is freed.

    By itself glibc raises the bound up to 32 MB after the first such block.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc alone has it
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Return what is free."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
