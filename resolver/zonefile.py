"""Zones from RFC 1035 master files.

Reads with dnspython and turns its records into `resolver.zone`; every refusal names the file, the
line and what was expected. Services are laid into the zone that encloses them; one that no file
encloses gets a small zone of its own, so that a configuration without files can serve.
"""

from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import dns.exception
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.tokenizer
import dns.zone
import dns.zonefile

from popsteer.config import Config
from popsteer.errors import ConfigError
from popsteer.names import dns_name
from resolver.dnssec import lay_over, read_signed
from resolver.route import Fleet, Steered, fleet_of, steered_of
from resolver.wire import Key, Labels, lower
from resolver.zone import AAAA, CNAME, DNAME, MX, NS, PTR, SOA, A, Node, Rdata, RRset, Zone, Zones

OWN_ZONE_TTL_S = 300
"""SOA TTL and negative TTL of a zone that has no file."""

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

    The origin is the owner of the SOA. Where the file gives names relative to an origin that it
    does not state, the origin is the file's name without `.zone`, `.db` or a leading `db.`.

    Raises:
        ConfigError: names the file, the line and what was expected.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"dns.zones: {path}: {reason}") from None
    origin = _origin(text, path)
    zone = dns.zone.Zone(origin, relativize=False)
    tokens = _Tokens(text, str(path))
    with zone.writer(replacement=True) as txn:
        reader = _Reader(tokens, dns.rdataclass.IN, txn, allow_include=True)
        txn.check_put_rdataset(_refuse_second)
        try:
            reader.read()
        except (dns.exception.DNSException, ValueError, KeyError, OSError) as error:
            raise ConfigError(f"dns.zones: {reader.explain(error)}") from None
        finally:
            reader.close()
    return _checked(path, origin, _nodes(zone))


def _refuse_second(txn: Any, name: dns.name.Name, rdataset: Any) -> None:
    """Types of which a name has one at most: dnspython would let the later win without a word."""
    if dns.rdatatype.is_singleton(rdataset.rdtype):
        before = txn.get(name, rdataset.rdtype)
        if before is not None and set(before) != set(rdataset):
            kind = dns.rdatatype.to_text(rdataset.rdtype)
            raise ValueError(f"{name} has more than one {kind}")


class _Tokens(dns.tokenizer.Tokenizer):
    """dnspython's; the file of an $INCLUDE is looked for beside the file that names it."""

    _names_file = False

    def get(self, want_leading: bool = False, want_comment: bool = False) -> dns.tokenizer.Token:
        token = super().get(want_leading, want_comment)
        if self._names_file and not token.is_eol_or_eof():
            token.value = str(Path(self.filename).parent / token.value)
        # Only the first word of a line is asked for with the blanks before it.
        self._names_file = want_leading and token.value.upper() == "$INCLUDE"
        return token


class _Reader(dns.zonefile.Reader):
    """dnspython's reader; it knows where the record at hand began."""

    record_at: tuple[str, int] | None = None

    @property
    def tok(self) -> dns.tokenizer.Tokenizer:
        """The words of the file that is read now."""
        return self._tok

    @tok.setter
    def tok(self, tokens: dns.tokenizer.Tokenizer) -> None:
        fresh = not isinstance(tokens, _Tokens)
        self._tok = _Tokens(tokens.file, tokens.filename) if fresh else tokens

    def close(self) -> None:
        """Close included files that an error left open."""
        for file in (self.current_file, *(state[3] for state in self.saved_state)):
            if file is not None:
                file.close()

    def _rr_line(self) -> None:
        self.record_at = self.tok.where()
        super()._rr_line()
        self.record_at = None

    def explain(self, error: Exception) -> str:
        """File, line, what is wrong and what was expected."""
        file, line = self.record_at or self.tok.where()
        detail = str(error)
        if isinstance(error, dns.exception.SyntaxError):
            # dnspython puts its own idea of file and line in front, often one line late.
            detail = detail.split(": ", 1)[-1]
        if isinstance(error, OSError):
            return f"{file}:{line}: $INCLUDE {error.filename}: {error.strerror}"
        written = _line(file, line)
        types = [word.upper() for word in written.split() if word.upper() in _FORMS]
        form = _FORMS[types[0]] if types else "TYPE DATA"
        owner = "[NAME] [TTL] [IN]"
        return f"{file}:{line}: {written!r}: {detail.rstrip('.')}; expected {owner} {form}"


_FORMS = {
    "A": "A and an IPv4 address",
    "AAAA": "AAAA and an IPv6 address",
    "CNAME": "CNAME and one name, alone at its owner",
    "DNAME": "DNAME and one name",
    "NS": "NS and one name",
    "PTR": "PTR and one name",
    "MX": "MX, a preference and a name",
    "SRV": "SRV, priority, weight, port and a name",
    "SOA": "SOA, two names and the numbers serial, refresh, retry, expire, minimum",
    "TXT": "TXT and strings, quoted where they hold spaces",
    "CAA": 'CAA, flags, a tag and a quoted value, as in 0 issue "ca.example"',
    "HTTPS": "HTTPS, priority, target and key=value pairs",
    "SVCB": "SVCB, priority, target and key=value pairs",
}


def _line(file: str, line: int) -> str:
    """The line of a file as it stands there."""
    lines = Path(file).read_text("utf-8").splitlines()
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""


def _origin(text: str, path: Path) -> dns.name.Name:
    """Owner of the SOA, found without reading records: their reader wants to know it first."""
    stem = path.name.removeprefix("db.").removesuffix(".zone").removesuffix(".db")
    owner = ""
    try:
        origin = dns.name.from_text(stem)
        for line in text.splitlines():
            words = line.partition(";")[0].split()
            if not words:
                continue
            if words[0].upper() == "$ORIGIN" and len(words) > 1:
                origin = dns.name.from_text(words[1], origin)
            if words[0].startswith("$"):
                continue
            if not line[0].isspace():
                owner = words.pop(0)
            if "SOA" in (word.upper() for word in words[:3]):
                return dns.name.from_text(owner or "@", origin)
    except dns.exception.DNSException as error:
        raise ConfigError(f"dns.zones: {path}: {error}") from None
    raise ConfigError(f"dns.zones: {path}: no SOA record; a zone starts with one")


def _nodes(zone: dns.zone.Zone) -> dict[Key, Node]:
    nodes: dict[Key, Node] = {}
    for name, node in zone.nodes.items():
        owner = _labels(name)
        rrsets = {
            int(rdataset.rdtype): RRset(
                owner,
                int(rdataset.rdtype),
                int(rdataset.ttl),
                tuple(_rdata(rdata) for rdata in rdataset),
            )
            for rdataset in node
        }
        nodes[lower(owner)] = Node(owner, MappingProxyType(rrsets))
    return nodes


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
    if taken := [t for t in (A, AAAA, CNAME) if t in node.rrsets]:
        kind = dns.rdatatype.to_text(dns.rdatatype.RdataType(taken[0]))
        raise ConfigError(
            f"service {service.name}: the zone {_text(origin)} has a {kind} record there; "
            "remove it, the table answers for this name"
        )
    nodes[key] = Node(node.owner, node.rrsets, service)


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
