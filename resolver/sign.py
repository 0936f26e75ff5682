"""Signing zones ahead: every RRset that a DNS node may answer, with keys that it never sees.

Pure given the keys and the time. What there is to sign is `resolver.dnssec`'s to say, so that the
node finds whatever the signer made; the signatures are dnspython's (RFC 4034 §3.1.8, RFC 8080,
RFC 6605).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dns.dnssec
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from popsteer.errors import ConfigError
from resolver.dnssec import FORMAT, SignedFile, ZoneSignatures, answers, origin_text, prepare
from resolver.route import Fleet
from resolver.wire import Key
from resolver.zone import CDNSKEY, CDS, DNSKEY, RRset, Zone, Zones
from resolver.zonekeys import DNSKEY_TTL_S, ZoneKey

SKEW_S = 3_600
"""Signatures begin in the past: clocks differ."""
TTLS_MIN = 4
"""A lifetime is at least so many times the longest TTL, or caches hold what has expired."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """From when to when signatures hold, epoch seconds."""

    inception_s: int
    expires_s: int


def lifetime(now_s: int, days: float) -> Lifetime:
    """From a little before now, for some days."""
    return Lifetime(now_s - SKEW_S, now_s + round(days * 86_400))


def sign_zones(
    zones: Zones, fleet: Fleet, keys: dict[str, list[ZoneKey]], when: Lifetime
) -> SignedFile:
    """Sign every zone with its keys.

    Raises:
        ConfigError: a zone has no key that signs, the lifetime is too short for its TTLs, or its
            file has DNSSEC records already.
    """
    signed = tuple(
        _sign_zone(origin, zone, zones, fleet, keys[origin_text(origin)], when)
        for origin, zone in zones.by_origin.items()
    )
    return SignedFile(
        format=FORMAT, inception_s=when.inception_s, expires_s=when.expires_s, zones=signed
    )


def ttl_s_max(zone: Zone) -> int:
    """The longest TTL of what may be answered."""
    static = [rrset.ttl_s for node in zone.nodes.values() for rrset in node.rrsets.values()]
    services = [node.service.ttl_s for node in zone.nodes.values() if node.service is not None]
    return max(DNSKEY_TTL_S, *static, *services)


def _sign_zone(
    origin: Key,
    zone: Zone,
    zones: Zones,
    fleet: Fleet,
    keys: Sequence[ZoneKey],
    when: Lifetime,
) -> ZoneSignatures:
    name = origin_text(origin)
    _check(name, zone, keys, when)
    apex = _apex(keys)
    signatures: dict[bytes, tuple[bytes, ...]] = {}
    signer = dns.name.Name([*origin, b""])
    for rrset in answers(prepare(zone, apex, fleet), zones, fleet):
        if rrset.digest not in signatures:
            by = [key for key in keys if _signs(key, rrset.rtype)]
            signatures[rrset.digest] = tuple(_sign(rrset, key, signer, when) for key in by)
    return ZoneSignatures(
        origin=name,
        apex=apex,
        signatures=signatures,
    )


def _check(name: str, zone: Zone, keys: Sequence[ZoneKey], when: Lifetime) -> None:
    if not any(key.signs_data for key in keys) or not any(key.signs_keys for key in keys):
        raise ConfigError(
            f"zone {name}: no active key signs it; it needs a csk, or a ksk and a zsk"
        )
    spent_s, longest_s = when.expires_s - when.inception_s - SKEW_S, ttl_s_max(zone)
    if spent_s < TTLS_MIN * longest_s:
        raise ConfigError(
            f"zone {name}: signatures for {spent_s / 86_400:.2g} days, but the longest TTL is "
            f"{longest_s} s; sign for {TTLS_MIN * longest_s / 86_400:.2g} days or longer"
        )


def _signs(key: ZoneKey, rtype: int) -> bool:
    """RFC 7344 §4.1: CDS and CDNSKEY are signed by the keys that the parent knows."""
    if rtype in {DNSKEY, CDS, CDNSKEY} and key.signs_keys:
        return rtype == DNSKEY or key.record.stage != "published"
    return rtype != DNSKEY and key.signs_data


def _apex(keys: Sequence[ZoneKey]) -> dict[int, tuple[int, tuple[bytes, ...]]]:
    """DNSKEY of every key; CDS and CDNSKEY of what the parent's DS is to be (RFC 7344 §4)."""
    parental = [key for key in keys if key.signs_keys and key.record.stage == "active"]
    return {
        DNSKEY: (DNSKEY_TTL_S, tuple(_wire(key.public) for key in keys)),
        CDS: (
            DNSKEY_TTL_S,
            tuple(
                _wire(dns.dnssec.make_cds(key.record.zone, key.public, "SHA256"))
                for key in parental
            ),
        ),
        CDNSKEY: (DNSKEY_TTL_S, tuple(_wire(key.public) for key in parental)),
    }


def _sign(rrset: RRset, key: ZoneKey, signer: dns.name.Name, when: Lifetime) -> bytes:
    owner = dns.name.Name([*rrset.owner, b""])
    rdatas = list(_rdatas(rrset))
    made = dns.dnssec.sign(
        dns.rrset.from_rdata_list(owner, rrset.ttl_s, rdatas),
        key.private,
        signer,
        key.public,
        inception=when.inception_s,
        expiration=when.expires_s,
    )
    return _wire(made)


def _rdatas(rrset: RRset) -> Iterator[dns.rdata.Rdata]:
    rtype = dns.rdatatype.RdataType.make(rrset.rtype)
    for rdata in rrset.rdatas:
        data = rdata.octets
        yield dns.rdata.from_wire(dns.rdataclass.IN, rtype, data, 0, len(data))


def _wire(rdata: dns.rdata.Rdata) -> bytes:
    return rdata.to_wire() or b""
