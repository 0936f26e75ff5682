"""The local health loop: this node's own checks of POP addresses.

Owns the up-or-down belief of each POP, with hysteresis, kept on disk so that a restart begins
with what was known and not with hope or fear. One prober per node, however many workers answer.
The rule that joins this with the planner's state, and the panic threshold, are `resolver.route`'s.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from popsteer.config import Config, Health
from popsteer.telemetry import logger
from resolver.checks import Target, checked
from resolver.kept import keep, read_kept

JITTER = 0.1
"""Checks of many nodes must not beat in step."""


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of one POP."""

    up: bool = True
    streak: int = 0
    """Checks in a row that contradict `up`."""

    def after(self, passed: bool, health: Health) -> "Belief":
        """The belief once another check has ended."""
        if passed == self.up:
            return Belief(self.up)
        streak = self.streak + 1
        enough = health.down_after if self.up else health.up_after
        return Belief(not self.up) if streak >= enough else Belief(self.up, streak)


class Prober:
    """Checks every POP each interval; `changed` is called whenever a belief turns."""

    def __init__(
        self, config: Config, health: Health, kept: Path, rng: Random, changed: Callable[[], None]
    ) -> None:
        file = str(config.path(health.file)) if health.file else ""
        self._health = msgspec.structs.replace(health, file=file)
        self._kept = kept
        self._rng = rng
        self._changed = changed
        self._targets = [Target(p.id, (p.ipv4 + p.ipv6)[0]) for p in config.pop if p.ipv4 or p.ipv6]
        known = _last_known(kept)
        self._beliefs = {one.pop: Belief(known.get(one.pop, True)) for one in self._targets}

    @property
    def down(self) -> frozenset[str]:
        """POPs that are believed to be down."""
        return frozenset(pop for pop, belief in self._beliefs.items() if not belief.up)

    async def run(self) -> None:
        """Check until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for target in self._targets:
                tasks.create_task(self._watch(target))

    async def _watch(self, target: Target) -> None:
        interval_s = self._health.interval_s
        await asyncio.sleep(self._rng.random() * interval_s)
        while True:
            self._learn(target.pop, await checked(target, self._health))
            await asyncio.sleep(interval_s * (1 + JITTER * (2 * self._rng.random() - 1)))

    def _learn(self, pop: str, passed: bool) -> None:
        before = self._beliefs[pop]
        after = self._beliefs[pop] = before.after(passed, self._health)
        if after.up != before.up:
            logger().warning("POP turned", pop=pop, up=after.up)
            beliefs = {name: belief.up for name, belief in self._beliefs.items()}
            # A full disk must not stop the checks; only the next start would know less.
            with contextlib.suppress(OSError):
                keep(self._kept, msgspec.json.encode(beliefs))
            self._changed()


def _last_known(path: Path) -> Mapping[str, bool]:
    try:
        return msgspec.json.decode(read_kept(path) or b"{}", type=dict[str, bool])
    except msgspec.DecodeError:
        return {}
