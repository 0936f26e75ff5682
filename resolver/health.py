"""The local health loop: this node's own checks of POP addresses.

Owns the up-or-down belief of each POP, with hysteresis, kept on disk so that a restart begins
with what was known and not with hope or fear. One prober per node, however many workers answer.
The rule that joins this with the planner's state, and the panic threshold, are `resolver.route`'s.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

import msgspec

from popsteer.config import Config, Health
from popsteer.telemetry import logger
from resolver.kept import keep, read_kept

JITTER = 0.1
"""Checks of many nodes must not beat in step."""
STATUS_LINE_BYTES_MAX = 1_024

Check = Callable[[socket.socket, str, Health], Awaitable[bool]]
"""What follows once the connection stands; the time-out is the caller's."""


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
        self._health = health
        self._kept = kept
        self._rng = rng
        self._changed = changed
        self._targets = {p.id: (p.ipv4 + p.ipv6)[0] for p in config.pop if p.ipv4 or p.ipv6}
        known = _last_known(kept)
        self._beliefs = {pop: Belief(known.get(pop, True)) for pop in self._targets}

    @property
    def down(self) -> frozenset[str]:
        """POPs that are believed to be down."""
        return frozenset(pop for pop, belief in self._beliefs.items() if not belief.up)

    async def run(self) -> None:
        """Check until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for pop, address in self._targets.items():
                tasks.create_task(self._watch(pop, address))

    async def _watch(self, pop: str, address: str) -> None:
        interval_s = self._health.interval_s
        await asyncio.sleep(self._rng.random() * interval_s)
        while True:
            self._learn(pop, await checked(address, self._health))
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


async def checked(address: str, health: Health) -> bool:
    """Whether one check of an address passes within the time-out."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        try:
            async with asyncio.timeout(health.timeout_s):
                loop = asyncio.get_running_loop()
                await loop.sock_connect(connection, (address, health.port))
                return await _METHODS[health.method](connection, address, health)
        except (OSError, TimeoutError):
            return False


async def _tcp(_connection: socket.socket, _address: str, _health: Health) -> bool:
    return True


async def _http(connection: socket.socket, address: str, health: Health) -> bool:
    """Any status below 400 (RFC 9110 §15)."""
    loop = asyncio.get_running_loop()
    host = f"[{address}]" if ":" in address else address
    request = f"GET {health.path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(connection, request.encode())
    head = b""
    while b"\r\n" not in head and len(head) < STATUS_LINE_BYTES_MAX:
        part = await loop.sock_recv(connection, STATUS_LINE_BYTES_MAX)
        if not part:
            break
        head += part
    status = head.partition(b"\r\n")[0].split()
    return len(status) > 1 and status[0].startswith(b"HTTP/") and b"100" <= status[1] < b"400"


_METHODS: Mapping[str, Check] = {"tcp": _tcp, "http": _http}
