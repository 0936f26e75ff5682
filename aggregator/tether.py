"""`python -m aggregator.tether PROGRAM ARG...`: becomes the program, but dies with its parent.

A supervisor that is killed outright cannot clean up after itself; the kernel can. See prctl(2),
PR_SET_PDEATHSIG: the setting survives execve(2), and counts the thread that started us.
"""

import ctypes
import os
import signal
import sys
from typing import NoReturn

PR_SET_PDEATHSIG = 1


def main() -> NoReturn:
    """Tie, look whether the parent died before, become the program."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 (the command is our own)


def tethered(command: list[str]) -> list[str]:
    """The command line that starts `command` tied to the calling process."""
    return [sys.executable, "-m", "aggregator.tether", str(os.getpid()), *command]


if __name__ == "__main__":
    main()
