"""Any bytes at all: the parser ends, keeps its rules, and what is answered is a sound message."""

import struct
from typing import Any

import dns.exception
import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.config import Config, Dns, Pop, Service
from resolver.answer import Client, Transport, answer
from resolver.cookies import CookieSecret
from resolver.route import fleet_of
from resolver.snapshot import Options, Snapshot
from resolver.transfer import Secondary, Transfers
from resolver.wire import HEADER_BYTES, NAME_BYTES_MAX, FormatError, Rcode, parse, read_name
from resolver.zonefile import load_zones

EXAMPLES = 200
NOW_S = 1_700_000_000
ZONE = """
$ORIGIN cdn.example.
@ 60 SOA ns h 1 2 3 4 5
@ 60 NS ns
ns 60 A 192.0.2.53
*.wild 60 TXT "any"
old 60 DNAME new
alias 60 CNAME www
$GENERATE 1-90 many 60 A 10.0.0.$
"""

label = st.one_of(
    st.sampled_from([b"www", b"WWW", b"cdn", b"example", b"wild", b"old", b"many", b"alias"]),
    st.binary(min_size=1, max_size=63),
)
name = st.lists(label, max_size=6).map(
    lambda labels: b"".join(bytes((len(one),)) + one for one in labels) + b"\0"
)
served = name.map(lambda wire: wire[:-1] + b"\x03cdn\x07example\0")
pointer = st.integers(0, 0x3FFF).map(lambda at: struct.pack("!H", 0xC000 | at))
owner = st.one_of(served, name, pointer)
number = st.one_of(st.sampled_from([0, 1, 2, 41, 250, 251, 252, 255]), st.integers(0, 65_535))
option = st.tuples(st.sampled_from([3, 8, 10, 11, 12, 65_001]), st.binary(max_size=24)).map(
    lambda one: struct.pack("!HH", one[0], len(one[1])) + one[1]
)
rdata = st.one_of(st.binary(max_size=40), st.lists(option, max_size=4).map(b"".join))


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """A record, mostly OPT or TSIG, whose length may be a lie."""
    rtype = draw(st.sampled_from([41, 41, 41, 250, 6, 1]))
    at = b"\0" if rtype == 41 and draw(st.booleans()) else draw(owner)
    data = draw(rdata)
    size = len(data) if draw(st.booleans()) else draw(st.integers(0, 80))
    return (
        at + struct.pack("!HHIH", rtype, draw(number), draw(st.integers(0, 2**32 - 1)), size) + data
    )


@st.composite
def packets(draw: st.DrawFn) -> bytes:
    """A header, a question, some records; counts and tail may be wrong."""
    found = draw(st.lists(records(), max_size=3))
    flags = draw(st.one_of(st.sampled_from([0, 0x0100]), st.integers(0, 0xFFFF)))
    counts = draw(
        st.one_of(
            st.just((1, 0, 0, len(found))),
            st.tuples(*(st.sampled_from([0, 1, 2, 65_535]) for _ in range(4))),
        )
    )
    head = struct.pack("!6H", draw(number), flags, *counts)
    question = draw(owner) + struct.pack(
        "!HH", draw(number), draw(st.sampled_from([1, 1, 1, 3, 255]))
    )
    return head + question + b"".join(found) + draw(st.binary(max_size=4))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("zones")
    (folder / "cdn.example.zone").write_text(ZONE)
    config = Config(
        dns=Dns(zones=("cdn.example.zone",)),
        pop=(Pop(id="fra1", ipv4=("192.0.2.1",)),),
        service=(Service(name="www.cdn.example."),),
        folder=str(folder),
    )
    from ipaddress import ip_network

    transfers = Transfers((Secondary((ip_network("127.0.0.0/8"),), None),))
    options = Options(b"fuzz", CookieSecret(b"s" * 32))
    return Snapshot(load_zones(config), fleet_of(config), options, transfers=transfers)


def sound(data: bytes, wire: bytes, limit: int) -> None:
    """What holds for every answer."""
    assert len(wire) <= limit
    assert wire[:2] == data[:2]
    assert wire[2] & 0x80
    assert wire[3] & 0x80 == 0, "recursion is not offered"
    told = dns.message.from_wire(wire, keyring=False)
    assert bool(told.flags & dns.flags.TC) is False or limit < 65_535


@settings(max_examples=EXAMPLES)
@given(data=st.one_of(packets(), st.binary(max_size=600)), tcp=st.booleans())
def test_any_bytes_get_silence_or_a_sound_answer(
    snapshot: Snapshot, data: bytes, tcp: bool
) -> None:
    client = Client(b"\x7f\0\0\1", Transport.TCP if tcp else Transport.UDP)
    made = answer(data, client, snapshot, 0, NOW_S)
    if len(data) < HEADER_BYTES or data[2] & 0x80:
        assert made is None
        return
    assert made is not None
    wires = [made.wire, *made.more]
    assert len(wires) == 1 or tcp
    for wire in wires:
        sound(data, wire, 65_535 if tcp else 1_232)


@settings(max_examples=EXAMPLES)
@given(data=st.one_of(packets(), st.binary(max_size=600)))
def test_the_parser_keeps_its_rules(data: bytes) -> None:
    query = parse(data)
    if query is None:
        assert len(data) < HEADER_BYTES or data[2] & 0x80
        return
    if query.question is not None:
        assert sum(len(one) + 1 for one in query.question.name) + 1 <= NAME_BYTES_MAX
        assert all(1 <= len(one) <= 63 for one in query.question.name)
    if int.from_bytes(data[4:6], "big") > 1:
        assert query.rcode is Rcode.FORMERR
    if query.rcode is Rcode.FORMERR:
        assert query.edns is None or not query.edns.options  # RFC 6891 §7: an OPT is due
        assert query.tsig is None


@settings(max_examples=EXAMPLES)
@given(data=st.binary(max_size=300), start=st.integers(0, 300))
def test_a_name_is_what_dnspython_reads(data: bytes, start: int) -> None:
    """The twin is looser about pointers alone, so that ours may refuse more but never read else."""
    try:
        labels, end = read_name(data, start)
    except FormatError:
        return
    theirs, used = twin(data, start)
    assert (labels, end) == (theirs, start + used)


def twin(data: bytes, start: int) -> tuple[tuple[bytes, ...], int]:
    found: Any = dns.name.from_wire(data, start)
    return found[0].labels[:-1], found[1]
