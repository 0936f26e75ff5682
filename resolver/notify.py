"""NOTIFY: secondaries are told that a zone changed (RFC 1996).

Owns what was announced and the asking again until a secondary answers. A notice is only a hint:
a secondary that misses all of them comes by its refresh timer.
"""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdatatype
import dns.tsig

from popsteer.config import Config, host_port
from popsteer.telemetry import logger
from resolver.transfer import is_newer
from resolver.tsig import key_name, keys_of
from resolver.wire import Key

SETTLE_S = 1.5
"""Between a change and its notices: all workers have read the zone by then."""
WAITS_S = (2.0, 4.0, 8.0, 16.0, 32.0)
"""RFC 1996 §3.6: how long each of five notices waits for its answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A secondary that is told."""

    host: str
    port: int
    key: dns.tsig.Key | None


def targets_of(config: Config) -> list[Target]:
    """Whom a configuration wants told.

    Raises:
        ConfigError: not HOST:PORT, or a key that cannot be used.
    """
    keys = keys_of(config)
    return [
        Target(*host_port(one.notify, "secondary.notify"), keys[key_name(one.key)])
        if one.key
        else Target(*host_port(one.notify, "secondary.notify"), None)
        for one in config.secondary
        if one.notify
    ]


@dataclass(slots=True)
class Notifier:
    """The notices of one node."""

    targets: list[Target]
    settle_s: float = SETTLE_S
    waits_s: tuple[float, ...] = WAITS_S
    _announced: dict[Key, int] = field(default_factory=dict)
    _tasks: dict[tuple[Key, Target], asyncio.Task[None]] = field(default_factory=dict)

    def offer(self, serials: Iterable[tuple[Key, int]]) -> None:
        """Announce what is new among the serials that a worker serves."""
        for origin, serial in serials:
            known = self._announced.get(origin)
            # Workers read a change one after the other: the last to do so still tells the old.
            if not self.targets or (known is not None and not is_newer(serial, known)):
                continue
            self._announced[origin] = serial
            for target in self.targets:
                # What is on its way about an older version has become pointless.
                if (old := self._tasks.pop((origin, target), None)) is not None:
                    old.cancel()
                task = asyncio.get_running_loop().create_task(self._tell(origin, serial, target))
                self._tasks[origin, target] = task

    async def run(self) -> None:
        """Notices go out until this is cancelled."""
        try:
            await asyncio.Event().wait()
        finally:
            for task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _tell(self, origin: Key, serial: int, target: Target) -> None:
        await asyncio.sleep(self.settle_s)
        name = dns.name.Name([*origin, b""])
        told = {"zone": name.to_text(), "serial": serial, "secondary": target.host}
        for wait_s in self.waits_s:
            rcode = await _ask(_notice(name), target, wait_s)
            if rcode is not None:
                logger().info("secondary notified", **told, rcode=rcode)
                return
        logger().warning("secondary does not answer notices", **told)


def _notice(origin: dns.name.Name) -> dns.message.QueryMessage:
    """RFC 1996 §4.5: opcode NOTIFY, AA, the zone and SOA as question."""
    notice = dns.message.make_query(origin, dns.rdatatype.SOA)
    notice.set_opcode(dns.opcode.NOTIFY)
    notice.flags = (notice.flags | dns.flags.AA) & ~dns.flags.RD
    return notice


async def _ask(notice: dns.message.Message, target: Target, wait_s: float) -> str | None:
    """Send one notice; the answer's code, or None where none came in time."""
    if target.key is not None:
        notice.use_tsig(target.key)
    loop = asyncio.get_running_loop()
    heard: asyncio.Future[str] = loop.create_future()
    wire = notice.to_wire()
    try:
        async with asyncio.timeout(wait_s):
            transport, _ = await loop.create_datagram_endpoint(
                lambda: _Hearer(notice, heard), remote_addr=(target.host, target.port)
            )
            try:
                transport.sendto(wire)
                return await heard
            finally:
                transport.close()
    except TimeoutError:
        return None
    except OSError:
        await asyncio.sleep(wait_s)
        return None


class _Hearer(asyncio.DatagramProtocol):
    """Waits for the answer to one notice."""

    def __init__(self, notice: dns.message.Message, heard: "asyncio.Future[str]") -> None:
        self._notice = notice
        self._heard = heard

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 -- asyncio's
        key = self._notice.keyring
        with contextlib.suppress(dns.exception.DNSException, ValueError):
            answer = dns.message.from_wire(data, keyring=key, request_mac=self._notice.mac)
            mine = answer.id == self._notice.id and answer.opcode() == dns.opcode.NOTIFY
            signed = key is None or answer.had_tsig
            if mine and signed and answer.flags & dns.flags.QR and not self._heard.done():
                self._heard.set_result(answer.rcode().name)
