"""A signed zone: every answer validates, and every no is proven (RFC 4035 §3.1, §5)."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns.edns import ECSOption
from dns.rdtypes.ANY.NSEC import NSEC

from popsteer.config import Config
from popsteer.config_file import parse
from resolver.answer import Answer
from resolver.dnssec import lay_over
from resolver.route import Outlook, fleet_of
from resolver.sign import lifetime, sign_zones
from resolver.snapshot import Options, Snapshot
from resolver.zonefile import load_zones, unsigned_zones
from resolver.zonekeys import KeyFolder, ensure

Ask = Callable[..., Answer | None]
NOW_S = 1_700_000_000
ZONE = dns.name.from_text("cdn.example.")
FRONTS = [
    *("", "ns1", "mail", "txt", "alias", "alias2", "ext", "dangling", "towww", "www", "wild"),
    *("a.wild", "b.a.wild", "exact.wild", "x.exact.wild", "under.exact2.wild", "q.wildcname"),
    *("wildcname", "c.ent", "b.c.ent", "z.b.c.ent", "ent", "sub", "host.sub", "ns.sub", "tocut"),
    *("old", "x.old", "a.b.old", "new", "x.new", "_tcp", "_sip._tcp", "unknown", "big", "many7"),
    *("mixed", "onlya", "zzz", "aaa", "*.wild", "loop1", "nothing.at.all", "m"),
]
TYPES = ["A", "AAAA", "TXT", "MX", "NS", "SOA", "CNAME", "DS", "HTTPS", "SRV", "DNSKEY", "NSEC"]


def config_of(settings: dict[str, Any], data: Path, **dns_keys: str) -> Config:
    raw = {**settings, "dns": {**settings["dns"], **dns_keys}}
    return parse(raw, data / "popsteer.toml")


def sign(config: Config, folder: Path, algorithm: str, *, split: bool) -> Snapshot:
    """The snapshot with signatures of fresh keys."""
    zones, fleet = unsigned_zones(config), fleet_of(config)
    keys = {"cdn.example.": ensure(KeyFolder(folder), "cdn.example.", algorithm, split, NOW_S)}
    file = sign_zones(zones, fleet, keys, lifetime(NOW_S, 14))
    return Snapshot(lay_over(zones, fleet, file, folder), fleet, Options(b"node-1", None))


@pytest.fixture(scope="module", params=["ed25519", "ecdsap256"])
def signed(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    settings: dict[str, Any],
    data: Path,
) -> Snapshot:
    """Each algorithm, one with a csk and one with ksk and zsk."""
    folder = tmp_path_factory.mktemp("keys")
    split = request.param == "ecdsap256"
    return sign(config_of(settings, data), folder, request.param, split=split)


def told(made: Answer | None) -> dns.message.Message:
    assert made is not None
    return dns.message.from_wire(made.wire)


def with_do(name: dns.name.Name | str, qtype: str, **more: Any) -> bytes:
    return dns.message.make_query(name, qtype, want_dnssec=True, **more).to_wire()


@pytest.fixture
def keys(signed: Snapshot, ask: Ask) -> dict[dns.name.Name, Any]:
    """What a validator believes: the DNSKEY set, which a key of it signs."""
    reply = told(ask(with_do(ZONE, "DNSKEY"), on=signed, tcp=True))
    (rrset,) = (r for r in reply.answer if r.rdtype == dns.rdatatype.DNSKEY)
    (signature,) = (r for r in reply.answer if r.rdtype == dns.rdatatype.RRSIG)
    dns.dnssec.validate(rrset, signature, {ZONE: rrset}, now=NOW_S)
    return {ZONE: rrset}


def check_signed(reply: dns.message.Message, keys: dict[dns.name.Name, Any]) -> None:
    """All that must be signed is, and rightly."""
    for section in (reply.answer, reply.authority):
        renamed = any(r.rdtype == dns.rdatatype.DNAME for r in section)
        for rrset in section:
            if rrset.rdtype == dns.rdatatype.RRSIG or not rrset.name.is_subdomain(ZONE):
                continue
            if rrset.rdtype == dns.rdatatype.NS and rrset.name != ZONE:
                continue  # a referral's NS are the child's (RFC 4035 §2.2)
            signature = next(
                (
                    r
                    for r in section
                    if r.rdtype == dns.rdatatype.RRSIG
                    and (r.name, r.covers) == (rrset.name, rrset.rdtype)
                ),
                None,
            )
            if signature is None:
                # RFC 6672 §5.3.1: the CNAME that a DNAME makes has none.
                assert renamed
                assert rrset.rdtype == dns.rdatatype.CNAME, rrset
                continue
            assert signature.ttl == rrset.ttl
            dns.dnssec.validate(rrset, signature, keys, now=NOW_S)


def nsecs(reply: dns.message.Message) -> list[tuple[dns.name.Name, NSEC]]:
    return [
        (r.name, one)
        for r in reply.authority
        if r.rdtype == dns.rdatatype.NSEC
        for one in r
        if isinstance(one, NSEC)
    ]


def covers(owner: dns.name.Name, nsec: NSEC, name: dns.name.Name) -> bool:
    """RFC 4034 §4.1.1; the last record points to the apex."""
    return bool(owner < name and (name < nsec.next or nsec.next == ZONE))


def has(nsec: NSEC, rdtype: dns.rdatatype.RdataType) -> bool:
    return any(
        bool(octets[rdtype % 256 // 8] & 0x80 >> rdtype % 8)
        for window, octets in nsec.windows
        if window == rdtype // 256 and len(octets) > rdtype % 256 // 8
    )


def check_denial(reply: dns.message.Message, qtype: dns.rdatatype.RdataType) -> None:
    """NXDOMAIN and NODATA as RFC 4035 §5.4 asks, for the end of the chain of aliases."""
    found = nsecs(reply)
    name = reply.question[0].name
    for rrset in reply.answer:
        if rrset.rdtype == dns.rdatatype.CNAME and rrset.name == name:
            name = rrset[0].target
    if reply.rcode() == dns.rcode.NXDOMAIN:
        proof = next(((o, n) for o, n in found if covers(o, n, name)), None)
        assert proof is not None
        depths = (name.fullcompare(end)[2] for end in (proof[0], proof[1].next))
        encloser = name.split(max(depths))[1]
        wildcard = dns.name.Name([b"*"]).concatenate(encloser)
        assert any(covers(o, n, wildcard) for o, n in found)
        return
    matching = [n for o, n in found if o == name]
    if matching:
        assert not has(matching[0], qtype)
        assert not has(matching[0], dns.rdatatype.CNAME)
        return
    proof = next((o, n) for o, n in found if covers(o, n, name))
    if proof[1].next.is_subdomain(name):
        return  # an empty non-terminal
    wild = [n for o, n in found if o.is_wild() and name.is_subdomain(o.parent())]
    assert wild
    assert not has(wild[0], qtype)


def check_wildcards(reply: dns.message.Message) -> None:
    """Synthesised from a wildcard: the name itself must be shown not to exist (§5.3.4)."""
    for rrset in reply.answer:
        if rrset.rdtype == dns.rdatatype.RRSIG:
            labels = len(rrset.name) - 1 - (1 if rrset.name.is_wild() else 0)
            if any(one.labels < labels for one in rrset):
                assert any(covers(o, n, rrset.name) for o, n in nsecs(reply)), rrset.name


@pytest.mark.parametrize("seed", range(4))
def test_every_answer_validates(
    signed: Snapshot, ask: Ask, keys: dict[dns.name.Name, Any], seed: int
) -> None:
    rng = random.Random(seed)
    kinds = set()
    for _ in range(400):
        front, qtype = rng.choice(FRONTS), rng.choice(TYPES)
        if rng.random() < 0.3:
            front = f"{rng.choice('abmrz')}{rng.randrange(99)}{'.' if front else ''}{front}"
        text = f"{front}.cdn.example." if front else "cdn.example."
        text = "".join(rng.choice((c, c.upper())) for c in text)
        query = with_do(text, qtype)
        reply = told(ask(query, on=signed, tcp=True, draw=rng.getrandbits(48)))
        assert reply.ednsflags & dns.flags.DO
        assert not reply.flags & dns.flags.AD
        if reply.rcode() == dns.rcode.SERVFAIL:
            continue  # loops
        check_signed(reply, keys)
        check_wildcards(reply)
        soa = any(r.rdtype == dns.rdatatype.SOA for r in reply.authority)
        if soa:
            check_denial(reply, dns.rdatatype.from_text(qtype))
        elif not reply.answer:
            proof = [r for r in reply.authority if r.rdtype in {43, 47}]
            assert proof, "a referral says what the child's keys are, or that it has none"
        kinds.add((reply.rcode(), soa, bool(reply.answer)))
    assert len(kinds) >= 5


def test_without_do_the_bytes_are_those_of_the_unsigned_zone(
    signed: Snapshot, settings: dict[str, Any], data: Path, ask: Ask
) -> None:
    plain = replace(signed, zones=load_zones(config_of(settings, data)))
    rng = random.Random(5)
    for _ in range(600):
        front, tcp = rng.choice(FRONTS), rng.random() < 0.5
        qtype = rng.choice([*TYPES[:-2], "ANY"])
        text = f"{front}.cdn.example." if front else "cdn.example."
        query = dns.message.make_query(text, qtype, use_edns=rng.choice((-1, 0)), id=7).to_wire()
        one, other = (ask(query, on=on, tcp=tcp, draw=3) for on in (signed, plain))
        assert one == other, text


def test_steered_answers_of_every_pop_are_signed_in_every_rotation(
    signed: Snapshot, ask: Ask, keys: dict[dns.name.Name, Any]
) -> None:
    seen = set()
    for down in ("fra1", "nyc1"):
        on = replace(signed, outlook=Outlook(frozenset({down})))
        for turn in range(3):
            for qtype in ("A", "AAAA", "HTTPS"):
                subnet = ECSOption("10.1.2.0", 24)
                query = with_do("www.cdn.example.", qtype, options=[subnet])
                reply = told(ask(query, on=on, draw=turn << 32))
                check_signed(reply, keys)
                assert reply.answer
                seen.add(tuple(str(r) for r in reply.answer[0]))
    # fra1 in both rotations, nyc1, fra1's IPv6, hints of fra1, and none where families part.
    assert len(seen) == 6


def test_what_does_not_fit_is_cut_with_its_signature(signed: Snapshot, ask: Ask) -> None:
    whole = told(ask(with_do("big.cdn.example.", "TXT"), on=signed, tcp=True))
    assert len(whole.answer) == 2
    for size in range(512, 1_233, 40):
        query = with_do("big.cdn.example.", "TXT", payload=size)
        made = ask(query, on=signed)
        assert made is not None
        assert len(made.wire) <= size
        reply = told(made)
        assert len(reply.answer) == (0 if reply.flags & dns.flags.TC else 2)


def test_minimal_any_is_signed(signed: Snapshot, ask: Ask, keys: dict[dns.name.Name, Any]) -> None:
    for name in ("cdn.example.", "www.cdn.example.", "alias.cdn.example.", "a.wild.cdn.example."):
        reply = told(ask(with_do(name, "ANY"), on=signed))
        assert [r.rdtype for r in reply.answer].count(dns.rdatatype.RRSIG) == 1
        check_signed(reply, keys)
    reply = told(ask(with_do("cdn.example.", "ANY"), on=signed, tcp=True))
    assert {int(r.rdtype) for r in reply.answer} >= {2, 6, 15, 46, 47, 48, 59, 60}
    check_signed(reply, keys)


def test_records_of_signing_can_be_asked_for(signed: Snapshot, ask: Ask) -> None:
    for qtype in ("DNSKEY", "NSEC", "CDS", "CDNSKEY", "RRSIG"):
        query = dns.message.make_query("cdn.example.", qtype).to_wire()
        reply = told(ask(query, on=signed))
        assert [r.rdtype for r in reply.answer] == [dns.rdatatype.from_text(qtype)]


def test_ds_is_the_parents(signed: Snapshot, ask: Ask, keys: dict[dns.name.Name, Any]) -> None:
    reply = told(ask(with_do("sub.cdn.example.", "DS"), on=signed))
    assert [int(r.rdtype) for r in reply.answer] == [43, 46]
    check_signed(reply, keys)
    referral = told(ask(with_do("host.sub.cdn.example.", "A"), on=signed))
    assert [int(r.rdtype) for r in referral.authority] == [2, 43, 46]
    assert not referral.flags & dns.flags.AA


def test_the_client_s_cd_and_ad_bits(signed: Snapshot, ask: Ask) -> None:
    query = dns.message.make_query(
        "www.cdn.example.", "A", want_dnssec=True, flags=dns.flags.CD | dns.flags.AD
    )
    reply = told(ask(query.to_wire(), on=signed))
    assert reply.flags & dns.flags.CD
    assert not reply.flags & dns.flags.AD
