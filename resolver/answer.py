"""Bytes to bytes: one DNS query to its response. Pure.

Owns the order of judgement (format, EDNS version, options, opcode, question, class, type) and the
form of the response (flags, EDNS, size). What the answer says comes from `resolver.resolve`.
Where RFCs leave room it answers as BIND does.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import ip_address

from dnslib.dns import EDNS0, DNSHeader, EDNSOption
from dnslib.label import DNSLabel

from popsteer.names import IPV6_BIT, Prefix
from resolver import cookies, ecs, transfer
from resolver.resolve import Resolver, Sections, resolve
from resolver.route import Decision, Steered, decide
from resolver.snapshot import Snapshot
from resolver.tsig import Seal, seal_of
from resolver.wire import (
    AA,
    CD,
    HEADER_BYTES,
    OPCODE_SHIFT,
    OPT,
    QR,
    RD,
    TC,
    Labels,
    Opcode,
    Query,
    Question,
    Rcode,
    WireBuffer,
    parse,
)
from resolver.zone import ANY, RRSIG, SOA, TXT, Rdata, RRset

UDP_BYTES_PLAIN = 512
"""RFC 1035 §4.2.1, without EDNS."""
UDP_BYTES_MAX = 1_232
"""RFC 9715 §3.2: what passes everywhere unfragmented; also what we offer to receive."""
TCP_BYTES_MAX = 65_535
NO_LIMIT = 1 << 20
"""For `write_rrset`: more than any message."""
TCP_IDLE_S = 10
"""How long an idle connection is kept; told to clients that ask (RFC 7828)."""

IN, CH, HS, CLASS_0, CLASS_NONE, CLASS_ANY = 1, 3, 4, 0, 254, 255
META_FIRST, IXFR, AXFR, MAILB, MAILA = 128, 251, 252, 253, 254
_NSID, _KEEPALIVE, _EDE = 3, 11, 15
_EDE_NOT_AUTHORITATIVE = 20
STATUS_NAME = (b"status", b"popsteer")
"""TXT of class CH: what answers rest on, for clients on the same machine."""


class Transport(Enum):
    """How the query came."""

    UDP = auto()
    TCP = auto()


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks."""

    address: bytes
    """Packed; IPv4 also where it came through an IPv6 socket."""
    transport: Transport

    @property
    def prefix(self) -> Prefix:
        """The resolver's own prefix."""
        if len(self.address) == 4:
            return Prefix(int.from_bytes(self.address, "big") << 32, 32)
        return Prefix(int.from_bytes(self.address[:8], "big"), 64 | IPV6_BIT)

    @property
    def local(self) -> bool:
        """On this machine."""
        return ip_address(self.address).is_loopback


@dataclass(frozen=True, slots=True)
class Served:
    """A steered answer, for the demand count."""

    service: str
    pop: str
    client: Prefix
    row: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A response and what to count of it."""

    wire: bytes
    rcode: Rcode
    served: Served | None = None
    more: Iterable[bytes] = ()
    """Messages of a transfer that follow; made as they are taken."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client asked for in EDNS options."""

    subnet: ecs.ClientSubnet | None = None
    cookie: bytes | None = None
    nsid: bool = False
    keepalive: bool = False


