"""`python -m aggregator.tether PROGRAM ARG...`: becomes the program, but dies with its parent.

A supervisor that is killed outright cannot clean up after itself; the kernel can. See prctl(2),
PR_SET_PDEATHSIG (`popsteer.process`): the setting survives execve(2), and counts the thread that
started us.
"""

import os
import signal
import sys
from typing import NoReturn

from popsteer.process import end_with_parent


def main() -> NoReturn:
    """Tie, look whether the parent died before, become the program."""
    parent = int(sys.argv[1])
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit(1)
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 (the command is our own)


def tethered(command: list[str]) -> list[str]:
    """The command line that starts `command` tied to the calling process."""
    return [sys.executable, "-m", "aggregator.tether", str(os.getpid()), *command]


if __name__ == "__main__":
    main()
