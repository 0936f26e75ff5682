"""Zones from RFC 1035 master files.

Turns the records that `resolver.masterfile` reads into `resolver.zone` and checks what a zone must
have. Services are laid into the zone that encloses them; one that no file
encloses gets a small zone of its own, so that a configuration without files can serve.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dns.name
import dns.rdatatype
import dns.zone

from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.names import dns_name
from popsteer.telemetry import logger
from resolver.dnssec import lay_over, read_signed
from resolver.masterfile import read_records
from resolver.route import Fleet, Steered, fleet_of, steered_of
from resolver.wire import Key, Labels, lower
from resolver.zone import AAAA, CNAME, DNAME, MX, NS, PTR, SOA, A, Node, Rdata, RRset, Zone, Zones

OWN_ZONE_TTL_S = 300
"""SOA TTL and negative TTL of a zone that has no file."""
TTL_S_MAX = 2**31 - 1
RRSET_BYTES_MAX = 64_000
"""A longer RRset goes into no message, not even over TCP."""
_RECORD_BYTES = 12
"""Of a record in an answer besides its data: compressed name, type, class, TTL, length."""

_TARGET_FIELDS = {"NS": "target", "CNAME": "target", "DNAME": "target", "PTR": "target"} | {
    "MX": "exchange",
    "SRV": "target",
    "SVCB": "target",
    "HTTPS": "target",
}


def load_zones(config: Config) -> Zones:
    """All zones of a configuration, with its services in them and their signatures over them.

    Raises:
        ConfigError: a file cannot be read, is no zone, does not go with a service, or the file of
            signatures does not cover it all.
    """
    zones = unsigned_zones(config)
    if not config.dns.dnssec:
        return zones
    path = config.path(config.dns.dnssec)
    return lay_over(zones, checked_fleet(config), read_signed(path), path)


def checked_fleet(config: Config) -> Fleet:
    """The addresses of a configuration.

    Raises:
        ConfigError: one is no address.
    """
    try:
        return fleet_of(config)
    except ValueError as error:
        raise ConfigError(f"pop: {error}") from None


def unsigned_zones(config: Config) -> Zones:
    """All zones of a configuration, with its services in them.

    Raises:
        ConfigError: a file cannot be read, is no zone, or does not go with a service.
    """
    zones: dict[Key, dict[Key, Node]] = {}
    for text in config.dns.zones:
        origin, nodes = read_zone(config.path(text))
        if origin in zones:
            raise ConfigError(f"dns.zones: {text}: the zone {_text(origin)} stands twice")
        zones[origin] = nodes
    for service in config.service:
        _lay_in(zones, steered_of(config, service))
    return Zones(MappingProxyType({o: _zone(o, nodes) for o, nodes in zones.items()}))


def read_zone(path: Path) -> tuple[Key, dict[Key, Node]]:
    """Origin and nodes of one file.

    Raises:
        ConfigError: names the file, the line and what was expected.
    """
    zone = read_records(path)
    assert zone.origin is not None
    return _checked(path, zone.origin, _nodes(zone))


def _nodes(zone: dns.zone.Zone) -> dict[Key, Node]:
    nodes: dict[Key, Node] = {}
    for name, node in zone.nodes.items():
        owner = _labels(name)
        rrsets: dict[int, RRset] = {}
        for rdataset in node:
            rrset = _rrset(owner, rdataset)
            before = rrsets.get(rrset.rtype)
            if before is not None:
                # dnspython keeps RRSIGs apart by the type that they cover.
                rrset = replace(rrset, rdatas=before.rdatas + rrset.rdatas)
            rrsets[rrset.rtype] = rrset
        nodes[lower(owner)] = Node(owner, MappingProxyType(rrsets))
    return nodes


def _rrset(owner: Labels, rdataset: Any) -> RRset:
    ttl_s = int(rdataset.ttl)
    rdatas = tuple(_rdata(rdata) for rdata in rdataset)
    # RFC 2181 §8: a TTL with the top bit set is 0.
    return RRset(owner, int(rdataset.rdtype), ttl_s if ttl_s <= TTL_S_MAX else 0, rdatas)


def _rdata(rdata: Any) -> Rdata:
    """A record as octets, with names apart where they may be compressed."""
    wire: bytes = rdata.to_wire()
    kind = dns.rdatatype.to_text(rdata.rdtype)
    field = _TARGET_FIELDS.get(kind)
    # A known type may be written as RFC 3597 has it and is then parsed by dnspython all the same.
    target = _labels(getattr(rdata, field)) if field else None
    if rdata.rdtype in {NS, CNAME, PTR}:
        assert target is not None
        return Rdata((target,), target)
    if rdata.rdtype == MX:
        assert target is not None
        return Rdata((wire[:2], target), target)
    if rdata.rdtype == SOA:
        return Rdata((_labels(rdata.mname), _labels(rdata.rname), wire[-20:]))
    return Rdata((wire,), target)


def _checked(
    path: Path, origin: dns.name.Name, nodes: dict[Key, Node]
) -> tuple[Key, dict[Key, Node]]:
    """What each zone must have, and what a server would otherwise answer wrongly."""
    key = lower(_labels(origin))
    apex = nodes.get(key, Node(_labels(origin))).rrsets
    if SOA not in apex or len(apex[SOA].rdatas) != 1:
        raise ConfigError(f"dns.zones: {path}: expected one SOA at {origin}")
    if NS not in apex:
        raise ConfigError(f"dns.zones: {path}: no NS record at {origin}; a zone needs one")
    for rrset in (rrset for node in nodes.values() for rrset in node.rrsets.values()):
        size = sum(len(rdata.octets) + _RECORD_BYTES for rdata in rrset.rdatas)
        if size > RRSET_BYTES_MAX:
            raise ConfigError(
                f"dns.zones: {path}: {_text(rrset.owner)} has {len(rrset.rdatas)} records of type "
                f"{dns.rdatatype.to_text(dns.rdatatype.RdataType.make(rrset.rtype))}, {size} "
                f"octets; no answer can be longer than {RRSET_BYTES_MAX}"
            )
    return key, nodes


def _lay_in(zones: dict[Key, dict[Key, Node]], service: Steered) -> None:
    """Put a service into the zone that encloses it."""
    name = _labels(dns.name.from_text(service.name))
    key = lower(name)
    origin = next((key[i:] for i in range(len(key) + 1) if key[i:] in zones), None)
    if origin is None:
        origin = key
        zones[key] = {key: _own_apex(name)}
    nodes = zones[origin]
    for start in range(len(key) - len(origin)):
        above = nodes.get(key[start:])
        if above and (NS in above.rrsets or (start and DNAME in above.rrsets)):
            raise ConfigError(
                f"service {service.name}: the zone {_text(origin)} gives "
                f"{_text(above.owner)} away; a service must be in our own part of it"
            )
    node = nodes.get(key, Node(name))
    if CNAME in node.rrsets:
        raise ConfigError(
            f"service {service.name}: the zone {_text(origin)} has a CNAME record there; "
            "remove it, the table answers for this name"
        )
    own = {t: rrset for t, rrset in node.rrsets.items() if t not in {A, AAAA}}
    if len(own) < len(node.rrsets):
        # A file that also feeds servers that cannot steer.
        logger().warning("addresses in a zone file are not used", service=service.name)
    nodes[key] = Node(node.owner, MappingProxyType(own), service)


def _own_apex(name: Labels) -> Node:
    """An apex for a service that no zone file encloses."""
    timers = (1, 3_600, 600, 604_800, OWN_ZONE_TTL_S)
    soa = Rdata((name, (b"hostmaster", *name), b"".join(t.to_bytes(4, "big") for t in timers)))
    return Node(name, MappingProxyType({SOA: RRset(name, SOA, OWN_ZONE_TTL_S, (soa,))}))


def _zone(origin: Key, nodes: dict[Key, Node]) -> Zone:
    """Freeze, with an empty non-terminal wherever a name hangs below none (RFC 8020 §2)."""
    whole = dict(nodes)
    for key, node in nodes.items():
        for start in range(1, len(key) - len(origin)):
            whole.setdefault(key[start:], Node(node.owner[start:]))
    soa = nodes[origin].rrsets[SOA]
    last = soa.rdatas[0].parts[-1]
    assert isinstance(last, bytes)
    minimum = int.from_bytes(last[-4:], "big")
    return Zone(origin, MappingProxyType(whole), min(soa.ttl_s, minimum))


def _labels(name: dns.name.Name) -> Labels:
    return name.labels[:-1]


def _text(labels: Iterable[bytes]) -> str:
    return dns_name(dns.name.Name([*labels, b""]).to_text())
