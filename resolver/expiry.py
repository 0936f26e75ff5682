"""How long the signatures of this node still hold, said loudly before they do not.

Expired signatures are served all the same: a validator then tells its operator what is wrong, one
that forgives clocks still believes them, and everybody else is answered. Without signatures the
zone would be just as bogus to validators, and nobody could see why (RFC 4035 §5.3.1 leaves the
judgement to them).
"""

import msgspec

from popsteer.config import Config
from popsteer.telemetry import logger
from resolver.dnssec import Term, life

SAY_EVERY_S = 3_600


class Expiry:
    """Owns what is known of the file's term; read again when the file changes."""

    def __init__(self, config: Config) -> None:
        """Read it; a file that cannot be read is the workers' to refuse."""
        self._path = config.path(config.dns.dnssec) if config.dns.dnssec else None
        self._term: Term | None = None
        self._said_s = 0
        self.read()

    def read(self) -> None:
        """Take the term of the file as it is now; a bad file leaves the old one."""
        if self._path is None:
            return
        try:
            self._term = msgspec.msgpack.decode(self._path.read_bytes(), type=Term)
        except (OSError, msgspec.DecodeError):
            return
        self._said_s = 0

    def say(self, now_s: int) -> None:
        """Log what a person must know, once an hour."""
        if self._term is None or now_s - self._said_s < SAY_EVERY_S:
            return
        now = life(self._term, now_s)
        if now.text:
            self._said_s = now_s
            tell = logger().error if now.left_s <= 0 else logger().warning
            tell("dnssec", reason=now.text, file=str(self._path))

    def gauges(self, now_s: int) -> dict[str, float]:
        """Seconds left, negative when expired; nothing where zones are not signed."""
        if self._term is None:
            return {}
        return {"dnssec_left_seconds": life(self._term, now_s).left_s}