def answer(data: bytes, client: Client, snapshot: Snapshot, draw: int, now_s: int) -> Answer | None:
    """The response to any bytes; None where silence is right.

    Args:
        data: A datagram, or a TCP message without its length.
        client: Who asks and how.
        snapshot: Zones, table and outlook.
        draw: `resolver.route.DRAW_BITS` random bits.
        now_s: Epoch seconds, for cookies and signatures alone.
    """
    query = parse(data)
    if query is None:
        return None
    seal = seal_of(data, query, snapshot.transfers.keys, now_s)
    records = None
    try:
        asked = _asked(query, snapshot)
    except ecs.EcsError:
        asked, sections = Asked(), Sections(Rcode.FORMERR)
    else:
        refused = _judge(query, asked, client, seal) or _fetched(
            query, asked, client, snapshot, now_s
        )
        if refused is None and _is_transfer(query):
            sections, records = _transfer(query, client, snapshot, seal)
        else:
            sections = refused or _resolve(query, asked, client, snapshot, draw)
    options = _options(asked, sections, client, snapshot, now_s)
    if records is not None:
        more = transfer.messages(query, records, _opt(query, Rcode.NOERROR, options), seal)
        return Answer(next(more), Rcode.NOERROR, None, more)
    wire = _render(query, sections, options, client, seal.octets_max if seal else 0)
    return Answer(
        seal.sign(wire) if seal else wire, sections.rcode, _served(sections, asked, client)
    )


def _asked(query: Query, snapshot: Snapshot) -> Asked:
    """The options that we know; others are ignored (RFC 6891 §6.1.2).

    Raises:
        EcsError: a malformed option; the answer is FORMERR.
    """
    edns = query.edns
    if edns is None or edns.version:
        return Asked()
    subnet = edns.option(ecs.OPTION) if snapshot.options.ecs else None
    cookie = edns.option(cookies.OPTION) if snapshot.options.secret else None
    if cookie is not None and not cookies.well_formed(cookie):
        raise ecs.EcsError
    return Asked(
        ecs.parse(subnet) if subnet is not None else None,
        cookie,
        edns.option(_NSID) is not None,
        edns.option(_KEEPALIVE) is not None,
    )


def _judge(query: Query, asked: Asked, client: Client, seal: Seal | None) -> Sections | None:
    """The refusals that need no zone, in BIND's order; None where there is something to look up."""
    if query.rcode:
        return Sections(query.rcode)
    if seal is not None and seal.error:
        return Sections(Rcode.NOTAUTH)
    if query.edns is not None and query.edns.version:
        return Sections(Rcode.BADVERS)
    if query.opcode != Opcode.QUERY:
        return Sections(Rcode.NOTIMP)
    if query.question is None:
        return Sections(Rcode.FORMERR) if asked.cookie is None else None
    return _judge_question(query.question, client)


def _fetched(
    query: Query, asked: Asked, client: Client, snapshot: Snapshot, now_s: int
) -> Sections | None:
    """RFC 7873 §5.4: a query without question fetches a cookie, or asks whether one still holds."""
    secret = snapshot.options.secret
    if query.question is not None or asked.cookie is None or secret is None:
        return None
    alone = len(asked.cookie) == cookies.CLIENT_BYTES
    good = alone or cookies.valid(asked.cookie, client.address, secret, now_s)
    return Sections(Rcode.NOERROR if good else Rcode.BADCOOKIE)


def _judge_question(question: Question, client: Client) -> Sections | None:
    qtype = question.qtype
    if question.qclass == CH and question.key == STATUS_NAME and client.local:
        return None
    if question.qclass in {CLASS_0, CLASS_NONE, CLASS_ANY}:
        return Sections(Rcode.FORMERR)
    if question.qclass != IN:
        return Sections(Rcode.REFUSED if question.qclass in {CH, HS} else Rcode.NOTIMP)
    if qtype in {AXFR, IXFR}:
        return None
    if qtype in {MAILA, MAILB}:
        return Sections(Rcode.NOTIMP)
    # RFC 6895 §3.1: 128 to 255 are no data; but for ANY nobody can ask for them.
    if qtype == OPT or META_FIRST <= qtype < ANY:
        return Sections(Rcode.FORMERR)
    return None


def _is_transfer(query: Query) -> bool:
    return query.question is not None and query.question.qtype in {AXFR, IXFR}


