"""Simulated clients: resolver caches that ask popsteer's DNS and send their users to the answer.

A prefix with more demand has more caches, as a large ISP's resolver farm has, so that queries
follow demand. A cache keeps its answer for the TTL; the load of a POP is the demand of the caches
that hold its address. Each service has caches of its own and a part of all demand. Queries are
real UDP packets with an ECS option, a few hundred a second.
"""

import asyncio
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from dnslib import EDNS0, QTYPE, DNSError, DNSQuestion, DNSRecord, EDNSOption
from numpy.typing import NDArray

from popsteer.config import Service
from popsteer.names import Prefix
from popsteer.world import World

CACHES_PER_PREFIX = 3
"""On average; every prefix has at least one."""
ANSWER_TIMEOUT_S = 2.0
RETRY_S = 1.0
GAP_S = 1.0
"""Mean time from the end of a TTL to the next user; it also keeps caches from asking in step."""
QUERIES_PER_TICK_MAX = 100
NO_ANSWER = -1
ECS_OPTION = 8


@dataclass(slots=True)
class Caches:
    """c caches; pure state, `now_s` passed in."""

    prefix: NDArray[np.int64]
    """[c], index into the world's prefixes."""
    service: NDArray[np.int64]
    """[c], index into the services."""
    per_prefix: NDArray[np.int64]
    """[n], caches of each prefix, for each service."""
    part: NDArray[np.float64]
    """[services], of all demand."""
    due_s: NDArray[np.float64]
    """[c], when each asks next."""
    rng: np.random.Generator
    pop: NDArray[np.int64] = field(init=False)
    """[c], where each sends its users; NO_ANSWER before the first answer."""

    def __post_init__(self) -> None:
        self.pop = np.full(len(self.prefix), NO_ANSWER, np.int64)

    def take_due(self, now_s: float, limit: int) -> NDArray[np.int64]:
        """Caches that ask now; each is set to ask again unless its answer comes in time."""
        due = np.flatnonzero(self.due_s <= now_s)[:limit]
        self.due_s[due] = now_s + ANSWER_TIMEOUT_S + RETRY_S
        return due

    def spread(self, now_s: float, over_s: float) -> None:
        """Have all ask once within a time, none together: users arrive one by one."""
        self.due_s = now_s + self.rng.uniform(0, over_s, len(self.prefix))

    def answered(self, cache: int, pop: int, ttl_s: float, now_s: float) -> None:
        """Keep an answer for its TTL, and ask again when the next user comes after that."""
        self.pop[cache] = pop
        gap_s = self.rng.exponential(GAP_S)
        self.due_s[cache] = now_s + max(ttl_s, RETRY_S) + gap_s

    def link_bps(
        self, demand_bps: NDArray[np.float64], pops: int, link: NDArray[np.int64], links: int
    ) -> NDArray[np.float64]:
        """[pops, links], the load that the answers now held bring to each POP, by the link.

        `link` [n] is the one to each prefix.
        """
        held = self.pop != NO_ANSWER
        prefix = self.prefix[held]
        each = (demand_bps / self.per_prefix)[prefix] * self.part[self.service[held]]
        total = np.bincount(self.pop[held] * links + link[prefix], each, pops * links)
        return total.astype(np.float64).reshape(pops, links)


def parts_of(services: Sequence[Service]) -> NDArray[np.float64]:
    """[services], what of all demand is each one's: caches ask for all of them alike."""
    bps = [one.query_bits / (max(one.ttl_s, RETRY_S) + GAP_S) for one in services]
    return np.array(bps) / sum(bps)


def caches_of(
    world: World, hour_utc: float, part: NDArray[np.float64], rng: np.random.Generator
) -> Caches:
    """The caches that the demand of an hour calls for, none of which has asked yet.

    `part` [services] is each service's of all demand.
    """
    weight = world.prefix_demand_bps(hour_utc)
    wanted = CACHES_PER_PREFIX * len(weight)
    per_prefix = np.maximum(1, np.round(weight / weight.sum() * wanted)).astype(np.int64)
    prefix = np.tile(np.repeat(np.arange(len(weight)), per_prefix), len(part))
    service = np.repeat(np.arange(len(part)), per_prefix.sum())
    return Caches(prefix, service, per_prefix, part, np.zeros(len(prefix)), rng)


