"""From a question to the sections of its answer: the algorithm of RFC 1034 §4.3.2. Pure.

Owns the order of the steps: zone, delegation, DNAME, wildcard, CNAME chain, steered name, data,
negative answer, additional data. It never sees a message or an EDNS option; sizes and truncation
are `resolver.answer`'s.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from resolver.hints import has_hints, with_hints
from resolver.route import Decision, Steered
from resolver.wire import NAME_BYTES_MAX, Key, Labels, Rcode, lower
from resolver.zone import (
    AAAA,
    ANY,
    CNAME,
    DNAME,
    DS,
    HTTPS,
    MADE_BY_SIGNING,
    MX,
    NS,
    RRSIG,
    SOA,
    SRV,
    SVCB,
    A,
    Match,
    Node,
    Outcome,
    Rdata,
    RRset,
    Signing,
    Zone,
    Zones,
)

CHAIN_MAX = 12
"""Steps of one answer, so 11 aliases; more, or a loop, is SERVFAIL, as BIND 9.18 has it."""

BESIDE_CNAME = frozenset({CNAME, ANY, 24, 25, 30, 46, 47})
"""Types that may stand beside a CNAME, or mean the alias itself: never followed (RFC 4035 §2.5)."""

Hints = tuple[tuple[bytes, ...], tuple[bytes, ...]]
"""IPv4 and IPv6 addresses."""

Steer = Callable[[Steered, bool], Decision]
"""The route for the client at hand: service, whether IPv6 is wanted."""


@dataclass(slots=True)
class Sections:
    """An answer being made."""

    rcode: Rcode = Rcode.NOERROR
    authoritative: bool = False
    answer: list[RRset] = field(default_factory=list)
    authority: list[RRset] = field(default_factory=list)
    glue: list[RRset] = field(default_factory=list)
    """Additional data without which a referral is useless (RFC 9471 §2.1)."""
    additional: list[RRset] = field(default_factory=list)
    """Additional data that is merely kind."""
    service: Steered | None = None
    decision: Decision | None = None
    """Of the route, when a steered name was answered."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """What stays the same along one chain."""

    zones: Zones
    steer: Steer
    one_rrset_for_any: bool
    """RFC 8482 §4.1."""
    dnssec: bool = False
    """DO is set: what a signed zone says is proven (RFC 4035 §3.1)."""


def resolve(name: Labels, qtype: int, resolver: Resolver) -> Sections:
    """The sections for a question of class IN."""
    made = Sections()
    seen: set[Labels] = set()
    first = resolver.zones.enclosing(lower(name), qtype)
    if first is None:
        made.rcode = Rcode.REFUSED
        return made
    for _ in range(CHAIN_MAX):
        key = lower(name)
        zone = resolver.zones.enclosing(key, qtype)
        # A chain ends at the border of its zone, even if we serve what lies behind: a resolver
        # believes no zone about another one (RFC 2181 §5.4.1), and BIND does the same.
        if zone is not first:
            break
        match = zone.find(key, qtype)
        if match.outcome is Outcome.DELEGATED:
            _refer(made, zone, match.node)
            if resolver.dnssec and zone.signing:
                _prove(made, zone.signing, match, key, empty=False)
            break
        made.authoritative = True
        if key in seen:
            made.rcode = Rcode.SERVFAIL
            break
        seen.add(key)
        before = len(made.answer)
        alias = _alias(made, zone, match, name, qtype)
        if alias is None and made.rcode is Rcode.NOERROR and match.outcome is Outcome.FOUND:
            _data(made, zone, match.node, name, qtype, resolver)
        if resolver.dnssec and zone.signing:
            _prove(made, zone.signing, match, key, empty=len(made.answer) == before)
        if alias is None:
            break
        name = alias
    else:
        made.rcode = Rcode.SERVFAIL
    if qtype != ANY:
        _additional(made, first, resolver.zones)
    return made


def _alias(made: Sections, zone: Zone, match: Match, name: Labels, qtype: int) -> Labels | None:
    """Answer what renames the name and give its new name; None where nothing does."""
    if match.outcome is Outcome.NXDOMAIN:
        made.rcode = Rcode.NXDOMAIN
        # Who asks for the SOA of no name looks for zone cuts, and one may come: not to be cached.
        soa = zone.negative_soa()
        made.authority.append(replace(soa, ttl_s=0) if qtype == SOA else soa)
        return None
    rrsets = match.node.rrsets
    if match.outcome is Outcome.RENAMED:
        return _rename(made, match.node, name, qtype)
    if CNAME not in rrsets or qtype in BESIDE_CNAME or qtype in rrsets:
        return None
    made.answer.append(replace(rrsets[CNAME], owner=name))
    return rrsets[CNAME].rdatas[0].target


def _rename(made: Sections, node: Node, name: Labels, qtype: int) -> Labels | None:
    """RFC 6672 §3.2: the DNAME and a CNAME made from it with the same TTL."""
    dname = node.rrsets[DNAME]
    if dname not in made.answer:  # a chain may come by twice; no RRset does (RFC 2181 §5)
        made.answer.append(dname)
    target = dname.rdatas[0].target
    assert target is not None
    renamed = name[: len(name) - len(node.owner)] + target
    if sum(len(label) + 1 for label in renamed) + 1 > NAME_BYTES_MAX:
        made.rcode = Rcode.YXDOMAIN
        return None
    made.answer.append(RRset(name, CNAME, dname.ttl_s, (Rdata((renamed,), renamed),)))
    # Who asks for the alias itself has it now.
    return None if qtype in {CNAME, ANY} else renamed


def _refer(made: Sections, zone: Zone, cut: Node) -> None:
    """The way down: the cut's NS with the addresses that cannot be found without it."""
    made.authority.append(cut.rrsets[NS])
    for target in _targets(cut.rrsets[NS]):
        key = lower(target)
        if zone.contains(key):
            # Addresses below this very cut are needed; others can be asked for (RFC 9471 §3).
            below = key[-len(cut.owner) :] == lower(cut.owner)
            (made.glue if below else made.additional).extend(zone.addresses(key))


