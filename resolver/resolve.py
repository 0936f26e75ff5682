"""From a question to the sections of its answer: the algorithm of RFC 1034 §4.3.2. Pure.

Owns the order of the steps: zone, delegation, DNAME, wildcard, CNAME chain, steered name, data,
negative answer, additional data. It never sees a message or an EDNS option; sizes and truncation
are `resolver.answer`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from resolver.hints import has_hints, with_hints
from resolver.route import Decision, Steered
from resolver.wire import NAME_BYTES_MAX, Labels, Rcode, lower
from resolver.zone import (
    AAAA,
    ANY,
    CNAME,
    DNAME,
    HTTPS,
    MX,
    NS,
    SOA,
    SRV,
    SVCB,
    A,
    Match,
    Node,
    Outcome,
    Rdata,
    RRset,
    Zone,
    Zones,
)

CHAIN_MAX = 16
"""Aliases that one answer follows; more, or a loop, is SERVFAIL, as BIND has it."""

BESIDE_CNAME = frozenset({CNAME, ANY, 24, 25, 30, 46, 47})
"""Types that may stand beside a CNAME, or mean the alias itself: never followed (RFC 4035 §2.5)."""

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


def resolve(name: Labels, qtype: int, resolver: Resolver) -> Sections:
    """The sections for a question of class IN."""
    made = Sections()
    seen: set[Labels] = set()
    for _ in range(CHAIN_MAX):
        key = lower(name)
        zone = resolver.zones.enclosing(key, qtype)
        if zone is None:
            if not made.answer:
                made.rcode = Rcode.REFUSED
            break
        match = zone.find(key, qtype)
        if match.outcome is Outcome.DELEGATED:
            _refer(made, zone, match.node)
            break
        made.authoritative = True
        if key in seen:
            made.rcode = Rcode.SERVFAIL
            break
        seen.add(key)
        alias = _alias(made, zone, match, name, qtype)
        if alias is None:
            if made.rcode is Rcode.NOERROR and match.outcome is Outcome.FOUND:
                _data(made, zone, match.node, name, qtype, resolver)
            break
        name = alias
    else:
        made.rcode = Rcode.SERVFAIL
    if qtype != ANY:
        _additional(made, resolver.zones)
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
        _steered(made, node.service, name, qtype, resolver.steer)
    if qtype == ANY:
        found = list(node.rrsets.values())
        if resolver.one_rrset_for_any:
            found = found[: 1 + before - len(made.answer)]
    else:
        found = [node.rrsets[qtype]] if qtype in node.rrsets else []
    for rrset in found:
        own = replace(rrset, owner=name)
        if qtype in {HTTPS, SVCB}:
            own = _hinted(made, own, node, resolver)
        made.answer.append(own)
    if len(made.answer) == before and made.rcode is Rcode.NOERROR:
        made.authority.append(zone.negative_soa())


def _steered(made: Sections, service: Steered, name: Labels, qtype: int, steer: Steer) -> None:
    for rtype in (A, AAAA) if qtype == ANY else (qtype,):
        decision = steer(service, rtype == AAAA)
        if decision.pop is not None:
            rdatas = tuple(Rdata((address,)) for address in decision.addresses)
            made.answer.append(RRset(name, rtype, service.ttl_s, rdatas))
            made.service, made.decision = service, decision
            return


def _hinted(made: Sections, rrset: RRset, node: Node, resolver: Resolver) -> RRset:
    """The RRset with address hints of the POP to which its target is steered."""
    rdatas = []
    for rdata in rrset.rdatas:
        wire = rdata.parts[0]
        assert isinstance(wire, bytes)
        # TargetName "." is the owner itself (RFC 9460 §2.5.2).
        service = resolver.zones.steered(rdata.target) if rdata.target else node.service
        if service is None or not has_hints(wire):
            rdatas.append(rdata)
            continue
        chosen = {ipv6: resolver.steer(service, ipv6) for ipv6 in (False, True)}
        hinted = with_hints(wire, chosen[False].addresses, chosen[True].addresses)
        rdatas.append(replace(rdata, parts=(hinted,)))
        made.decision = max(chosen.values(), key=lambda one: one.scope)
        rrset = replace(rrset, ttl_s=min(rrset.ttl_s, service.ttl_s))
    return replace(rrset, rdatas=tuple(rdatas))


def _targets(rrset: RRset) -> list[Labels]:
    return [rdata.target for rdata in rrset.rdatas if rdata.target is not None]


def _additional(made: Sections, zones: Zones) -> None:
    """Addresses of what the answer names, as far as we are the authority for them."""
    present = {(lower(rrset.owner), rrset.rtype) for rrset in made.answer}
    for rrset in made.answer:
        if rrset.rtype not in {NS, MX, SRV, SVCB, HTTPS}:
            continue
        for target in _targets(rrset):
            key = lower(target)
            zone = zones.enclosing(key, A)
            if zone is None or zone.find(key, A).outcome is not Outcome.FOUND:
                continue
            for found in zone.addresses(key):
                if (key, found.rtype) not in present:
                    present.add((key, found.rtype))
                    made.additional.append(found)