def query(name: str, prefix: Prefix) -> bytes:
    """A question for A with the prefix as its client subnet (RFC 7871 §6), id 0."""
    network = ipaddress.ip_network(str(prefix))
    octets = network.network_address.packed[: (network.prefixlen + 7) // 8]
    family = 2 if prefix.is_ipv6 else 1
    option = bytes([0, family, network.prefixlen, 0]) + octets
    record = DNSRecord(q=DNSQuestion(name, QTYPE.A))
    record.add_ar(EDNS0(udp_len=1232, opts=[EDNSOption(ECS_OPTION, option)]))
    record.header.id = 0
    record.header.rd = 0
    return bytes(record.pack())


def ecs_scope(record: DNSRecord) -> int:
    """The scope prefix-length that an answer carries, 0 without one (RFC 7871 §6)."""
    options = [option for extra in record.ar if extra.rtype == QTYPE.OPT for option in extra.rdata]
    scopes = [option.data[3] for option in options if option.code == ECS_OPTION]
    return int(scopes[0]) if scopes else 0


class Clients(asyncio.DatagramProtocol):
    """Asks for every cache that is due, from one UDP socket."""

    def __init__(
        self, caches: Caches, ttl_s: float, queries: list[list[bytes]], pop_of: dict[str, int]
    ) -> None:
        """`ttl_s` is the longest, `queries` are by service and prefix, `pop_of` by address."""
        self.caches = caches
        self._ttl_s = ttl_s
        self.asked = 0
        self.unanswered = 0
        self.steered = False
        """Whether an answer has depended on the subnet: users come when there is a table."""
        self._queries = queries
        self._pop_of = pop_of
        self._waiting: dict[int, tuple[int, float]] = {}
        self._next_id = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is there."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def tick(self, now_s: float) -> None:
        """Forget what was not answered, ask for what is due."""
        late = [i for i, (_, asked_s) in self._waiting.items() if now_s > asked_s]
        for query_id in late:
            del self._waiting[query_id]
        self.unanswered += len(late)
        limit = QUERIES_PER_TICK_MAX if self.steered else 1
        for cache in self.caches.take_due(now_s, limit).tolist():
            self._ask(cache, now_s + ANSWER_TIMEOUT_S)

    def _ask(self, cache: int, until_s: float) -> None:
        assert self._transport is not None
        self._next_id = (self._next_id + 1) % 65_536
        self._waiting[self._next_id] = (cache, until_s)
        packet = self._queries[self.caches.service[cache]][self.caches.prefix[cache]]
        self._transport.sendto(self._next_id.to_bytes(2, "big") + packet[2:])
        self.asked += 1

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        """Keep the answer; anything that is none is as good as no answer."""
        del addr
        try:
            record = DNSRecord.parse(data)
        except DNSError:
            return
        waiting = self._waiting.pop(record.header.id, None)
        if not self.steered:
            self._look_for_a_table(record)
            return
        addresses = [(str(rr.rdata), rr.ttl) for rr in record.rr if rr.rtype == QTYPE.A]
        if waiting is None or not addresses or addresses[0][0] not in self._pop_of:
            return
        address, ttl_s = addresses[0]
        now_s = asyncio.get_running_loop().time()
        self.caches.answered(waiting[0], self._pop_of[address], ttl_s, now_s)

    def _look_for_a_table(self, record: DNSRecord) -> None:
        if ecs_scope(record) > 0:
            self.steered = True
            self.caches.spread(asyncio.get_running_loop().time(), self._ttl_s)

    def error_received(self, exc: Exception) -> None:
        """The server is away: the caches keep what they hold and ask again."""
        del exc