def _prove(made: Sections, signing: Signing, match: Match, key: Key, *, empty: bool) -> None:
    """What proves the step just done, besides signatures (RFC 4035 §3.1.3, §3.1.4)."""
    if made.rcode is Rcode.SERVFAIL:
        return
    owner = lower(match.node.owner)
    proofs: list[RRset] = []
    if match.outcome is Outcome.DELEGATED:
        # The child's keys, or that it has none.
        ds = match.node.rrsets.get(DS)
        proofs = [ds or signing.proof(owner)]
    elif match.outcome is Outcome.NXDOMAIN:
        proofs = [signing.proof(key), signing.proof((b"*", *owner))]
    elif match.outcome is Outcome.FOUND:
        # A wildcard stood in: that the name itself is not there.
        proofs = [signing.proof(key)] if owner != key or empty else []
        proofs += [signing.proof(owner)] if owner != key and empty else []
    for one in proofs:
        if one not in made.authority:  # each step of a chain has proofs of its own
            made.authority.append(one)


def _data(
    made: Sections, zone: Zone, node: Node, name: Labels, qtype: int, resolver: Resolver
) -> None:
    """What the node has of the type; NODATA with the SOA where it has none (RFC 2308 §2.2)."""
    before = len(made.answer)
    hinted = qtype in {HTTPS, SVCB} and qtype in node.rrsets
    if node.service is not None and node.service.halted and (hinted or qtype in {A, AAAA, ANY}):
        made.rcode = Rcode.SERVFAIL
        return
    if node.service is not None and qtype in {A, AAAA, ANY}:
        _steered(made, zone, node, name, qtype, resolver)
    if qtype == ANY:
        found = [r for r in node.rrsets.values() if _is_shown(r, zone, resolver)]
        if resolver.one_rrset_for_any:
            found = found[: 1 + before - len(made.answer)]
    elif qtype == RRSIG and zone.signing is not None:
        found = _signatures(node)[: 1 if resolver.one_rrset_for_any else None]
    else:
        found = [node.rrsets[qtype]] if qtype in node.rrsets else []
    for rrset in found:
        own = _hinted(made, zone, rrset, node, resolver) if qtype in {HTTPS, SVCB} else rrset
        made.answer.append(replace(own, owner=name))
    if len(made.answer) == before and made.rcode is Rcode.NOERROR:
        made.authority.append(zone.negative_soa())


def _is_shown(rrset: RRset, zone: Zone, resolver: Resolver) -> bool:
    """To ANY: records that signing made are for those who can read them."""
    return resolver.dnssec or zone.signing is None or rrset.rtype not in MADE_BY_SIGNING


