"""From a snapshot of the slow path to the arrays of the compiled one.

Three parts, because they change at different times: the book with the zones, the routes with the
table and the POPs' state, the settings with the configuration and the day.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import dns.name
import numpy as np
from numpy.typing import NDArray

from popsteer.names import demand_subject
from popsteer.table import CANDIDATES_MAX, Further, Table, TableMeta
from resolver.answer import IN
from resolver.fast.batch import EDNS_COOKIE, EDNS_DO, EDNS_ECS, EDNS_NSID, EDNS_PRESENT
from resolver.fast.client import cookie_keys
from resolver.fast.draft import QUESTION_POINTER
from resolver.fast.fill import build
from resolver.fast.index import Index
from resolver.fast.limit import Limits
from resolver.fast.reply import Addresses
from resolver.fast.serve import Routes, Settings
from resolver.fast.steer import numbering, standing
from resolver.route import Fleet, Steered
from resolver.snapshot import Options, Snapshot
from resolver.zone import AAAA, RRSIG, A, Rdata, RRset


@dataclass(frozen=True, slots=True)
class Services:
    """The steered names by number, and what the routes need of them."""

    all: tuple[Steered, ...]
    bits: Mapping[str, float]
    """Traffic that one answer brings."""
    signatures: Mapping[tuple[int, str, int], bytes]
    """The RRSIG over a POP's addresses as a record, by service, POP and type."""

    @property
    def number(self) -> dict[str, int]:
        """By name."""
        return {service.name: i for i, service in enumerate(self.all)}


@dataclass(frozen=True, slots=True)
class Ranked:
    """What is built once from a table and kept while the POPs' state changes."""

    pops: tuple[str, ...]
    default: tuple[str, ...]
    index: Index
    further: tuple[Further, ...] = ()
    """Sets of answers beside the first."""

    @property
    def defaults(self) -> list[tuple[str, ...]]:
        """The default order of each set."""
        return [self.default, *(one.default for one in self.further)]

    def set_of(self, service: str) -> int:
        """The number of the set of answers for a service."""
        return TableMeta(generation=0, further=self.further).set_of(service)


def services_of(snapshot: Snapshot, bits: Mapping[str, float]) -> Services:
    """Every service that a zone holds."""
    found = {
        node.service.name: node.service
        for zone in snapshot.zones.by_origin.values()
        for node in zone.nodes.values()
        if node.service is not None
    }
    services = tuple(found.values())
    return Services(services, bits, _signatures(services, snapshot))


def _signatures(
    services: Sequence[Steered], snapshot: Snapshot
) -> dict[tuple[int, str, int], bytes]:
    """The records that go behind the addresses in an answer to a query with DO."""
    found = {}
    for number, service in enumerate(services):
        key = tuple(dns.name.from_text(service.name).labels[:-1])
        zone = snapshot.zones.enclosing(key, A)
        if zone is None or zone.signing is None:
            continue
        for pop, rtype in product(service.pops, (A, AAAA)):
            rdatas = tuple(Rdata((a,)) for a in snapshot.fleet.addresses(pop, rtype == AAAA))
            signed = zone.signing.over(RRset(key, rtype, service.ttl_s, rdatas))
            if signed.signatures:
                (data,) = signed.signatures  # one key signs data at any moment
                found[number, pop, rtype] = _record(RRSIG, service.ttl_s, data)
    return found


def settings_of(options: Options, limits: Limits, now_s: int) -> Settings:
    """Options, buckets, and the cookie secrets around a moment."""
    known = EDNS_PRESENT | EDNS_DO
    known |= EDNS_ECS if options.ecs else 0
    known |= EDNS_COOKIE if options.secret else 0
    known |= EDNS_NSID if options.nsid else 0
    return Settings(
        np.array([known], np.uint64),
        np.frombuffer(options.nsid or b"\0", np.uint8).copy(),
        cookie_keys(options.secret, now_s),
        limits,
    )


