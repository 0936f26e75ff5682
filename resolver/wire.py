"""DNS messages: strict reading of queries, writing of names and records (RFC 1035 §4).

Owns the syntax of messages and the buffer that names are written to. It never looks at zones.
Records and headers are dnslib's; names are not: dnslib refuses labels that are no UTF-8, reads
label lengths of 64 to 191 and writes compression pointers beyond 14 bits.
"""

import struct
from dataclasses import dataclass
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
_POINTERS_MAX = 128

QR, AA, TC, RD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0010
OPCODE_SHIFT = 11
OPT, TSIG = 41, 250
_CLASS_ANY, _BADKEY = 255, 17
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


class FormatError(Exception):
    """Bytes that are no message; it never leaves `parse`."""


class WireBuffer(DNSBuffer):  # type: ignore[misc]  # dnslib ships no types
    """dnslib's buffer with names as RFC 1035 §4.1.4 has them."""

    data: bytearray
    offset: int
    names: dict[Labels, int]

    def decode_name(self, last: int = -1) -> DNSLabel:  # noqa: ARG002 -- dnslib's signature
        """The name at the offset; pointers must go back, so the walk ends.

        Raises:
            FormatError: too long, cut off, or a pointer that does not go back.
        """
        labels, self.offset = read_name(bytes(self.data), self.offset)
        return DNSLabel(labels)

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
    """The signature of a query, as far as an answer needs it."""

    key: bytes
    """Name of the key, as octets."""
    algorithm: bytes
    time_and_fudge: bytes

    def bad_key(self, query_id: int) -> bytes:
        """The record that says that we do not have the key (RFC 8945 §5.2.1, §5.3.2)."""
        rdata = self.algorithm + self.time_and_fudge + struct.pack("!HHHH", 0, query_id, _BADKEY, 0)
        return self.key + struct.pack("!HHIH", TSIG, _CLASS_ANY, 0, len(rdata)) + rdata


@dataclass(frozen=True, slots=True)
class Query:
    """A message that is to be answered, whether it is well-formed or not."""

    id: int
    flags: int
    question: Question | None
    edns: Edns | None
    rcode: Rcode = Rcode.NOERROR
    """FORMERR where the message is malformed: what could be read stands in the other fields."""
    tsig: "Tsig | None" = None

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
    edns: Edns | None = None
    tsig: Tsig | None = None
    try:
        offset = HEADER_BYTES
        # RFC 9619 §4: more than one question is a format error; none is the caller's affair.
        if counts[0] > 1:
            raise FormatError
        if counts[0]:
            question, offset = _read_question(data, offset)
        edns, tsig = _read_records(data, offset, counts[1:])
    except (FormatError, struct.error):
        return Query(ident, flags, question, edns, Rcode.FORMERR)
    return Query(ident, flags, question, edns, Rcode.NOERROR, tsig)


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


def _read_records(data: bytes, offset: int, counts: list[int]) -> tuple[Edns | None, Tsig | None]:
    """OPT and TSIG; everything else must only be framed well."""
    edns: Edns | None = None
    tsig: Tsig | None = None
    for section, count in enumerate(counts):
        for _ in range(count):
            name, offset = read_name(data, offset)
            rtype, rclass, ttl, size = struct.unpack_from("!HHIH", data, offset)
            offset += 10
            rdata = data[offset : offset + size]
            offset += size
            # RFC 8945 §5.2: TSIG is the last record.
            if len(rdata) < size or tsig is not None:
                raise FormatError
            if rtype == OPT:
                # RFC 6891 §6.1.1: at most one, at the root, in the additional section.
                if edns is not None or name or section != 2:
                    raise FormatError
                edns = _read_edns(rclass, ttl, rdata)
            elif rtype == TSIG:
                if section != 2:
                    raise FormatError
                tsig = _read_tsig(name, rdata)
    return edns, tsig


def _read_tsig(key: Labels, rdata: bytes) -> Tsig:
    """RFC 8945 §4.2."""
    algorithm, offset = read_name(rdata, 0)
    time_and_fudge = rdata[offset : offset + 8]
    (mac_bytes,) = struct.unpack_from("!H", rdata, offset + 8)
    (other_bytes,) = struct.unpack_from("!H", rdata, offset + 10 + mac_bytes + 4)
    if len(rdata) != offset + 16 + mac_bytes + other_bytes:
        raise FormatError
    return Tsig(octets(key), octets(algorithm), time_and_fudge)


def _read_edns(rclass: int, ttl: int, rdata: bytes) -> Edns:
    options = []
    offset = 0
    while offset < len(rdata):
        code, size = struct.unpack_from("!HH", rdata, offset)
        offset += 4
        if offset + size > len(rdata):
            raise FormatError
        options.append((code, rdata[offset : offset + size]))
        offset += size
    return Edns(rclass, ttl >> 16 & 0xFF, bool(ttl & DO), tuple(options))
