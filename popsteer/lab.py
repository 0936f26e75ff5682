"""The lab: changes that a person makes to the world of `popsteer up`, to see the loop answer.

One JSON file in the data folder, changed by `popsteer lab …`, read again by the replay source,
the POP listeners and the simulated clients whenever it changes. It never exists in production.
"""

import os
from pathlib import Path

import msgspec

from popsteer.errors import ConfigError

FILE = "lab.json"


class RttChange(msgspec.Struct, frozen=True, kw_only=True):
    """Changed RTT between a prefix (and all within it) and a POP."""

    prefix: str
    pop: str
    """`*` is every POP."""
    factor: float = 1.0
    add_ms: float = 0.0
    loss: float = 0.0
    """Share of probes that are lost on top."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """All changes in force."""

    rtt: tuple[RttChange, ...] = ()
    down: tuple[str, ...] = ()
    """POPs whose listener is closed."""
    load_bps: dict[str, float] = {}
    """Load on a POP beside that of the clients."""
    demand: dict[str, float] = {}
    """Factor on the demand of a prefix and all within it."""


def load(path: Path) -> Changes:
    """The changes in force; none where the file does not exist.

    Raises:
        ConfigError: the file is not of this form.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Changes)
    except FileNotFoundError:
        return Changes()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def save(path: Path, changes: Changes) -> None:
    """Replace the file in one step."""
    fresh = path.with_suffix(f".{os.getpid()}.new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(changes)))
    fresh.replace(path)


class Watch:
    """Gives the changes again whenever the file changed; a broken file keeps the last good."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self.changes = Changes()

    def poll(self) -> bool:
        """Read the file if it changed; whether it did."""
        try:
            status = self._path.stat()
            stamp = (status.st_mtime_ns, status.st_ino)
        except OSError:
            stamp = None
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            self.changes = load(self._path)
        except ConfigError:
            return False
        return True
