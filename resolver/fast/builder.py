"""From snapshots to the worlds that compiled loops read; parts that did not change are kept."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from popsteer.names import Prefix
from resolver.cookies import ROTATION_S
from resolver.fast import book as books
from resolver.fast.engine import World
from resolver.fast.limit import limits
from resolver.fast.load import Ranked, Services, ranked_of, routes_of, services_of, settings_of
from resolver.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class _Built:
    """A world, what it was built from, and the parts that the next one may keep."""

    snapshot: Snapshot
    day: int
    services: Services
    ranked: Ranked
    world: World


class Builder:
    """Builds one world after the other."""

    def __init__(
        self, bits: Mapping[str, float], rate_per_s: float, exempt: Sequence[Prefix]
    ) -> None:
        self._bits = bits
        self._limits = limits(rate_per_s, exempt)
        self._built: _Built | None = None

    def world_of(self, snapshot: Snapshot) -> World:
        """The world of a snapshot; the very same one when nothing of it changed."""
        now_s = int(time.time())
        day = now_s // ROTATION_S
        old = self._built
        if old is not None and old.day == day and _same(old.snapshot, snapshot):
            return old.world
        if old is not None and old.snapshot.zones is snapshot.zones:
            services, book = old.services, old.world.book
        else:
            services = services_of(snapshot, self._bits)
            minimal_any = snapshot.options.minimal_any
            book = books.build(snapshot.zones, minimal_any, services.number)
        if old is not None and old.snapshot.index is snapshot.index:
            ranked = old.ranked
        else:
            ranked = ranked_of(snapshot.table, snapshot.index)
        routes, pops = routes_of(snapshot, ranked, services)
        settings = settings_of(snapshot.options, self._limits, now_s)
        world = World(book, routes, settings, tuple(pops))
        self._built = _Built(snapshot, day, services, ranked, world)
        return world


def _same(old: Snapshot, new: Snapshot) -> bool:
    """Whether answers are the same; the rung is told by the slow path alone."""
    return (
        old.zones is new.zones
        and old.index is new.index
        and old.outlook == new.outlook
        and old.options == new.options
        and old.fleet is new.fleet
    )
