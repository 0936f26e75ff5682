"""Queries in, responses out: written by dnslib or by hand, read by dnspython."""

import struct
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dnslib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from popsteer.names import Prefix, prefix_arrays
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, Table, TableMeta, build
from resolver.answer import UDP_BYTES_MAX, Answer
from resolver.cookies import CookieSecret, valid
from resolver.snapshot import Options, Rung, Snapshot

Ask = Callable[..., Answer | None]
NOW_S = 1_700_000_000


def query(name: str, rtype: str = "A", **options: Any) -> bytes:
    return dns.message.make_query(name, rtype, **options).to_wire()


def generic(code: int, data: bytes) -> dns.edns.GenericOption:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


def told(answer: Answer | None) -> dns.message.Message:
    assert answer is not None
    dnslib.DNSRecord.parse(answer.wire)  # a second reader
    return dns.message.from_wire(answer.wire)


def records(section: list[Any]) -> list[str]:
    return sorted(
        f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {rdata}"
        for rrset in section
        for rdata in rrset
    )


def table_of(rows: dict[str, str]) -> Table:
    """A table of single POPs over fra1 and nyc1."""
    pops = ("fra1", "nyc1")
    net, plen = prefix_arrays(Prefix.parse(text) for text in rows)
    pop = np.full((len(rows), CANDIDATES_MAX), NO_POP, np.uint16)
    pop[:, 0] = [pops.index(name) for name in rows.values()]
    share = np.zeros((len(rows), CANDIDATES_MAX), np.uint8)
    share[:, 0] = 255
    rtt = np.full((len(rows), CANDIDATES_MAX), NO_RTT, np.uint16)
    return build(TableMeta(generation=4, default=("nyc1",)), pops, net, plen, pop, share, rtt)


SOA = "cdn.example. {} SOA ns1.cdn.example. hostmaster.cdn.example. 2024010101 7200 900 1209600 300"


def sections_of(text: str) -> dict[str, dict[str, list[str]]]:
    """What the golden file says: question and response code to records by section."""
    cases: dict[str, dict[str, list[str]]] = {}
    question = ""
    for line in text.splitlines():
        if line.startswith(" "):
            section, record = line.strip().split(" ", 1)
            cases[question].setdefault(section, []).append(record)
        elif line and not line.startswith("#"):
            question = line
            cases[question] = {}
    return cases


def test_the_sections_of_answers(ask: Ask, data: Path) -> None:
    expected = sections_of((data / "sections.txt").read_text())
    assert len(expected) > 20
    got = {}
    for question in expected:
        name, rtype, _ = question.split()
        full = "cdn.example." if name == "@" else f"{name}.cdn.example."
        message = told(ask(query(full, rtype)))
        sections = {
            "answer": records(message.answer),
            "authority": records(message.authority),
            "additional": records(message.additional),
        }
        rcode = dns.rcode.to_text(message.rcode())
        got[f"{name} {rtype} {rcode}"] = {s: found for s, found in sections.items() if found}
        assert bool(message.flags & dns.flags.AA) == (name != "h.sub")
    assert got == expected


def test_the_cut_answers_ds_itself_and_refers_everything_else(ask: Ask) -> None:
    ds = told(ask(query("sub.cdn.example.", "DS")))
    assert ds.flags & dns.flags.AA
    assert len(ds.answer) == 1
    ns = told(ask(query("sub.cdn.example.", "NS")))
    assert not ns.flags & dns.flags.AA
    assert (len(ns.answer), len(ns.authority)) == (0, 1)


def test_names_outside_the_zones_are_refused_without_authority(ask: Ask) -> None:
    message = told(ask(query("www.elsewhere.test.", use_edns=0)))
    assert dns.rcode.to_text(message.rcode()) == "REFUSED"
    assert not message.flags & dns.flags.AA
    assert not message.authority
    assert [int(option.otype) for option in message.options] == [15]


def test_the_question_keeps_its_case_and_its_flags(ask: Ask) -> None:
    asked = dns.message.make_query("wWw.CdN.eXample.", "A")
    asked.flags |= dns.flags.CD | dns.flags.AD
    answer = ask(asked.to_wire())
    assert answer is not None
    assert b"\3wWw\3CdN\7eXample\0" in answer.wire
    flags = told(answer).flags
    assert flags & dns.flags.RD
    assert flags & dns.flags.CD
    assert not flags & (dns.flags.RA | dns.flags.AD)


