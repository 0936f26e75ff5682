"""What every method gives, and the clock that all of them use."""

import errno
import time
from dataclasses import dataclass
from typing import Protocol

from popsteer.errors import SetupError
from popsteer.samples import RTT_US_MAX

_OURS = {
    errno.EACCES: "no permission to send",
    errno.EADDRNOTAVAIL: "no free local port",
    errno.EAFNOSUPPORT: "no such address family on this machine",
    errno.EMFILE: "too many open files: raise the limit of descriptors",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOBUFS: "no buffers left for sending",
    errno.ENOMEM: "no memory for sockets",
    errno.EPERM: "no permission to send; does a firewall of this machine forbid it?",
}
"""Errors that say something about this machine and nothing about the path."""
_THEIRS = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE}
"""Errors that somebody at the other end sent: an answer."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One probe."""

    rtt_us: int
    """Until the answer came; when `lost`, how long it was waited for."""
    lost: bool


class Measure(Protocol):
    """An open method; any number of calls may be under way at once."""

    async def __call__(self, address: str, port: int) -> Measurement:
        """Measure once; `address` is an IP address.

        Raises:
            SetupError: this machine did not let the probe out.
        """


def answered(since_ns: int) -> Measurement:
    """An answer that came now to a probe sent at `since_ns` (`time.monotonic_ns`)."""
    return Measurement(_elapsed_us(since_ns), lost=False)


def lost(since_ns: int) -> Measurement:
    """No answer until now."""
    return Measurement(_elapsed_us(since_ns), lost=True)


def failed(since_ns: int, error: OSError) -> Measurement:
    """What an error of a socket says about the path.

    Raises:
        SetupError: it is this machine's own.
    """
    if error.errno in _THEIRS:
        return answered(since_ns)
    reason = _OURS.get(error.errno or 0)
    if reason:
        raise SetupError(f"cannot probe: {reason}") from None
    return lost(since_ns)


def _elapsed_us(since_ns: int) -> int:
    return min((time.monotonic_ns() - since_ns) // 1_000, RTT_US_MAX)
