"""DNS messages: strict reading of queries, writing of names and records (RFC 1035 §4).

Owns the syntax of messages and the buffer that names are written to. It never looks at zones.
Records and headers are dnslib's; names are not: dnslib refuses labels that are no UTF-8, reads
label lengths of 64 to 191 and writes compression pointers beyond 14 bits.
"""

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from dnslib.label import DNSBuffer, DNSLabel

Labels = tuple[bytes, ...]
"""A name as written: its labels without the root."""
Key = tuple[bytes, ...]
"""A name as compared: lower case (RFC 4343)."""

NAME_BYTES_MAX = 255
LABEL_BYTES_MAX = 63
HEADER_BYTES = 12
_POINTER_MAX = 0x3FFF

QR, AA, TC, RD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0010
OPCODE_SHIFT = 11
OPT, TSIG = 41, 250
_SOA, _CLASS_ANY = 6, 255
_OF_ANY_CLASS = frozenset({24, 25, 249})
"""SIG (RFC 2931 §3), KEY and TKEY (RFC 2930 §2)."""
_SOA_TAIL_BYTES = 20
DO = 0x8000


class Opcode(IntEnum):
    """RFC 6895 §2.2; the only one that is answered."""

    QUERY = 0


class Rcode(IntEnum):
    """RFC 6895 §2.3, as far as an authoritative server says them."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    YXDOMAIN = 6
    NOTAUTH = 9
    BADVERS = 16
    BADCOOKIE = 23


class FormatError(Exception):
    """Bytes that are no message; it never leaves `parse`."""


class WireBuffer(DNSBuffer):  # type: ignore[misc]  # dnslib ships no types
    """dnslib's buffer with names as RFC 1035 §4.1.4 has them."""

    data: bytearray
    offset: int
    names: dict[Labels, int]

    def encode_name(self, name: DNSLabel) -> None:
        """Write a name; what stands in the message already becomes a pointer.

        The match is by exact octets, so that each name keeps the case it has (as BIND does).
        """
        labels = name.label
        for depth in range(len(labels)):
            known = self.names.get(labels[depth:])
            if known is not None:
                self.pack("!H", 0xC000 | known)
                return
            if self.offset <= _POINTER_MAX:
                self.names[labels[depth:]] = self.offset
            self.append(bytes((len(labels[depth]),)) + labels[depth])
        self.append(b"\0")

    def cut(self, offset: int) -> None:
        """Take back all that was written from `offset` on."""
        del self.data[offset:]
        self.offset = offset
        self.names = {name: at for name, at in self.names.items() if at < offset}


@dataclass(frozen=True, slots=True)
class Question:
    """RFC 1035 §4.1.2."""

    name: Labels
    """In the case of the query, which the answer repeats."""
    qtype: int
    qclass: int

    @property
    def key(self) -> Key:
        """The name as compared."""
        return lower(self.name)


@dataclass(frozen=True, slots=True)
class Edns:
    """The OPT record of a query (RFC 6891 §6.1)."""

    udp_bytes: int
    version: int
    dnssec_ok: bool
    options: tuple[tuple[int, bytes], ...]

    def option(self, code: int) -> bytes | None:
        """Data of the first option of a code."""
        return next((data for c, data in self.options if c == code), None)


@dataclass(frozen=True, slots=True)
class Tsig:
    """The TSIG record of a query (RFC 8945 §4.2); what it says is `resolver.tsig`'s to judge."""

    key: Labels
    """Its owner: the name of the key."""
    rdata: bytes
    start: int
    """Where the record begins in the message."""


@dataclass(frozen=True, slots=True)
class Query:
    """A message that is to be answered, whether it is well-formed or not."""

    id: int
    flags: int
    question: Question | None
    edns: Edns | None
    rcode: Rcode = Rcode.NOERROR
    """FORMERR where the message is malformed: what could be read stands in the other fields."""
    tsig: Tsig | None = None
    serial: int | None = None
    """Of the SOA in the authority section: what the asker of an IXFR has (RFC 1995 §3)."""

    @property
    def opcode(self) -> int:
        """RFC 6895 §2.2."""
        return self.flags >> OPCODE_SHIFT & 0xF


def lower(labels: Labels) -> Key:
    """A name as compared."""
    return tuple(label.lower() for label in labels)


