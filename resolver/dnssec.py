"""Signatures that were made ahead, laid over the zones: DNSSEC without a key on the node.

Owns the file of signatures and what a zone must have signed: every RRset that can be an answer is
known beforehand, because a steered name answers with the addresses of one POP (RFC 4034 signs them
as a set, so their rotation needs no signature of its own). `resolver.sign` makes the file with the
keys; a node only looks up. The NSEC chain (RFC 4034 §4) follows from the zone, so both work it out
and the file cannot contradict the zone: what has no signature here is an error, never an answer.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import dns.name
import dns.rdatatype
import msgspec
from dns.rdtypes.util import Bitmap

from popsteer.errors import ConfigError
from popsteer.names import dns_name
from resolver.resolve import hinted_services, with_addresses
from resolver.route import Fleet
from resolver.wire import Key, lower, octets
from resolver.zone import (
    AAAA,
    DNAME,
    DS,
    HTTPS,
    MADE_BY_SIGNING,
    NS,
    NSEC,
    RRSIG,
    SVCB,
    A,
    Node,
    Rdata,
    RRset,
    Signing,
    Zone,
    Zones,
)

FORMAT = 1
_NSEC3, _NSEC3PARAM = 50, 51
MARGIN_SHARE = 0.25
"""Of the lifetime: with less left it is time to sign again."""


class ZoneSignatures(msgspec.Struct, frozen=True, kw_only=True):
    """What was signed of one zone."""

    origin: str
    apex: dict[int, tuple[int, tuple[bytes, ...]]]
    """TTL and data of DNSKEY, CDS and CDNSKEY, by type."""
    signatures: dict[bytes, tuple[bytes, ...]]
    """Data of RRSIG records by `RRset.digest`."""


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """The head of the file: from when to when its signatures hold, epoch seconds."""

    format: int
    inception_s: int
    expires_s: int


class SignedFile(Term, frozen=True, kw_only=True):
    """The file that `popsteer sign` writes and `[dns] dnssec` names; MessagePack."""

    zones: tuple[ZoneSignatures, ...]


@dataclass(frozen=True, slots=True)
class Life:
    """How a file of signatures stands at a moment."""

    left_s: int
    """Until the first signature ends; negative when it has."""
    text: str
    """What a person must know; empty while all is well."""


def life(term: Term, now_s: int) -> Life:
    """Whether it is time to sign again."""
    left_s = term.expires_s - now_s
    again = "run `popsteer sign` and ship its file"
    if now_s < term.inception_s:
        return Life(left_s, "signatures are not valid yet; is this clock right?")
    if left_s <= 0:
        return Life(left_s, f"signatures have expired, validating resolvers refuse them; {again}")
    if left_s < MARGIN_SHARE * (term.expires_s - term.inception_s):
        return Life(left_s, f"signatures expire in {left_s / 3_600:.1f} hours; {again}")
    return Life(left_s, "")


def read_signed(path: Path) -> SignedFile:
    """The file.

    Raises:
        ConfigError: it is not there, or is no file of signatures.
    """
    try:
        file = msgspec.msgpack.decode(path.read_bytes(), type=SignedFile)
    except OSError as error:
        raise ConfigError(
            f"dns.dnssec = {path}: {error.strerror}; `popsteer sign` makes it"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"dns.dnssec = {path}: no whole file of signatures ({error}); `popsteer sign` makes it"
        ) from None
    if file.format != FORMAT or not file.zones:
        raise ConfigError(
            f"dns.dnssec = {path}: format {file.format} with {len(file.zones)} zones, "
            f"expected format {FORMAT}; sign again with this version"
        )
    return file


def lay_over(zones: Zones, fleet: Fleet, file: SignedFile, path: Path) -> Zones:
    """The zones with their signatures.

    Raises:
        ConfigError: something that may be answered has no signature.
    """
    of = {one.origin: one for one in file.zones}
    signed: dict[Key, Zone] = {}
    for origin, zone in zones.by_origin.items():
        name = origin_text(origin)
        if name not in of:
            raise ConfigError(
                f"dns.dnssec = {path}: the zone {name} is not signed; run `popsteer sign`"
            )
        prepared = prepare(zone, of[name].apex, fleet)
        lacking = next(
            (r for r in answers(prepared, zones, fleet) if r.digest not in of[name].signatures),
            None,
        )
        if lacking is not None:
            raise ConfigError(
                f"dns.dnssec = {path}: zone {name}: no signature for {_described(lacking)}; "
                "zones or POPs changed since; run `popsteer sign`"
            )
        signed[origin] = _with_signatures(prepared, of[name].signatures)
    return Zones(MappingProxyType(signed))


def prepare(zone: Zone, apex: Mapping[int, tuple[int, tuple[bytes, ...]]], fleet: Fleet) -> Zone:
    """The zone with the records that signing adds, not yet signed.

    Raises:
        ConfigError: the zone's file has such records already.
    """
    for node in zone.nodes.values():
        if found := set(node.rrsets) & (MADE_BY_SIGNING | {_NSEC3, _NSEC3PARAM}):
            raise ConfigError(
                f"zone {origin_text(zone.origin)}: {_described(node.rrsets[min(found)])} stands in "
                "its file; remove it, signing makes these records"
            )
    nodes = dict(zone.nodes)
    added = {
        rtype: RRset(zone.apex.owner, rtype, ttl_s, tuple(Rdata((data,)) for data in rdatas))
        for rtype, (ttl_s, rdatas) in apex.items()
    }
    nodes[zone.origin] = _with_rrsets(zone.apex, added)
    chain = _chain(replace(zone, nodes=nodes), fleet)
    for key, nsec in chain.items():
        nodes[key] = _with_rrsets(nodes[key], {NSEC: nsec})
    order = tuple(key[::-1] for key in chain)
    signing = Signing(MappingProxyType({}), order, tuple(chain.values()))
    return replace(zone, nodes=MappingProxyType(nodes), signing=signing)


def answers(zone: Zone, zones: Zones, fleet: Fleet) -> Iterator[RRset]:
    """Every RRset of a prepared zone that an answer may hold and that needs a signature.

    The negative SOA is the SOA with a lower TTL, which the same signature covers.
    """
    for node in _authoritative(zone):
        cut = _is_cut(zone, node)
        for rtype, rrset in node.rrsets.items():
            if cut and rtype not in {DS, NSEC}:
                continue
            yield rrset
            if rtype in {HTTPS, SVCB}:
                yield from _hinted(rrset, node, zones, fleet)
        if node.service is not None:
            for rtype in (A, AAAA):
                sets = [fleet.addresses(pop, rtype == AAAA) for pop in node.service.pops]
                # The fallback goes to secondaries, which may be asked for it.
                for addresses in filter(None, [*sets, fleet.fallback(node.service, rtype == AAAA)]):
                    rdatas = tuple(Rdata((address,)) for address in addresses)
                    yield RRset(node.owner, rtype, node.service.ttl_s, rdatas)


def _hinted(rrset: RRset, node: Node, zones: Zones, fleet: Fleet) -> Iterator[RRset]:
    """With the hints of each POP, and without; see `resolver.resolve`."""
    services = hinted_services(rrset, node, zones)
    if not services:
        return
    yield with_addresses(rrset, node, zones, dict.fromkeys(services, ((), ())))
    for pop in dict.fromkeys(pop for service in services for pop in service.pops):
        both = tuple(sorted(fleet.addresses(pop, False))), tuple(sorted(fleet.addresses(pop, True)))
        yield with_addresses(rrset, node, zones, dict.fromkeys(services, both))


def origin_text(origin: Key) -> str:
    """A zone's name as people write it."""
    return dns_name(dns.name.Name([*origin, b""]).to_text())


