"""Zone transfer to secondaries: AXFR (RFC 5936), IXFR (RFC 1995). Pure.

Owns who may have a zone, the records that make it up, the differences between its versions, and
the messages that carry them. A secondary cannot steer, so in place of each steered name it gets
the addresses of `Fleet.fallback`: the same whatever table and health say, because a zone changes
with its serial alone.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from popsteer.config import Config
from popsteer.errors import ConfigError
from resolver.route import Fleet
from resolver.tsig import Keys, Seal, key_name, keys_of
from resolver.wire import AA, HEADER_BYTES, QR, Key, Query, octets
from resolver.zone import AAAA, RRSIG, SOA, A, Node, Rdata, RRset, Zone, Zones

MESSAGE_BYTES = 16_384
"""Octets of records in one message: many are sent, none holds up other clients."""
DELTAS_MAX = 64
"""Versions back that a journal reaches."""
DELTA_RECORDS_MAX = 100_000
"""Records in one journal; a secondary that is further behind gets the whole zone."""
_IN = 1
_SERIAL_HALF = 2**31


@dataclass(frozen=True, slots=True)
class Secondary:
    """Who may transfer zones."""

    networks: tuple[IPv4Network | IPv6Network, ...]
    key: Key | None
    """The key that its requests must be signed with; None asks for no signature."""

    def is_at(self, address: bytes, key: Key | None) -> bool:
        """Whether a request from an address, signed with a key or not, is its own."""
        ip = ip_address(address)
        near = any(ip in network for network in self.networks if network.version == ip.version)
        return near and (self.key is None or self.key == key)


@dataclass(frozen=True, slots=True)
class Transfers:
    """Whom this server knows."""

    secondaries: tuple[Secondary, ...] = ()
    keys: Keys = field(default_factory=dict)

    def allows(self, address: bytes, key: Key | None) -> bool:
        """Whether whoever asks may have zones."""
        return any(one.is_at(address, key) for one in self.secondaries)


def transfers_of(config: Config) -> Transfers:
    """Secondaries and keys of a configuration.

    Raises:
        ConfigError: a network, key name or key file cannot be used.
    """
    keys = keys_of(config)
    found = []
    for one in config.secondary:
        key = key_name(one.key) if one.key else None
        if key is not None and key not in keys:
            raise ConfigError(f"secondary.key = {one.key!r}: no [[tsig]] has this name")
        try:
            networks = tuple(ip_network(text) for text in one.allow)
        except ValueError as error:
            raise ConfigError(f"secondary.allow: {error}; write 192.0.2.53/32") from None
        found.append(Secondary(networks, key))
    return Transfers(tuple(found), keys)


@dataclass(frozen=True, slots=True)
class Delta:
    """What changed from one version of a zone to the next."""

    serial: int
    """Of the older version."""
    records: tuple[bytes, ...]
    """Old SOA, what went; new SOA, what came (RFC 1995 §4)."""


Journal = tuple[Delta, ...]
"""Changes of one zone, oldest first, each beginning where the last ended."""


def serial_of(zone: Zone) -> int:
    """RFC 1035 §3.3.13."""
    return int.from_bytes(zone.apex.rrsets[SOA].rdatas[0].octets[-20:-16], "big")


def is_newer(serial: int, than: int) -> bool:
    """Serial number arithmetic (RFC 1982 §3.2)."""
    return 0 < (serial - than) % 2**32 < _SERIAL_HALF


def journals_of(
    old: Zones, new: Zones, journals: Mapping[Key, Journal], fleet: Fleet
) -> dict[Key, Journal]:
    """The journals after a change of zones; bounded, the oldest versions go first."""
    found = {}
    for origin, zone in new.by_origin.items():
        before = old.by_origin.get(origin)
        kept = journals.get(origin, ())
        if before is None:
            continue
        if not is_newer(serial_of(zone), serial_of(before)):
            # The same serial keeps what is known; one that fell starts anew.
            found[origin] = kept if serial_of(zone) == serial_of(before) else ()
            continue
        whole = [*kept, _delta(before, zone, fleet)][-DELTAS_MAX:]
        while sum(len(delta.records) for delta in whole) > DELTA_RECORDS_MAX:
            del whole[0]
        found[origin] = tuple(whole)
    return found


def since(journal: Journal, serial: int) -> Journal | None:
    """The changes since a version; None where the journal does not reach back to it."""
    for index, delta in enumerate(journal):
        if delta.serial == serial:
            return journal[index:]
    return None


def _delta(old: Zone, new: Zone, fleet: Fleet) -> Delta:
    # Names are compared first: most are the same object or equal, and cost nothing more.
    before, after = set(_differing(old, new, fleet)), set(_differing(new, old, fleet))
    gone, come = sorted(before - after), sorted(after - before)
    return Delta(serial_of(old), (_soa(old), *gone, _soa(new), *come))


def _differing(zone: Zone, other: Zone, fleet: Fleet) -> Iterator[bytes]:
    for key, node in zone.nodes.items():
        if other.nodes.get(key) != node:
            for rrset in _rrsets(node, zone, fleet):
                yield from _records(rrset)


def records_of(zone: Zone, fleet: Fleet) -> Iterator[bytes]:
    """A whole zone: SOA, everything else, SOA (RFC 5936 §2.2)."""
    yield _soa(zone)
    for node in zone.nodes.values():
        for rrset in _rrsets(node, zone, fleet):
            yield from _records(rrset)
    yield _soa(zone)


def changes_of(zone: Zone, deltas: Journal) -> Iterator[bytes]:
    """The same for a secondary that has an older version (RFC 1995 §4)."""
    yield _soa(zone)
    for delta in deltas:
        yield from delta.records
    yield _soa(zone)


def _rrsets(node: Node, zone: Zone, fleet: Fleet) -> Iterator[RRset]:
    """All of a node; the SOA without its record, which goes first and last."""
    for rrset in node.rrsets.values():
        if rrset.rtype == SOA:
            yield replace(rrset, rdatas=())
        else:
            yield rrset
    if node.service is None:
        return
    for rtype in (A, AAAA):
        addresses = fleet.fallback(node.service, rtype == AAAA)
        if addresses:
            rdatas = tuple(Rdata((address,)) for address in addresses)
            made = RRset(node.owner, rtype, node.service.ttl_s, rdatas)
            yield zone.signing.over(made) if zone.signing else made


def _records(rrset: RRset) -> Iterator[bytes]:
    """The records of an RRset and its signatures, without compression."""
    owner = octets(rrset.owner)
    for rtype, datas in (
        (rrset.rtype, (rdata.octets for rdata in rrset.rdatas)),
        (RRSIG, rrset.signatures),
    ):
        for data in datas:
            yield owner + struct.pack("!HHIH", rtype, _IN, rrset.ttl_s, len(data)) + data


def _soa(zone: Zone) -> bytes:
    (record,) = _records(replace(zone.apex.rrsets[SOA], signatures=()))
    return record


def messages(
    query: Query, records: Iterable[bytes], opt: bytes, seal: Seal | None
) -> Iterator[bytes]:
    """The messages that carry the records, each as full as it may be.

    The question stands in the first alone, the OPT record too (RFC 5936 §2.2.1, §2.2.5); every
    message is signed (RFC 8945 §5.3.1). They are made one by one as they are taken.
    """
    assert query.question is not None
    asked = query.question
    head = octets(asked.name) + struct.pack("!HH", asked.qtype, asked.qclass)
    batch: list[bytes] = []
    size = 0
    for record in records:
        if batch and size + len(record) > MESSAGE_BYTES:
            yield _message(query, head, batch, opt, seal)
            head, opt, batch, size = b"", b"", [], 0
        batch.append(record)
        size += len(record)
    yield _message(query, head, batch, opt, seal)


def _message(
    query: Query, question: bytes, batch: list[bytes], opt: bytes, seal: Seal | None
) -> bytes:
    counts = (1 if question else 0, len(batch), 0, 1 if opt else 0)
    head = struct.pack("!6H", query.id, QR | AA, *counts)
    assert len(head) == HEADER_BYTES
    wire = b"".join((head, question, *batch, opt))
    return seal.sign(wire, more=True) if seal else wire
