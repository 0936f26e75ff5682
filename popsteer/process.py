"""Processes that end with their parent.

A supervisor that is killed with -9 cannot clean up, so the kernel does (Linux: prctl(2),
PR_SET_PDEATHSIG); elsewhere the children notice by their closed pipes.
"""

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send a signal to this process when its parent ends; fit for `preexec_fn`."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
