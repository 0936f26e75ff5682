"""Zones in memory: immutable, and the one search that answers need (RFC 1034 §4.3.2).

Owns the structure and the search; files are `resolver.zonefile`'s. Steered names are nodes like
any other: they exist, they have TTL and type, only their A and AAAA come from the route.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType

from dnslib.label import DNSLabel

from resolver.route import Steered
from resolver.wire import Key, Labels, WireBuffer, lower, octets

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, DNAME, DS = 1, 2, 5, 6, 12, 15, 16, 28, 33, 39, 43
SVCB, HTTPS, ANY = 64, 65, 255
RRSIG, NSEC, DNSKEY, CDS, CDNSKEY = 46, 47, 48, 59, 60
MADE_BY_SIGNING = frozenset({RRSIG, NSEC, DNSKEY, CDS, CDNSKEY})
"""Types that a signed zone has besides those of its file."""
DIGEST_BYTES = 16
"""Of `RRset.digest`: enough that no two RRsets of a zone share one."""


@dataclass(frozen=True, slots=True)
class Rdata:
    """The data of one record.

    Only the types of RFC 1035 have names here, which may be compressed (RFC 3597 §4); in all
    others names are octets like the rest.
    """

    parts: tuple[bytes | Labels, ...]
    target: Labels | None = None
    """The name that this record leads to: whose addresses go along, or where an alias points."""

    def pack(self, buffer: WireBuffer) -> None:
        """Write it."""
        for part in self.parts:
            if isinstance(part, bytes):
                buffer.append(part)
            else:
                buffer.encode_name(DNSLabel(part))

    @property
    def octets(self) -> bytes:
        """The data without compression."""
        return b"".join(p if isinstance(p, bytes) else octets(p) for p in self.parts)


@dataclass(frozen=True, slots=True)
class RRset:
    """Records of one owner and type."""

    owner: Labels
    rtype: int
    ttl_s: int
    rdatas: tuple[Rdata, ...]
    signatures: tuple[bytes, ...] = ()
    """Data of its RRSIG records, made ahead; they go along where the query has DO."""

    @property
    def digest(self) -> bytes:
        """What a signature is found by: owner, type, TTL and the data in any order."""
        sha = hashlib.sha256(octets(lower(self.owner)))
        sha.update(b"%d %d" % (self.rtype, self.ttl_s))
        for data in sorted(rdata.octets for rdata in self.rdatas):
            sha.update(b" %d " % len(data))
            sha.update(data)
        return sha.digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Signing:
    """What a signed zone has to prove what it says (RFC 4035 §3.1). There is no key in it."""

    signatures: Mapping[bytes, tuple[bytes, ...]]
    """Data of RRSIG records by `RRset.digest`, also of what POPs would answer."""
    order: tuple[Key, ...]
    """Reversed names of the NSEC chain: tuples then compare as RFC 4034 §6.1 wants."""
    chain: tuple[RRset, ...]
    """The NSEC of each."""

    def over(self, rrset: RRset) -> RRset:
        """The RRset with its signatures; the owner is the one in the zone, `*` included."""
        return replace(rrset, signatures=self.signatures.get(rrset.digest, ()))

    def proof(self, name: Key) -> RRset:
        """The NSEC of a name, or the one that says that there is no such name."""
        return self.chain[bisect_right(self.order, name[::-1]) - 1]


@dataclass(frozen=True, slots=True)
class Node:
    """One name of a zone; without RRsets and service it is an empty non-terminal."""

    owner: Labels
    rrsets: Mapping[int, RRset] = field(default_factory=lambda: MappingProxyType({}))
    service: Steered | None = None


class Outcome(Enum):
    """How the search ended."""

    FOUND = auto()
    """The node is the name, or the wildcard that stands for it."""
    DELEGATED = auto()
    """The node is a zone cut at or above the name."""
    RENAMED = auto()
    """The node has a DNAME and is above the name (RFC 6672)."""
    NXDOMAIN = auto()


@dataclass(frozen=True, slots=True)
class Match:
    """Result of a search."""

    outcome: Outcome
    node: Node


@dataclass(frozen=True, slots=True)
class Zone:
    """One zone. `nodes` has every name of it, empty non-terminals and glue included."""

    origin: Key
    nodes: Mapping[Key, Node]
    negative_ttl_s: int
    """min(TTL of the SOA, its MINIMUM) (RFC 2308 §5)."""
    signing: Signing | None = None

    @property
    def apex(self) -> Node:
        """The node with SOA and NS."""
        return self.nodes[self.origin]

    def negative_soa(self) -> RRset:
        """The SOA as negative answers carry it (RFC 2308 §3)."""
        soa = self.apex.rrsets[SOA]
        return replace(soa, ttl_s=self.negative_ttl_s)

    def find(self, name: Key, qtype: int) -> Match:
        """Go down from the apex to a name in this zone, as far as there are nodes."""
        depth = len(name) - len(self.origin)
        node = self.apex
        if depth and DNAME in node.rrsets:
            return Match(Outcome.RENAMED, node)
        for start in range(depth - 1, -1, -1):
            below = self.nodes.get(name[start:])
            if below is None:
                return self._wildcard(name[start + 1 :], node)
            node = below
            # At the cut itself the parent answers for DS (RFC 4035 §3.1.4.1) and for its NSEC.
            parental = qtype == DS or (qtype == NSEC and NSEC in node.rrsets)
            if NS in node.rrsets and (start or not parental):
                return Match(Outcome.DELEGATED, node)
            if start and DNAME in node.rrsets:
                return Match(Outcome.RENAMED, node)
        return Match(Outcome.FOUND, node)

    def _wildcard(self, encloser: Key, node: Node) -> Match:
        """RFC 4592 §3.3.1: the source of synthesis hangs below the closest encloser, only there."""
        source = self.nodes.get((b"*", *encloser))
        if source is None:
            return Match(Outcome.NXDOMAIN, node)
        return Match(Outcome.FOUND, source)

    def addresses(self, name: Key) -> list[RRset]:
        """A and AAAA of a name as glue or additional data; none of a steered name.

        What a steered name answers depends on the client, so it never rides along where it would
        be cached for others.
        """
        node = self.nodes.get(name)
        if node is None or node.service is not None:
            return []
        return [node.rrsets[t] for t in (A, AAAA) if t in node.rrsets]

    def contains(self, name: Key) -> bool:
        """Whether a name is at or below the origin."""
        return not self.origin or name[-len(self.origin) :] == self.origin


@dataclass(frozen=True, slots=True)
class Zones:
    """All zones of this server, by origin."""

    by_origin: Mapping[Key, Zone]

    def enclosing(self, name: Key, qtype: int) -> Zone | None:
        """The zone with the longest origin at or above a name."""
        found = list(self._above(name))
        # DS belongs to the parent, if we have it (RFC 4035 §3.1.4.1).
        if qtype == DS and len(found) > 1 and found[0].origin == name:
            return found[1]
        return found[0] if found else None

    def _above(self, name: Key) -> Iterator[Zone]:
        for start in range(len(name) + 1):
            zone = self.by_origin.get(name[start:])
            if zone is not None:
                yield zone

    def steered(self, name: Labels) -> Steered | None:
        """The service at exactly this name."""
        key = lower(name)
        zone = self.enclosing(key, A)
        node = zone.nodes.get(key) if zone else None
        return node.service if node else None

    def halted(self) -> "Zones":
        """The same, but steered names answer SERVFAIL."""
        return Zones(
            MappingProxyType({origin: _halted(zone) for origin, zone in self.by_origin.items()})
        )


def _halted(zone: Zone) -> Zone:
    services = {
        key: replace(node, service=replace(node.service, halted=True))
        for key, node in zone.nodes.items()
        if node.service is not None
    }
    return replace(zone, nodes=MappingProxyType({**zone.nodes, **services}))