def test_steering_follows_the_client_subnet_with_its_scope(ask: Ask, snapshot: Snapshot) -> None:
    on = replace(snapshot, table=table_of({"198.51.100.0/22": "fra1", "2001:db8:5::/48": "nyc1"}))
    for subnet, bits, address, scope in [
        ("198.51.101.0", 24, "192.0.2.1", 22),
        ("198.51.104.0", 24, "192.0.2.2", 21),
        ("2001:db8:5:100::", 56, "192.0.2.2", 48),
        ("198.51.101.0", 0, "192.0.2.2", 0),
    ]:
        option = dns.edns.ECSOption(subnet, bits)
        message = told(ask(query("www.cdn.example.", options=[option]), on=on))
        assert message.answer[0][0].address == address
        (echo,) = message.options
        assert isinstance(echo, dns.edns.ECSOption)
        assert (echo.srclen, echo.scopelen) == (bits, scope)


def test_without_a_subnet_the_resolver_itself_is_looked_up(ask: Ask, snapshot: Snapshot) -> None:
    on = replace(snapshot, table=table_of({"198.51.100.0/22": "fra1", "2001:db8:5::/48": "fra1"}))
    for packed, address in [
        (bytes((198, 51, 101, 1)), "192.0.2.1"),
        (bytes((198, 51, 200, 1)), "192.0.2.2"),
        (bytes.fromhex("20010db8000500000000000000000001"), "192.0.2.1"),
    ]:
        answer = ask(query("www.cdn.example.", use_edns=0), on=on, address=packed)
        assert told(answer).answer[0][0].address == address
        assert not told(answer).options


@pytest.mark.parametrize("name", ["mail.cdn.example.", "nope.cdn.example.", "www.cdn.example."])
def test_the_scope_is_0_where_the_answer_is_the_same_for_all(ask: Ask, name: str) -> None:
    (echo,) = told(ask(query(name, options=[dns.edns.ECSOption("198.51.100.0", 24)]))).options
    assert isinstance(echo, dns.edns.ECSOption)
    assert echo.scopelen == 0


def test_with_ecs_off_the_option_is_not_known(ask: Ask, snapshot: Snapshot) -> None:
    on = replace(snapshot, options=Options(ecs=False))
    for data in (b"\0\1\x18\0\xc6\x33\x64", b"\0\3"):
        option = generic(8, data)
        message = told(ask(query("www.cdn.example.", options=[option]), on=on))
        assert (message.rcode(), message.options) == (dns.rcode.NOERROR, ())


def test_disjoint_scopes(ask: Ask, snapshot: Snapshot) -> None:
    """No client lies in the scopes of two different answers (RFC 7871 §7.2.1)."""
    table = table_of({"198.51.96.0/19": "fra1", "198.51.100.0/24": "nyc1", "198.51.0.0/20": "nyc1"})
    on = replace(snapshot, table=table)
    seen: dict[tuple[int, int], str] = {}
    for third in range(256):
        option = dns.edns.ECSOption(f"198.51.{third}.0", 24)
        message = told(ask(query("www.cdn.example.", options=[option]), on=on))
        (echo,) = message.options
        assert isinstance(echo, dns.edns.ECSOption)
        net = 198 << 24 | 51 << 16 | third << 8
        scope = echo.scopelen
        block = (net >> (32 - scope), scope)
        assert seen.setdefault(block, message.answer[0][0].address) == message.answer[0][0].address
    blocks = sorted((start << (32 - bits), bits) for start, bits in seen)
    for (one, bits), (other, _) in pairwise(blocks):
        assert one + (1 << (32 - bits)) <= other


def header(flags: int = 0x0100, counts: tuple[int, ...] = (1, 0, 0, 0)) -> bytes:
    return struct.pack("!6H", 0x1234, flags, *counts)


QUESTION = b"\4mail\3cdn\7example\0\0\1\0\1"


def opt(options: bytes = b"", version: int = 0, size: int = 1_232) -> bytes:
    return b"\0" + struct.pack("!HHBBHH", 41, size, 0, version, 0, len(options)) + options


def option(code: int, data: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(data)) + data