def _transfer(
    query: Query, client: Client, snapshot: Snapshot, seal: Seal | None
) -> tuple[Sections, Iterator[bytes] | None]:
    """What the asker of a zone is told, or its records where it gets them."""
    question = query.question
    assert question is not None
    zone = snapshot.zones.by_origin.get(question.key)
    if zone is None:
        return Sections(Rcode.NOTAUTH), None
    if not snapshot.transfers.allows(client.address, seal.name if seal else None):
        return Sections(Rcode.REFUSED), None
    incremental = question.qtype == IXFR
    udp = client.transport is Transport.UDP
    # RFC 5936 §4.2: there is no AXFR over UDP. RFC 1995 §3: an IXFR says what the asker has.
    if (udp and not incremental) or (incremental and query.serial is None):
        return Sections(Rcode.FORMERR), None
    if incremental:
        assert query.serial is not None
        now = transfer.serial_of(zone)
        # RFC 1995 §2, §4: the SOA alone says "nothing new", and over UDP "come by TCP".
        if udp or not transfer.is_newer(now, query.serial):
            return Sections(authoritative=True, answer=[zone.apex.rrsets[SOA]]), None
        deltas = transfer.since(snapshot.journals.get(zone.origin, ()), query.serial)
        if deltas is not None:
            return Sections(), transfer.changes_of(zone, deltas)
    return Sections(), transfer.records_of(zone, snapshot.fleet)


def _resolve(query: Query, asked: Asked, client: Client, snapshot: Snapshot, draw: int) -> Sections:
    question = query.question
    assert question is not None
    if question.qclass == CH:
        return _status(question, snapshot)
    prefix = asked.subnet.prefix if asked.subnet else None

    def steer(service: Steered, ipv6: bool) -> Decision:
        return decide(
            service,
            prefix or client.prefix,
            ipv6,
            snapshot.table,
            snapshot.outlook,
            snapshot.fleet,
            draw,
        )

    small = snapshot.options.minimal_any and client.transport is Transport.UDP
    dnssec = query.edns is not None and query.edns.dnssec_ok
    resolver = Resolver(snapshot.zones, steer, small, dnssec)
    return resolve(question.name, question.qtype, resolver)


def _status(question: Question, snapshot: Snapshot) -> Sections:
    """The rung and the table, as `rung=live generation=12`."""
    if question.qtype not in {TXT, ANY}:
        return Sections(authoritative=True)
    generation = snapshot.table.meta.generation if snapshot.table else 0
    text = f"rung={snapshot.rung} generation={generation}".encode()
    rdata = Rdata((bytes((len(text),)) + text,))
    return Sections(authoritative=True, answer=[RRset(question.name, TXT, 0, (rdata,))])


def _served(sections: Sections, asked: Asked, client: Client) -> Served | None:
    decision, service = sections.decision, sections.service
    if decision is None or service is None or decision.pop is None:
        return None
    prefix = (asked.subnet.prefix if asked.subnet else None) or client.prefix
    return Served(service.name, decision.pop, prefix, decision.row)


def _options(
    asked: Asked, sections: Sections, client: Client, snapshot: Snapshot, now_s: int
) -> list[tuple[int, bytes]]:
    """The options of the response: each only if it was asked for, but for the extended error."""
    given = []
    if asked.nsid and snapshot.options.nsid:
        given.append((_NSID, snapshot.options.nsid))
    if asked.cookie is not None and snapshot.options.secret is not None:
        cookie = cookies.reply(asked.cookie, client.address, snapshot.options.secret, now_s)
        given.append((cookies.OPTION, cookie))
    if asked.subnet is not None:
        scope = sections.decision.scope if sections.decision and asked.subnet.prefix else 0
        given.append((ecs.OPTION, asked.subnet.echo(scope)))
    if asked.keepalive and client.transport is Transport.TCP:
        given.append((_KEEPALIVE, (TCP_IDLE_S * 10).to_bytes(2, "big")))
    if sections.rcode is Rcode.REFUSED:
        given.append((_EDE, _EDE_NOT_AUTHORITATIVE.to_bytes(2, "big")))  # RFC 8914 §4.21
    return given


