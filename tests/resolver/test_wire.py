"""Names and messages: strict in, right out, whatever the bytes."""

import struct

import dnslib
import pytest
from dnslib.label import DNSLabel
from hypothesis import given
from hypothesis import strategies as st

from resolver.wire import FormatError, Rcode, WireBuffer, lower, octets, parse, read_name

labels = st.lists(st.binary(min_size=1, max_size=63), max_size=8).filter(
    lambda name: sum(len(label) + 1 for label in name) < 255
)


@given(st.lists(labels, max_size=6))
def test_names_come_back_as_they_were_written(names: list[list[bytes]]) -> None:
    buffer = WireBuffer()
    for name in names:
        buffer.encode_name(DNSLabel(name))
    offset = 0
    for name in names:
        read, offset = read_name(bytes(buffer.data), offset)
        assert read == tuple(name)
    assert offset == len(buffer.data)


def test_a_repeated_name_becomes_a_pointer_of_the_same_case() -> None:
    buffer = WireBuffer()
    for name in ([b"a", b"b"], [b"x", b"a", b"b"], [b"A", b"b"]):
        buffer.encode_name(DNSLabel(name))
    assert bytes(buffer.data) == b"\1a\1b\0" + b"\1x\xc0\0" + b"\1A\xc0\2"


def test_no_pointer_reaches_beyond_14_bits() -> None:
    buffer = WireBuffer()
    buffer.append(bytes(0x4000))
    for _ in range(2):
        buffer.encode_name(DNSLabel([b"late"]))
    assert bytes(buffer.data[0x4000:]) == b"\4late\0" * 2


def test_what_is_cut_off_is_pointed_to_no_more() -> None:
    buffer = WireBuffer()
    buffer.encode_name(DNSLabel([b"stay"]))
    start = buffer.offset
    buffer.encode_name(DNSLabel([b"gone"]))
    buffer.cut(start)
    buffer.encode_name(DNSLabel([b"gone"]))
    buffer.encode_name(DNSLabel([b"stay"]))
    assert bytes(buffer.data) == b"\4stay\0\4gone\0\xc0\0"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        b"\1a",
        b"\xc0",
        b"\xc0\0",
        b"\xc0\5",
        b"\x40" + b"a" * 64 + b"\0",
        b"\x80abc\0",
        (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0",
        b"\1a" * 128 + b"\0",
    ],
)
def test_a_malformed_name_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        read_name(data, 0)


def test_the_longest_name_is_taken() -> None:
    data = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    name, end = read_name(data, 0)
    assert (len(data), end) == (255, 255)
    assert octets(name) == data


@given(st.binary(max_size=80), st.integers(0, 79))
def test_any_bytes_are_a_name_or_an_error(data: bytes, offset: int) -> None:
    try:
        name, _ = read_name(data, offset)
    except FormatError:
        return
    assert len(octets(name)) <= 255


@given(st.binary(max_size=200))
def test_any_bytes_are_a_query_a_format_error_or_silence(data: bytes) -> None:
    query = parse(data)
    if len(data) < 12 or data[2] & 0x80:
        assert query is None
    else:
        assert query is not None
        assert query.id == int.from_bytes(data[:2], "big")
        assert query.rcode in {Rcode.NOERROR, Rcode.FORMERR}


def test_a_query_is_read_as_dnslib_writes_it() -> None:
    message = dnslib.DNSRecord.question("WwW.Example.", "AAAA")
    option = dnslib.EDNSOption(10, b"12345678")
    message.add_ar(dnslib.EDNS0(udp_len=4_096, flags="do", opts=[option]))
    query = parse(bytes(message.pack()))
    assert query is not None
    assert query.question is not None
    assert query.edns is not None
    assert query.question.name == (b"WwW", b"Example")
    assert query.question.key == lower((b"WWW", b"EXAMPLE"))
    assert (query.question.qtype, query.question.qclass) == (28, 1)
    assert (query.edns.udp_bytes, query.edns.dnssec_ok) == (4_096, True)
    assert query.edns.option(10) == b"12345678"


@pytest.mark.parametrize("count", [2, 3, 65_535])
def test_more_than_one_question_is_a_format_error(count: int) -> None:
    question = b"\1a\0\0\1\0\1"
    query = parse(struct.pack("!6H", 7, 0, count, 0, 0, 0) + question * min(count, 3))
    assert query is not None
    assert query.rcode is Rcode.FORMERR


def opt(data: bytes, version: int = 0) -> bytes:
    return b"\0" + struct.pack("!HHBBHH", 41, 1_232, 0, version, 0x8000, len(data)) + data


@pytest.mark.parametrize("data", [b"\0", b"\0\3\0", b"\0\3\0\2a", b"\0\3\0\0\0\x0a\0\1"])
def test_malformed_options_are_a_format_error_of_a_client_with_edns(data: bytes) -> None:
    head = struct.pack("!6H", 7, 0, 1, 0, 0, 1) + b"\1a\0\0\1\0\1"
    query = parse(head + opt(data))
    assert query is not None
    assert query.edns is not None
    assert (query.rcode, query.edns.options) == (Rcode.FORMERR, ())
    newer = parse(head + opt(data, version=1))
    assert newer is not None
    assert newer.rcode is Rcode.NOERROR  # BADVERS is said before anybody looks at them


@pytest.mark.parametrize(
    ("opcode", "qclass", "rtype", "rclass", "rcode"),
    [
        (0, 1, 1, 1, Rcode.NOERROR),
        (0, 1, 1, 3, Rcode.FORMERR),
        (0, 255, 1, 3, Rcode.NOERROR),
        (0, 1, 24, 255, Rcode.NOERROR),
        (5, 1, 1, 254, Rcode.NOERROR),
    ],
)
def test_records_of_a_query_are_of_its_class(
    opcode: int, qclass: int, rtype: int, rclass: int, rcode: Rcode
) -> None:
    head = (
        struct.pack("!6H", 7, opcode << 11, 1, 0, 0, 1) + b"\1a\0\0\1" + qclass.to_bytes(2, "big")
    )
    query = parse(head + b"\0" + struct.pack("!HHIH", rtype, rclass, 0, 0))
    assert query is not None
    assert query.rcode is rcode