def _with_signatures(zone: Zone, signatures: Mapping[bytes, tuple[bytes, ...]]) -> Zone:
    assert zone.signing is not None
    signing = replace(zone.signing, signatures=MappingProxyType(dict(signatures)))
    nodes = dict(zone.nodes)
    for node in _authoritative(zone):
        shown = {DS, NSEC} if _is_cut(zone, node) else set(node.rrsets)
        signed = {t: signing.over(r) for t, r in node.rrsets.items() if t in shown}
        nodes[lower(node.owner)] = _with_rrsets(node, signed)
    chain = tuple(nodes[key[::-1]].rrsets[NSEC] for key in signing.order)
    return replace(zone, nodes=MappingProxyType(nodes), signing=replace(signing, chain=chain))


def _with_rrsets(node: Node, rrsets: Mapping[int, RRset]) -> Node:
    return replace(node, rrsets=MappingProxyType({**node.rrsets, **rrsets}))


def _is_cut(zone: Zone, node: Node) -> bool:
    return NS in node.rrsets and lower(node.owner) != zone.origin


def _authoritative(zone: Zone) -> Iterator[Node]:
    """Nodes that are ours: cuts count, what lies below them or below a DNAME does not."""
    for key, node in zone.nodes.items():
        depth = len(key) - len(zone.origin)
        above = (zone.nodes[key[start:]] for start in range(1, depth + 1))
        if not any(DNAME in one.rrsets or _is_cut(zone, one) for one in above):
            yield node


def _chain(zone: Zone, fleet: Fleet) -> dict[Key, RRset]:
    """The NSEC records in canonical order (RFC 4034 §4, §6.1); empty non-terminals have none."""
    own = {lower(n.owner): n for n in _authoritative(zone) if n.rrsets or n.service is not None}
    keys = sorted(own, key=lambda key: key[::-1])
    chain = {}
    for key, after in zip(keys, [*keys[1:], keys[0]], strict=True):
        bitmap = io.BytesIO()
        Bitmap.from_rdtypes(
            [dns.rdatatype.RdataType.make(t) for t in _types(zone, own[key], fleet)]
        ).to_wire(bitmap)
        data = Rdata((octets(after) + bitmap.getvalue(),))
        # RFC 9077 §3: the TTL of a negative answer.
        chain[key] = RRset(key, NSEC, zone.negative_ttl_s, (data,))
    return chain


def _types(zone: Zone, node: Node, fleet: Fleet) -> list[int]:
    """What the node has, as RFC 4035 §2.3 counts it: of a cut only the parent's part."""
    types = set(node.rrsets) & ({NS, DS} if _is_cut(zone, node) else set(node.rrsets))
    if node.service is not None:
        types |= {
            rtype
            for rtype in (A, AAAA)
            if any(fleet.addresses(pop, rtype == AAAA) for pop in node.service.pops)
        }
    return sorted(types | {RRSIG, NSEC})


def _described(rrset: RRset) -> str:
    kind = dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rrset.rtype))
    owner = dns_name(dns.name.Name([*rrset.owner, b""]).to_text())
    data = rrset.rdatas[0].octets.hex() if rrset.rdatas else ""
    return f"{owner} {kind} (TTL {rrset.ttl_s}, data {data[:64]})"