def _render(
    query: Query, sections: Sections, options: list[tuple[int, bytes]], client: Client, kept: int
) -> bytes:
    """The message, cut at an RRset's boundary where it must be (RFC 2181 §9); `kept` stays free."""
    opt = _opt(query, sections.rcode, options)
    limit = _bytes_max(query, client) - len(opt) - kept
    buffer = WireBuffer()
    buffer.append(bytes(HEADER_BYTES))
    counts = [0, 0, 0, 0]
    question = query.question
    # BIND repeats the question of queries alone.
    if question is not None and query.opcode == Opcode.QUERY:
        buffer.encode_name(DNSLabel(question.name))
        buffer.pack("!HH", question.qtype, question.qclass)
        counts[0] = 1
    qclass = question.qclass if question and question.qclass == CH else IN
    dnssec = query.edns is not None and query.edns.dnssec_ok
    whole = True
    for section, rrsets in enumerate((sections.answer, sections.authority, sections.glue), 1):
        for rrset in rrsets if whole else ():
            written = write_rrset(buffer, rrset, qclass, limit, dnssec)
            counts[section] += written
            whole = written > 0
            if not whole:
                break
    for rrset in sections.additional if whole else ():
        counts[3] += write_rrset(buffer, rrset, qclass, limit, dnssec)
    buffer.append(opt)
    counts[3] += bool(opt)
    flags = QR | query.opcode << OPCODE_SHIFT | sections.rcode & 0xF
    if query.opcode == Opcode.QUERY:
        flags |= query.flags & (RD | CD)
    flags |= (AA if sections.authoritative else 0) | (0 if whole else TC)
    header = WireBuffer()
    DNSHeader(query.id, flags, *counts).pack(header)
    return bytes(header.data) + bytes(buffer.data[HEADER_BYTES:])


def _bytes_max(query: Query, client: Client) -> int:
    if client.transport is Transport.TCP:
        return TCP_BYTES_MAX
    if query.edns is None:
        return UDP_BYTES_PLAIN
    # RFC 6891 §6.2.5: values below 512 are read as 512.
    return max(UDP_BYTES_PLAIN, min(query.edns.udp_bytes, UDP_BYTES_MAX))


def _opt(query: Query, rcode: Rcode, options: list[tuple[int, bytes]]) -> bytes:
    """The OPT record, where the query had one (RFC 6891 §6.1.1); DO as asked (RFC 3225 §3)."""
    if query.edns is None:
        return b""
    buffer = WireBuffer()
    EDNS0(
        ext_rcode=rcode >> 4,
        flags="do" if query.edns.dnssec_ok else "",
        udp_len=UDP_BYTES_MAX,
        opts=[EDNSOption(code, data) for code, data in options],
    ).pack(buffer)
    return bytes(buffer.data)


def write_rrset(buffer: WireBuffer, rrset: RRset, rclass: int, limit: int, dnssec: bool) -> int:
    """Append an RRset whole with its signatures, or nothing where it does not fit; records."""
    start = buffer.offset
    # RFC 4034 §3: a signature has the TTL of what it covers.
    signatures = [Rdata((one,)) for one in rrset.signatures] if dnssec else []
    for rtype, rdatas in ((rrset.rtype, rrset.rdatas), (RRSIG, signatures)):
        for rdata in rdatas:
            _write_record(buffer, rrset.owner, rtype, rclass, rrset.ttl_s, rdata)
            if buffer.offset > limit:
                buffer.cut(start)
                return 0
    return len(rrset.rdatas) + len(signatures)


def _write_record(
    buffer: WireBuffer, owner: Labels, rtype: int, rclass: int, ttl_s: int, rdata: Rdata
) -> None:
    """Append one record (RFC 1035 §4.1.3)."""
    buffer.encode_name(DNSLabel(owner))
    buffer.pack("!HHIH", rtype, rclass, ttl_s, 0)
    size_at = buffer.offset - 2
    rdata.pack(buffer)
    buffer.update(size_at, "!H", buffer.offset - size_at - 2)
