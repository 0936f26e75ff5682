"""One worker: its sockets, its snapshot, its counts.

Owns the one reference that every answer reads. Updates replace it whole between two queries, so
no query sees half of a change and none is lost.
"""

import asyncio
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from popsteer.clock import now_ms
from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.names import SourceId
from popsteer.samples import Batch
from popsteer.telemetry import OncePerKey, logger
from resolver.answer import Answer, Client, Transport, answer
from resolver.cookies import CookieSecret
from resolver.counts import Counts
from resolver.demand import demand_of
from resolver.fast.path import FastPath, Rates
from resolver.route import DRAW_BITS, Outlook
from resolver.shelf import Shelved
from resolver.snapshot import Options, Rung, Snapshot
from resolver.sockets import Bound
from resolver.tcp import TcpListener
from resolver.transfer import journals_of, serial_of, transfers_of
from resolver.udp import UdpListener
from resolver.wire import Key
from resolver.zone import Zones
from resolver.zonefile import checked_fleet, load_zones


@dataclass(frozen=True, slots=True)
class Update:
    """What the node tells its workers; None leaves the table as it is."""

    outlook: Outlook
    rung: Rung
    shelved: Shelved | None = None
    reload_zones: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What a worker tells its node."""

    counts: Counts
    demand: tuple[Batch, ...] = ()
    serials: tuple[tuple[Key, int], ...] = ()
    """Of the zones that are served, by origin."""


class Worker:
    """Answers on its sockets until it is stopped."""

    def __init__(
        self, config: Config, sockets: list[Bound], secret: CookieSecret, lane: SourceId
    ) -> None:
        """Load the zones.

        Raises:
            ConfigError: a zone or an address cannot be used.
        """
        self._config = config
        self._lane = lane
        self._rng = Random()  # noqa: S311 -- spreads load, guards nothing
        self._once = OncePerKey()
        self._counts = Counts()
        self._demand = demand_of(config)
        self._reading = asyncio.Lock()
        """One reload at a time: the last to start is the last to end."""
        self._reloads: set[asyncio.Task[None]] = set()
        self._zones = load_zones(config)
        self.snapshot = Snapshot(self._zones, checked_fleet(config), _options(config, secret))
        self.snapshot = replace(self.snapshot, transfers=transfers_of(config))
        self._udp = [UdpListener(one.udp, self._respond_udp) for one in sockets]
        self._fast = FastPath(
            self._udp,
            self._demand.bits_of,
            Rates(config.dns.rrl_per_s, config.dns.rrl_exempt_nets),
        )
        self._tcp = TcpListener(self._respond_tcp, self._evicted)
        self._tcp_sockets: list[socket.socket] = [one.tcp for one in sockets]

    async def start(self) -> None:
        """Answer from now on."""
        loop = asyncio.get_running_loop()
        for listener in self._udp:
            listener.start(loop)
        if self._udp:
            self._fast.offer(self.snapshot)
            self._fast.start(loop)
        await self._tcp.start(self._tcp_sockets)

    async def stop(self) -> None:
        """Answer what has arrived, then no more."""
        loop = asyncio.get_running_loop()
        self._fast.stop()
        for listener in self._udp:
            listener.stop(loop)
        await self._tcp.stop()

    def update(self, update: Update) -> None:
        """Take over what the node knows."""
        if update.outlook.halted != self.snapshot.outlook.halted:
            self._enter_zones(self._zones, update.outlook)
        self.snapshot = replace(self.snapshot, outlook=update.outlook, rung=update.rung)
        if (shelved := update.shelved) is not None:
            self.snapshot = replace(self.snapshot, table=shelved.table, index=shelved.index)
        if update.reload_zones:
            task = asyncio.get_running_loop().create_task(self._reload())
            self._reloads.add(task)
            task.add_done_callback(self._reloads.discard)
        self._fast.offer(self.snapshot)

    async def _reload(self) -> None:
        """New zones, or the old ones where the files are bad; read aside, so answers go on."""
        async with self._reading:
            try:
                zones = await asyncio.to_thread(load_zones, self._config)
            except ConfigError as error:
                logger().error("zones not reloaded; the old ones serve on", reason=str(error))
                return
            shot = self.snapshot
            journals = await asyncio.to_thread(
                journals_of, self._zones, zones, shot.journals, shot.fleet
            )
            self.snapshot = replace(self.snapshot, journals=journals)
            self._enter_zones(zones, self.snapshot.outlook)
            self._fast.offer(self.snapshot)
            logger().info("zones reloaded", zones=len(zones.by_origin))

    def _enter_zones(self, zones: Zones, outlook: Outlook) -> None:
        self._zones = zones
        self.snapshot = replace(self.snapshot, zones=zones.halted() if outlook.halted else zones)

    def report(self, with_demand: bool) -> Report:
        """What was counted since the last report."""
        counts, self._counts = self._counts, Counts()
        compiled = self._fast.counted()
        counts.add_compiled(compiled.rcodes, compiled.pops, compiled.dropped)
        zones = self._zones.by_origin.items()
        serials = tuple((origin, serial_of(zone)) for origin, zone in zones)
        if not with_demand:
            return Report(counts, (), serials)
        slow = self._demand.report(self._lane, now_ms())
        demand = (*slow, *self._fast.demand(self._lane, now_ms()))
        return Report(counts, demand, serials)

    def _respond_udp(self, data: bytes, peer: tuple[Any, ...]) -> bytes | None:
        made = self.respond(data, peer, Transport.UDP)
        return made.wire if made is not None else None

    def _respond_tcp(self, data: bytes, peer: tuple[Any, ...]) -> Iterator[bytes]:
        made = self.respond(data, peer, Transport.TCP)
        if made is not None:
            yield made.wire
            yield from made.more

    def respond(self, data: bytes, peer: tuple[Any, ...], transport: Transport) -> Answer | None:
        """The response to one packet of a peer, counted; None where silence is right."""
        began_ns = time.perf_counter_ns()
        client = Client(_packed(peer[0]), transport)
        try:
            made = answer(
                data, client, self.snapshot, self._rng.getrandbits(DRAW_BITS), int(time.time())
            )
        except Exception:
            # A fault of ours must cost one answer, never the server.
            self._counts.faults += 1
            if self._once.first("fault"):
                logger().exception("answer failed", query=data.hex())
            return None
        if made is None:
            self._counts.unanswered += 1
            return None
        if made.served is not None:
            self._demand.add(made.served, self.snapshot.table)
        spent_us = (time.perf_counter_ns() - began_ns) / 1_000
        self._counts.add_answer(made, transport.name.lower(), spent_us)
        return made

    def _evicted(self) -> None:
        self._counts.tcp_evicted += 1


def _packed(host: str) -> bytes:
    if ":" in host:
        return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    return socket.inet_aton(host)


def _options(config: Config, secret: CookieSecret) -> Options:
    dns = config.dns
    return Options(dns.nsid.encode(), secret if dns.cookies else None, dns.minimal_any, dns.ecs)