@pytest.mark.parametrize(
    ("message", "rcode"),
    [
        (header(counts=(0, 0, 0, 0)), 1),
        (header(), 1),
        (header(counts=(2, 0, 0, 0)) + QUESTION * 2, 1),
        (header(counts=(1, 0, 0, 1)) + QUESTION, 1),
        (header(counts=(1, 0, 0, 2)) + QUESTION + opt() * 2, 1),
        (header(counts=(1, 1, 0, 0)) + QUESTION + opt(), 1),
        (header(counts=(1, 0, 0, 1)) + QUESTION + opt(b"\0\3\0\5x"), 1),
        (header(counts=(1, 0, 0, 1)) + QUESTION + opt(option(10, b"short")), 1),
        (header(counts=(1, 0, 0, 1)) + QUESTION + opt(option(8, b"\0\1\x18\0\1\2")), 1),
        (header(counts=(1, 0, 0, 1)) + QUESTION + opt(version=1), 16),
        (header(counts=(1, 0, 0, 1)) + QUESTION + opt(option(8, b"bad"), version=1), 16),
        (header() + QUESTION[:-4] + b"\0\xfb\0\1", 9),
        (header() + QUESTION[:-4] + b"\0\xfc\0\1", 9),
        (header() + QUESTION[:-4] + b"\0\xfd\0\1", 4),
        (header() + QUESTION[:-4] + b"\0\xfa\0\1", 1),
        (header() + QUESTION[:-4] + b"\0\x29\0\1", 1),
        (header() + QUESTION[:-2] + b"\0\xff", 1),
        (header() + QUESTION[:-2] + b"\0\2", 4),
        (header() + QUESTION[:-2] + b"\0\3", 5),
        (header() + QUESTION + b"trailing", 0),
        (header(flags=0x07FF) + QUESTION, 0),
        *((header(flags=number << 11) + QUESTION, 4) for number in range(1, 16)),
        *((header(flags=number << 11, counts=(0, 0, 0, 0)), 4) for number in range(1, 16)),
    ],
)
def test_the_response_code_of_odd_queries(ask: Ask, message: bytes, rcode: int) -> None:
    answer = ask(message)
    assert answer is not None
    assert answer.rcode == rcode
    got = dns.message.from_wire(answer.wire)
    assert (got.id, got.rcode()) == (0x1234, rcode)
    assert got.opcode() == (message[2] >> 3 & 0xF)
    assert not got.flags & (dns.flags.RA | dns.flags.TC | dns.flags.AD)
    assert not answer.wire[3] & 0x40
    if rcode:
        assert not got.answer
        assert not got.flags & dns.flags.AA


@pytest.mark.parametrize("data", [b"", b"\0" * 11, header(flags=0x8000) + QUESTION])
def test_silence(ask: Ask, data: bytes) -> None:
    assert ask(data) is None


def test_version_of_chaos_is_hidden_and_the_status_is_for_this_machine(
    ask: Ask, snapshot: Snapshot
) -> None:
    for name in ("version.bind.", "hostname.bind.", "id.server.", "version.server."):
        hidden = told(ask(query(name, "TXT", rdclass="CH")))
        assert dns.rcode.to_text(hidden.rcode()) == "REFUSED"
    on = replace(snapshot, rung=Rung.LIVE, table=table_of({"198.51.100.0/24": "fra1"}))
    status = query("status.popsteer.", "TXT", rdclass="CH")
    assert str(told(ask(status, on=on)).answer[0][0]) == '"rung=live generation=4"'
    elsewhere = ask(status, on=on, address=b"\xc6\x33\x64\1")
    assert dns.rcode.to_text(told(elsewhere).rcode()) == "REFUSED"


def test_edns_is_answered_with_edns_and_only_with_what_was_asked(
    ask: Ask, secret: CookieSecret
) -> None:
    plain = told(ask(query("mail.cdn.example.")))
    assert plain.edns == -1
    bare = told(ask(query("mail.cdn.example.", use_edns=0, want_dnssec=True)))
    assert (bare.edns, bare.payload, bare.options) == (0, UDP_BYTES_MAX, ())
    assert bare.ednsflags == dns.flags.DO
    options = [
        generic(3, b""),
        generic(10, b"12345678"),
        generic(65_001, b"unknown"),
    ]
    full = told(ask(query("mail.cdn.example.", options=options)))
    by_code = {int(one.otype): one.to_wire() for one in full.options}
    assert set(by_code) == {3, 10}
    assert by_code[3] == b"node-1"
    cookie = by_code[10]
    assert cookie is not None
    assert valid(cookie, b"\x7f\0\0\1", secret, NOW_S)


@pytest.mark.parametrize(
    ("tail", "rcode"),
    [(b"", 0), (b"g" * 16, 23), (b"\1\0\0\0" + NOW_S.to_bytes(4, "big") + b"x" * 8, 23)],
)
def test_without_a_question_a_cookie_is_judged(ask: Ask, tail: bytes, rcode: int) -> None:
    asked = header(counts=(0, 0, 0, 1)) + opt(option(10, b"12345678" + tail))
    message = told(ask(asked))
    assert (message.rcode(), message.question) == (rcode, [])
    (cookie,) = message.options
    fresh = cookie.to_wire()
    assert fresh is not None
    again = told(ask(header(counts=(0, 0, 0, 1)) + opt(option(10, fresh))))
    assert again.rcode() == dns.rcode.NOERROR


def test_a_cookie_can_be_fetched_without_a_question(ask: Ask) -> None:
    answer = ask(header(counts=(0, 0, 0, 1)) + opt(option(10, b"12345678")))
    message = told(answer)
    assert (message.rcode(), message.question) == (dns.rcode.NOERROR, [])
    assert len(message.options) == 1