def octets(labels: Labels) -> bytes:
    """A name without compression."""
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def parse(data: bytes) -> Query | None:
    """The query in a message; None for what must not be answered: shorter than a header, or QR=1.

    A response is never answered, or two servers would talk for ever (RFC 1035 §7.1 is silent,
    every server obeys). Octets behind the last record are ignored, as BIND does.
    """
    if len(data) < HEADER_BYTES:
        return None
    ident, flags, *counts = struct.unpack_from("!6H", data)
    if flags & QR:
        return None
    question: Question | None = None
    records = _Records()
    try:
        offset = HEADER_BYTES
        # RFC 9619 §4: more than one question is a format error; none is the caller's affair.
        if counts[0] > 1:
            raise FormatError
        if counts[0]:
            question, offset = _read_question(data, offset)
        if flags >> OPCODE_SHIFT & 0xF == Opcode.QUERY:
            records.rclass = question.qclass if question else None
        _read_records(data, offset, counts[1:], records)
    except (FormatError, struct.error):
        return Query(ident, flags, question, records.broken, Rcode.FORMERR)
    return Query(ident, flags, question, records.edns, Rcode.NOERROR, records.tsig, records.serial)


def read_name(data: bytes, offset: int) -> tuple[Labels, int]:
    """The name at an offset and where it ends (RFC 1035 §4.1.4).

    Raises:
        FormatError: longer than 255 octets, cut off, or a pointer that does not go back.
    """
    labels: list[bytes] = []
    size, end, lowest = 1, 0, offset
    while True:
        if offset >= len(data):
            raise FormatError
        length = data[offset]
        if length >= 0xC0:
            if offset + 1 >= len(data):
                raise FormatError
            end = end or offset + 2
            offset = (length & 0x3F) << 8 | data[offset + 1]
            # Each jump goes below all before: the walk is finite.
            if offset >= lowest:
                raise FormatError
            lowest = offset
        elif length > LABEL_BYTES_MAX:
            raise FormatError
        elif not length:
            return tuple(labels), end or offset + 1
        else:
            size += length + 1
            if size > NAME_BYTES_MAX or offset + 1 + length > len(data):
                raise FormatError
            labels.append(data[offset + 1 : offset + 1 + length])
            offset += 1 + length


def _read_question(data: bytes, offset: int) -> tuple[Question, int]:
    name, offset = read_name(data, offset)
    qtype, qclass = struct.unpack_from("!HH", data, offset)
    return Question(name, qtype, qclass), offset + 4


@dataclass(slots=True)
class _Records:
    """What the records behind the question say."""

    edns: Edns | None = None
    tsig: Tsig | None = None
    serial: int | None = None
    broken: Edns | None = None
    """An OPT whose options are malformed: the FORMERR has an OPT, too (RFC 6891 §7)."""
    rclass: int | None = None
    """The class that all records of a query have; None is any."""


def _read_records(data: bytes, offset: int, counts: list[int], found: _Records) -> None:
    """OPT, TSIG and an IXFR's SOA; everything else must only be framed well."""
    for section, count in enumerate(counts):
        for _ in range(count):
            start = offset
            name, offset = read_name(data, offset)
            rtype, rclass, ttl, size = struct.unpack_from("!HHIH", data, offset)
            offset += 10
            rdata = data[offset : offset + size]
            offset += size
            # RFC 8945 §5.1: TSIG is the last record.
            if len(rdata) < size or found.tsig is not None:
                raise FormatError
            if rtype == OPT:
                # RFC 6891 §6.1.1: at most one, at the root, in the additional section.
                if found.edns is not None or name or section != 2:
                    raise FormatError
                found.broken = Edns(rclass, ttl >> 16 & 0xFF, bool(ttl & DO), ())
                # RFC 6891 §6.1.3: what another version has there is unknown.
                options = () if found.broken.version else _read_options(rdata)
                found.edns, found.broken = replace(found.broken, options=options), None
            elif rtype == TSIG:
                # RFC 8945 §4.2: its class is ANY.
                if section != 2 or rclass != _CLASS_ANY:
                    raise FormatError
                found.tsig = _read_tsig(name, rdata, start)
            elif found.rclass not in {None, _CLASS_ANY, rclass} and rtype not in _OF_ANY_CLASS:
                raise FormatError
            elif rtype == _SOA and section == 1 and size >= _SOA_TAIL_BYTES:
                found.serial = int.from_bytes(rdata[-_SOA_TAIL_BYTES:][:4], "big")


def _read_tsig(key: Labels, rdata: bytes, start: int) -> Tsig:
    """RFC 8945 §4.2."""
    _, offset = read_name(rdata, 0)
    (mac_bytes,) = struct.unpack_from("!H", rdata, offset + 8)
    (other_bytes,) = struct.unpack_from("!H", rdata, offset + 10 + mac_bytes + 4)
    if len(rdata) != offset + 16 + mac_bytes + other_bytes:
        raise FormatError
    return Tsig(key, rdata, start)


def _read_options(rdata: bytes) -> tuple[tuple[int, bytes], ...]:
    options = []
    offset = 0
    while offset < len(rdata):
        code, size = struct.unpack_from("!HH", rdata, offset)
        offset += 4
        if offset + size > len(rdata):
            raise FormatError
        options.append((code, rdata[offset : offset + size]))
        offset += size
    return tuple(options)
