"""The measurement plan: `plan/measurements.json`, what the planner would like to know better.

By POP the prefixes whose RTT from there is the most doubtful where it matters most, the dearest
doubt first. The planner writes it with every table; an agent measures these targets more often,
within its own rate. It names no addresses: an agent measures only what its own targets file names.
Whoever finds no plan, or one that has expired, measures all targets alike.
"""

from typing import Annotated

import msgspec

from popsteer.errors import ConfigError
from popsteer.names import Prefix

KEY = "plan/measurements.json"
VERSION = 1
PAIRS_MAX = 4_096
"""Pairs in one plan: some 60 KB, which every agent reads whenever it changes."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One plan."""

    created_ms: Annotated[int, msgspec.Meta(ge=0)]
    expires_ms: Annotated[int, msgspec.Meta(ge=0)]
    """Nobody follows it later."""
    pops: dict[str, tuple[str, ...]]
    """Prefixes by the POP that should measure them, the most wanted first."""
    version: Annotated[int, msgspec.Meta(ge=VERSION, le=VERSION)] = VERSION

    def of(self, pop: str, now_ms: int) -> tuple[Prefix, ...]:
        """What one POP is to measure; nothing when the plan has expired."""
        if now_ms >= self.expires_ms:
            return ()
        return tuple(Prefix.parse(text) for text in self.pops.get(pop, ()))


def encode(wanted: Wanted) -> bytes:
    """The bytes of a plan."""
    return msgspec.json.encode(wanted)


def decode(data: bytes) -> Wanted:
    """The plan in the bytes.

    Raises:
        ConfigError: not a plan, of another version, with more pairs than there may be, or with
            something that is no prefix.
    """
    try:
        wanted = msgspec.json.decode(data, type=Wanted)
    except ValueError as error:
        raise ConfigError(f"{KEY}: {error}") from None
    pairs = sum(len(prefixes) for prefixes in wanted.pops.values())
    if pairs > PAIRS_MAX:
        raise ConfigError(f"{KEY}: {pairs} pairs; at most {PAIRS_MAX}")
    for prefixes in wanted.pops.values():
        for text in prefixes:
            Prefix.parse(text)
    return wanted
