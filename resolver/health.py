"""The local health loop: this node's own checks of POP addresses.

Owns the up-or-down belief of each address, with hysteresis, kept on disk so that a restart begins
with what was known and not with hope or fear. One prober per node, however many workers answer.
A POP is down when all its addresses of a family are, because clients of that family are then given
nothing that answers; a family of which no POP's address answers is this node's own trouble, and
is left out as long as the other one is well.
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
    """What is believed of one address."""

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
    """Checks every address each interval; `changed` is called whenever a belief turns."""

    def __init__(
        self, config: Config, health: Health, kept: Path, rng: Random, changed: Callable[[], None]
    ) -> None:
        file = str(config.path(health.file)) if health.file else ""
        self._health = msgspec.structs.replace(health, file=file)
        self._kept = kept
        self._rng = rng
        self._changed = changed
        targets = [Target(p.id, address) for p in config.pop for address in p.ipv4 + p.ipv6]
        known = _last_known(kept)
        self._beliefs = {one: Belief(known.get(_name(one), True)) for one in targets}

    @property
    def down(self) -> frozenset[str]:
        """POPs that are believed to be down."""
        up = {(one.pop, _is_ipv6(one)) for one, belief in self._beliefs.items() if belief.up}
        families = {ipv6 for _, ipv6 in up} or {False, True}
        judged = [(one.pop, _is_ipv6(one)) for one in self._beliefs]
        return frozenset(pop for pop, ipv6 in judged if ipv6 in families and (pop, ipv6) not in up)

    async def run(self) -> None:
        """Check until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for target in self._beliefs:
                tasks.create_task(self._watch(target))

    async def _watch(self, target: Target) -> None:
        interval_s = self._health.interval_s
        await asyncio.sleep(self._rng.random() * interval_s)
        while True:
            self._learn(target, await checked(target, self._health))
            await asyncio.sleep(interval_s * (1 + JITTER * (2 * self._rng.random() - 1)))

    def _learn(self, target: Target, passed: bool) -> None:
        before = self._beliefs[target]
        after = self._beliefs[target] = before.after(passed, self._health)
        if after.up != before.up:
            logger().warning("address turned", pop=target.pop, address=target.address, up=after.up)
            beliefs = {_name(one): belief.up for one, belief in self._beliefs.items()}
            # A full disk must not stop the checks; only the next start would know less.
            with contextlib.suppress(OSError):
                keep(self._kept, msgspec.json.encode(beliefs))
            self._changed()


def _name(target: Target) -> str:
    return f"{target.pop} {target.address}"


def _is_ipv6(target: Target) -> bool:
    return ":" in target.address


def _last_known(path: Path) -> Mapping[str, bool]:
    try:
        return msgspec.json.decode(read_kept(path) or b"{}", type=dict[str, bool])
    except msgspec.DecodeError:
        return {}