def ranked_of(table: Table | None, index: Index | None) -> Ranked:
    """A table's POPs and index; without a table those of an empty one."""
    if table is None or index is None:
        return Ranked((), (), build(_no_table()))
    return Ranked(table.pops, table.meta.default, index, table.meta.further)


def _no_table() -> Table:
    wide = np.zeros((0, CANDIDATES_MAX), np.uint16)
    net, narrow = np.zeros(0, np.uint64), wide.astype(np.uint8)
    return Table(TableMeta(generation=0), (), net, narrow[:, 0], wide, narrow, wide, narrow[:, 0])


def routes_of(snapshot: Snapshot, ranked: Ranked, services: Services) -> tuple[Routes, list[str]]:
    """The routes, and the subjects of demand that their numbers mean: first of all the POPs."""
    numbers = [ranked.set_of(service.name) for service in services.all]
    asked = list(zip((service.pops for service in services.all), numbers, strict=True))
    groups = list(dict.fromkeys(asked))
    ttls = list(dict.fromkeys(service.ttl_s for service in services.all))
    named = tuple(pop for default in ranked.defaults for pop in default)
    pops = numbering(ranked.pops, named, list(snapshot.fleet.ipv4))
    defaults = [ranked.defaults[number] for _, number in groups]
    routes = Routes(
        ranked.index,
        standing(pops, [pop for pop, _ in groups], defaults, snapshot.fleet, snapshot.outlook),
        _addresses(pops, ttls, snapshot.fleet, services),
        np.array([groups.index(one) for one in asked] or [0], np.uint32),
        np.array(numbers or [0], np.uint32),
        np.array([number * len(pops) for number in numbers] or [0], np.uint32),
        np.array([ttls.index(s.ttl_s) for s in services.all] or [0], np.uint32),
        np.array([round(services.bits.get(s.name, 0)) for s in services.all] or [0], np.uint64),
    )
    sets = range(1 + len(ranked.further))
    return routes, [demand_subject(pop, number) for number in sets for pop in pops]


def _addresses(
    pops: Sequence[str], ttls: Sequence[int], fleet: Fleet, services: Services
) -> Addresses:
    octets = bytearray()
    start = np.zeros((2 * max(len(ttls), 1), max(len(pops), 1)), np.uint32)
    count = np.zeros((2, start.shape[1]), np.uint32)
    for number, pop in enumerate(pops):
        for family, rtype in enumerate((A, AAAA)):
            addresses = fleet.addresses(pop, bool(family))
            count[family, number] = len(addresses)
            for line, ttl_s in enumerate(ttls):
                start[2 * line + family, number] = len(octets)
                octets += b"".join(_record(rtype, ttl_s, address) for address in addresses * 2)
    sizes = np.array([len(_record(A, 0, bytes(4))), len(_record(AAAA, 0, bytes(16)))], np.uint64)
    return Addresses(_octets(octets), start, count, sizes, *_signature_arrays(pops, services))


def _signature_arrays(
    pops: Sequence[str], services: Services
) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.uint64]]:
    octets = bytearray()
    number = {pop: i for i, pop in enumerate(pops)}
    start = np.zeros((2 * max(len(services.all), 1), max(len(pops), 1)), np.uint32)
    size = np.zeros(len(start), np.uint64)
    for (service, pop, rtype), record in services.signatures.items():
        line = 2 * service + (rtype == AAAA)
        start[line, number[pop]], size[line] = len(octets), len(record)
        octets += record
    return _octets(octets), start, size


def _octets(written: bytearray) -> NDArray[np.uint8]:
    return np.frombuffer(bytes(written) + bytes(8), np.uint8).copy()


def _record(rtype: int, ttl_s: int, data: bytes) -> bytes:
    """A record whose owner is the question's name."""
    return struct.pack("!HHHIH", QUESTION_POINTER, rtype, IN, ttl_s, len(data)) + data
