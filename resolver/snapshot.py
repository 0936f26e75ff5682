"""Everything that one answer depends on besides the query: one frozen value, swapped whole."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from popsteer.table import Table
from resolver.cookies import CookieSecret
from resolver.fast.index import Index
from resolver.route import Fleet, Outlook
from resolver.transfer import Journal, Transfers
from resolver.wire import Key
from resolver.zone import Zones


class Rung(StrEnum):
    """The freshness ladder: what answers rest on now."""

    LIVE = "live"
    """A table that the source confirmed a moment ago."""
    LAST_GOOD = "last_good"
    """The table on disk, or one whose source is away."""
    GEOGRAPHY = "geography"
    """No table: POPs by distance."""
    STATIC = "static"
    """Neither: the order of the configuration."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a server answers; from `[dns]`."""

    nsid: bytes = b""
    secret: CookieSecret | None = None
    """None is cookies off."""
    minimal_any: bool = True
    ecs: bool = True


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Zones, table and outlook at one moment."""

    zones: Zones
    fleet: Fleet
    options: Options = Options()
    table: Table | None = None
    outlook: Outlook = field(default_factory=Outlook)
    rung: Rung = Rung.STATIC
    transfers: Transfers = field(default_factory=Transfers)
    journals: Mapping[Key, Journal] = field(default_factory=dict)
    """What changed in the zones, for IXFR."""
    index: Index | None = None
    """The table's for the compiled path; None while it is being built."""