def test_udp_is_cut_at_an_rrset_and_tcp_is_whole(ask: Ask) -> None:
    for size, edns, limit in [(0, -1, 512), (100, 0, 512), (1_000, 0, 1_000), (4_096, 0, 1_232)]:
        answer = ask(query("many.cdn.example.", use_edns=edns, payload=size))
        message = told(answer)
        assert answer is not None
        assert len(answer.wire) <= limit
        assert message.flags & dns.flags.TC
        assert not message.answer
        assert message.edns == edns
    whole = told(ask(query("many.cdn.example."), tcp=True))
    assert len(whole.answer[0]) == 80
    assert not whole.flags & dns.flags.TC


def test_any_is_one_rrset_over_udp_and_all_over_tcp(ask: Ask, snapshot: Snapshot) -> None:
    assert len(told(ask(query("cdn.example.", "ANY", use_edns=0))).answer) == 1
    assert len(told(ask(query("cdn.example.", "ANY"), tcp=True)).answer) == 5
    steered = told(ask(query("www.cdn.example.", "ANY")))
    assert records(steered.answer)[0] == "www.cdn.example. 20 A 192.0.2.1"
    everything = replace(snapshot, options=Options(minimal_any=False))
    assert len(told(ask(query("cdn.example.", "ANY", use_edns=0), on=everything)).answer) == 5


def test_a_dname_that_would_grow_too_long_is_yxdomain(ask: Ask) -> None:
    fits, grows = (".".join(["a" * 63] * 3 + ["b" * n]) + ".grow.cdn.example." for n in (9, 40))
    assert told(ask(query(fits))).rcode() == dns.rcode.NXDOMAIN
    too_long = told(ask(query(grows)))
    assert too_long.rcode() == dns.rcode.YXDOMAIN
    assert [rrset.rdtype for rrset in too_long.answer] == [dns.rdatatype.DNAME]


def test_a_signed_query_hears_that_its_key_is_not_known(ask: Ask) -> None:
    import dns.tsig
    import dns.tsigkeyring

    message = dns.message.make_query("mail.cdn.example.", "A")
    message.use_tsig(dns.tsigkeyring.from_text({"key.": "c2VjcmV0"}), "key.")
    answer = ask(message.to_wire())
    assert answer is not None
    record = dnslib.DNSRecord.parse(answer.wire)
    assert (record.header.rcode, record.ar[-1].rtype) == (9, 250)
    assert answer.wire[-4:-2] == b"\0\x11"  # BADKEY


def test_served_is_told_for_steered_answers_alone(ask: Ask) -> None:
    steered, static = ask(query("towww.cdn.example.")), ask(query("mail.cdn.example."))
    assert steered is not None
    assert steered.served is not None
    assert (steered.served.pop, steered.served.service) == ("fra1", "www.cdn.example.")
    assert static is not None
    assert static.served is None


NAMES = [
    *("mail", "www", "towww", "loop1", "q.wild", "x.old", "h.sub", "many", "big", "c.ent", "nope"),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A query with a few octets changed, cut or added."""
    name = draw(st.sampled_from(NAMES)) + ".cdn.example."
    rtype = draw(st.sampled_from(["A", "AAAA", "ANY", "HTTPS", "MX", "TXT", "SOA", "DS"]))
    options = [dns.edns.ECSOption("198.51.100.0", 24), generic(10, b"12345678")]
    data = bytearray(query(name, rtype, options=options[: draw(st.integers(0, 2))]))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=120), mutated()), st.booleans())
def test_any_bytes_get_a_sound_answer_or_silence(ask: Ask, data: bytes, tcp: bool) -> None:
    answer = ask(data, tcp=tcp)
    if answer is None:
        assert len(data) < 12 or data[2] & 0x80
        return
    assert tcp or len(answer.wire) <= UDP_BYTES_MAX
    assert answer.wire[:2] == data[:2]
    assert answer.wire[2] & 0x80
    if answer.wire[-4:-2] != b"\0\x11":  # dnspython refuses to read what TSIG signs
        dns.message.from_wire(answer.wire)


def test_a_halted_service_is_servfail_and_the_rest_of_the_zone_is_not(
    ask: Ask, snapshot: Snapshot
) -> None:
    halted = replace(snapshot, zones=snapshot.zones.halted())
    for rtype in ("A", "AAAA", "ANY"):
        said = told(ask(query("www.cdn.example.", rtype), on=halted))
        assert (said.rcode(), said.answer, said.authority) == (dns.rcode.SERVFAIL, [], [])
    assert told(ask(query("www.cdn.example.", "TXT"), on=halted)).rcode() == dns.rcode.NOERROR
    assert told(ask(query("cdn.example.", "NS"), on=halted)).answer