def _signatures(node: Node) -> list[RRset]:
    """The RRSIGs of a node as records; those of a steered RRset come with it alone."""
    return [
        RRset(rrset.owner, RRSIG, rrset.ttl_s, tuple(Rdata((s,)) for s in rrset.signatures))
        for rrset in node.rrsets.values()
        if rrset.signatures
    ]


def _steered(
    made: Sections, zone: Zone, node: Node, name: Labels, qtype: int, resolver: Resolver
) -> None:
    service = node.service
    assert service is not None
    for rtype in (A, AAAA) if qtype == ANY else (qtype,):
        decision = resolver.steer(service, rtype == AAAA)
        if decision.pop is not None:
            rdatas = tuple(Rdata((address,)) for address in decision.addresses)
            rrset = RRset(node.owner, rtype, service.ttl_s, rdatas)
            if resolver.dnssec and zone.signing:
                rrset = zone.signing.over(rrset)
            made.answer.append(replace(rrset, owner=name))
            made.service, made.decision = service, decision
            return


def _hinted(made: Sections, zone: Zone, rrset: RRset, node: Node, resolver: Resolver) -> RRset:
    """The RRset with address hints of the POP to which its targets are steered."""
    chosen = {
        service: {ipv6: resolver.steer(service, ipv6) for ipv6 in (False, True)}
        for service in hinted_services(rrset, node, resolver.zones)
    }
    if not chosen:
        return rrset
    decisions = [one for both in chosen.values() for one in both.values()]
    made.decision = max(decisions, key=lambda one: one.scope)
    if not (resolver.dnssec and zone.signing):
        return with_addresses(
            rrset,
            node,
            resolver.zones,
            {of: (both[False].addresses, both[True].addresses) for of, both in chosen.items()},
        )
    # Signed ahead for each POP, with its addresses in order; where services or families go to
    # different POPs the hints are left out, which RFC 9460 §7.3 allows: A and AAAA tell.
    alike = len({one.pop for one in decisions if one.pop is not None}) == 1
    sorted_addresses = {
        of: (tuple(sorted(both[False].addresses)), tuple(sorted(both[True].addresses)))
        for of, both in chosen.items()
    }
    hints = sorted_addresses if alike else dict.fromkeys(chosen, ((), ()))
    return zone.signing.over(with_addresses(rrset, node, resolver.zones, hints))


def hinted_services(rrset: RRset, node: Node, zones: Zones) -> list[Steered]:
    """The services that hints of an HTTPS or SVCB RRset follow."""
    found = (_hinted_service(rdata, node, zones) for rdata in rrset.rdatas)
    return list(dict.fromkeys(service for service in found if service is not None))


def _hinted_service(rdata: Rdata, node: Node, zones: Zones) -> Steered | None:
    # TargetName "." is the owner itself (RFC 9460 §2.5.2).
    service = zones.steered(rdata.target) if rdata.target else node.service
    return service if service is not None and has_hints(rdata.octets) else None


def with_addresses(
    rrset: RRset, node: Node, zones: Zones, addresses: Mapping[Steered, Hints]
) -> RRset:
    """The RRset with these hints, and a TTL no longer than the services'."""
    rdatas, ttl_s = [], rrset.ttl_s
    for rdata in rrset.rdatas:
        service = _hinted_service(rdata, node, zones)
        if service is not None:
            ttl_s = min(ttl_s, service.ttl_s)
            rdata = replace(rdata, parts=(with_hints(rdata.octets, *addresses[service]),))  # noqa: PLW2901
        rdatas.append(rdata)
    return replace(rrset, ttl_s=ttl_s, rdatas=tuple(rdatas))


def _targets(rrset: RRset) -> list[Labels]:
    return [rdata.target for rdata in rrset.rdatas if rdata.target is not None]


def _additional(made: Sections, zone: Zone, zones: Zones) -> None:
    """Addresses of what the answer names, as far as this zone has them."""
    present = {(lower(rrset.owner), rrset.rtype) for rrset in made.answer}
    for rrset in made.answer:
        if rrset.rtype not in {NS, MX, SRV, SVCB, HTTPS}:
            continue
        for target in _targets(rrset):
            # TargetName "." is the owner itself (RFC 9460 §2.5.2).
            key = lower(target or rrset.owner)
            if zones.enclosing(key, A) is not zone:
                continue
            if zone.find(key, A).outcome is not Outcome.FOUND:
                continue
            for found in zone.addresses(key):
                if (key, found.rtype) not in present:
                    present.add((key, found.rtype))
                    made.additional.append(found)
