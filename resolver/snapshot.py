"""Everything that one answer depends on besides the query: one frozen value, swapped whole."""

from dataclasses import dataclass, field
from enum import StrEnum

from popsteer.table import Table
from resolver.cookies import CookieSecret
from resolver.fast.index import Index
from resolver.route import Fleet, Outlook
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
    index: Index | None = None
    """The table's for the compiled path; None while it is being built."""
