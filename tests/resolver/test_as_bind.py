"""Where RFCs leave room we answer as BIND does: the same packets to both, the answers compared.

named runs on a loopback port with the same zone. What is compared is what a resolver acts on:
flags, response code, question, records, EDNS. The few differences that we mean stand in `MEANT`.
"""

import json
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.zone
import pytest

from resolver.answer import Answer

Ask = Callable[..., Answer | None]
DEADLINE_S = 20
ZONE = "cdn.example."

CONF = """
options {{
    directory "{folder}"; pid-file none; session-keyfile none; recursion no;
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    allow-transfer {{ none; }}; notify no; dnssec-validation no; check-names primary ignore;
    minimal-responses no-auth; minimal-any yes; max-udp-size 1232; edns-udp-size 1232;
    server-id "node-1"; version none; hostname none;
}};
controls {{ }};
zone "cdn.example" {{ type primary; file "{data}/cdn.example.zone"; }};
zone "wide.example" {{ type primary; file "{data}/wide.example.zone"; }};
zone "near.wide.test" {{ type primary; file "{data}/near.wide.test.zone"; }};
"""

MEANT = {
    "opcode 4": "NOTIFY is not implemented: this server is nobody's secondary",
    "opcode 5": "UPDATE is not implemented",
    "two types": "BIND repeats both questions of a query that it refuses for having two",
    "version 1 malformed": "BIND reads options of a version that it does not know",
    "option cut off": "an OPT is due in this FORMERR (RFC 6891 §7), BIND leaves it out",
    "option without length": "the same",
    "wrong server cookie alone": "RFC 7873 §5.4 says BADCOOKIE, BIND NOERROR",
    "scope": "BIND leaves OPT out of this FORMERR alone",
}


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[int]:
    """The port of a running BIND."""
    program = shutil.which("named", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if program is None:
        pytest.skip("named (BIND 9) is not installed")
    folder = tmp_path_factory.mktemp("named")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    (folder / "named.conf").write_text(CONF.format(folder=folder, port=port, data=data))
    command = [program, "-g", "-n", "1", "-c", str(folder / "named.conf")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while b" running\n" not in (text := (folder / "log").read_bytes()):
            assert process.poll() is None, text.decode()
            assert time.monotonic() < deadline, text.decode()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def by_udp(port: int, packet: bytes) -> bytes | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect(("127.0.0.1", port))
        client.send(packet)
        return client.recv(65_535)


def by_tcp(port: int, packet: bytes) -> bytes | None:
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(struct.pack("!H", len(packet)) + packet)
        stream = client.makefile("rb")
        with stream:
            return stream.read(int.from_bytes(stream.read(2), "big"))


def essence(wire: bytes | None) -> dict[str, Any]:
    """What a resolver acts on."""
    assert wire is not None
    message = dns.message.from_wire(wire, keyring=False)

    def records(section: list[Any]) -> list[str]:
        # BIND gives owners the zone's case, we the question's.
        return sorted(
            f"{str(rrset.name).lower()} {rrset.ttl} {rrset.rdtype} {rdata}"
            for rrset in section
            for rdata in rrset
        )

    return {
        "flags": wire[2:4].hex(),
        "rcode": dns.rcode.to_text(message.rcode()),
        "question": [str(one) for one in message.question],
        "answer": records(message.answer),
        "authority": records(message.authority),
        "additional": records(message.additional),
        "edns": (message.edns, int(message.payload), message.ednsflags & 0xFFFF),
        # We say why we refuse (RFC 8914), BIND here does not.
        "options": sorted(int(one.otype) for one in message.options if one.otype != 15),
    }


def compare(ask: Ask, port: int, label: str, packet: bytes, tcp: bool) -> list[str]:
    """What differs, in words."""
    answer = ask(packet, tcp=tcp)
    bind = essence((by_tcp if tcp else by_udp)(port, packet))
    ours = essence(answer.wire if answer else None)
    if bind["flags"] == ours["flags"] and int(bind["flags"], 16) & 0x0200:
        # BIND fills a cut answer with a part of an RRset, we never cut one.
        del bind["answer"]
    return [
        f"{label}{' tcp' if tcp else ''}: {key}: BIND {bind[key]}, ours {ours[key]}"
        for key in bind
        if bind[key] != ours[key]
    ]


NAMES = [
    *("@", "ns1", "mail", "alias", "alias2", "ext", "dangling", "loop1", "x.wild", "x.y.wild"),
    *("exact.wild", "z.exact.wild", "exact2.wild", "under.exact2.wild", "wild", "x.wildcname"),
    *("ent", "b.c.ent", "a.b.c.ent", "n.c.ent", "sub", "h.sub", "ns.sub", "tocut", "old"),
    *("x.old", "y.z.old", "_sip._tcp", "_tcp", "unknown", "big", "many", "MiXeD", "mixed"),
    *("nope", "*.wild", "*", "elsewhere.test.", "."),
]
TYPES = [
    *("A", "AAAA", "NS", "SOA", "MX", "TXT", "CNAME", "DNAME", "ANY", "SRV", "DS", "TYPE65400"),
    *("CAA", "HTTPS", "RRSIG", "NSEC", "DNSKEY", "PTR"),
]


@pytest.mark.parametrize("tcp", [False, True])
def test_every_name_and_type(ask: Ask, named: int, tcp: bool) -> None:
    differences = []
    for name in NAMES:
        full = dns.name.from_text(name.removesuffix("@"), dns.name.from_text(ZONE))
        for rtype in TYPES:
            for edns in (-1, 0):
                query = dns.message.make_query(full, rtype, use_edns=edns, payload=1_232)
                label = f"{full} {rtype} edns {edns}"
                differences += compare(ask, named, label, query.to_wire(), tcp)
    assert differences == []


def header(flags: int = 0x0100, *counts: int) -> bytes:
    return struct.pack("!6H", 0x1234, flags, *(counts or (1, 0, 0, 0)))


def question(name: str = "mail.cdn.example.", rtype: int = 1, rclass: int = 1) -> bytes:
    wire = dns.name.from_text(name).to_wire()
    assert wire is not None
    return wire + struct.pack("!HH", rtype, rclass)


def opt(options: bytes = b"", size: int = 1_232, version: int = 0, flags: int = 0) -> bytes:
    return b"\0" + struct.pack("!HHBBHH", 41, size, 0, version, flags, len(options)) + options


def option(code: int, data: bytes = b"") -> bytes:
    return struct.pack("!HH", code, len(data)) + data


def subnet(family: int, source: int, scope: int, address: bytes) -> bytes:
    return option(8, struct.pack("!HBB", family, source, scope) + address)


def with_opt(part: bytes, **changes: int) -> bytes:
    return header(0x0100, 1, 0, 0, 1) + question() + opt(part, **changes)


def packets() -> Iterator[tuple[str, bytes]]:
    """Queries that are odd in one way each."""
    yield "header only", header(0, 0, 0, 0, 0)
    yield "question missing", header()
    yield "trailing octets", header() + question() + b"garbage"
    yield "record missing", header(0x0100, 1, 0, 0, 1) + question()
    yield "two questions", header(0x0100, 2, 0, 0, 0) + question() + question("x.cdn.example.")
    yield "two types", header(0x0100, 2, 0, 0, 0) + question() + question(rtype=28)
    for number in range(1, 16):
        yield f"opcode {number}", header(number << 11 | 0x0100) + question(ZONE, 6)
        yield f"opcode {number}", header(number << 11, 0, 0, 0, 0)
    for bit in range(11):
        yield f"flag {bit}", header(1 << bit) + question()
    for rtype in [*range(20), 41, 43, 128, 200, *range(247, 258), 65_280, 65_535]:
        yield f"type {rtype}", header() + question(ZONE, rtype)
    for rclass in (0, 2, 254, 255, 1_000):
        yield f"class {rclass}", header() + question(rclass=rclass)
    for flags in (0x8000, 0x4000, 1, 0xFFFF):
        yield f"EDNS flags {flags:x}", with_opt(b"", flags=flags)
    for size in (0, 1, 511, 512, 513, 4_096, 65_535):
        for name, rtype in (("big.cdn.example.", 16), ("many.cdn.example.", 1)):
            asked = question(name, rtype) + opt(size=size)
            yield f"{size} octets of {name}", header(0x0100, 1, 0, 0, 1) + asked
    yield "version 1", with_opt(b"", version=1)
    yield "version 1 malformed", with_opt(option(8, b"bad"), version=1)
    yield "version 255 without question", header(0, 0, 0, 0, 1) + opt(version=255)
    yield "unknown options", with_opt(option(65_001, b"abc") + option(100))
    yield "NSID", with_opt(option(3))
    yield "two OPT", header(0x0100, 1, 0, 0, 2) + question() + opt() + opt()
    yield "OPT not at the root", header(0x0100, 1, 0, 0, 1) + question() + b"\1a" + opt()
    yield "OPT as answer", header(0x0100, 1, 1, 0, 0) + question() + opt()
    yield "OPT as authority", header(0x0100, 1, 0, 1, 0) + question() + opt()
    yield "option cut off", with_opt(b"\0\3\0\5ab")
    yield "option without length", with_opt(b"\0\3\0")
    for size in (0, 1, 7, 8, 9, 15, 16, 17, 24, 32, 40, 41):
        yield f"cookie of {size}", with_opt(option(10, b"c" * size))
        wrong = "wrong server cookie alone" if 16 <= size <= 40 else f"cookie of {size} alone"
        yield wrong, header(0, 0, 0, 0, 1) + opt(option(10, b"c" * size))
    for family, source, address in (
        *((1, 24, b"\1\2\3"), (1, 24, b"\1\2\3\4"), (1, 24, b"\1\2"), (1, 20, b"\1\2\3")),
        *((1, 20, b"\1\2\x30"), (1, 33, b"\1\2\3\4\5"), (1, 32, b"\1\2\3\4"), (1, 0, b"")),
        *((1, 0, b"\0"), (2, 56, b"\x20\1\r\xb8\0\0\0"), (2, 128, b"\x20" * 16), (2, 0, b"")),
        *((2, 129, b"\x20" * 17), (0, 8, b"\1"), (3, 24, b"\1\2\3"), (3, 0, b"")),
    ):
        part = subnet(family, source, 0, address)
        yield f"subnet {family} {source} {address.hex()}", with_opt(part)
    yield "scope", with_opt(subnet(1, 24, 24, b"\1\2\3"))
    for size in range(4):
        yield f"subnet of {size}", with_opt(option(8, bytes(size)))
    yield "label of 64", header() + b"\x40" + b"a" * 64 + b"\0\0\1\0\1"
    yield "label type 10", header() + b"\x80abc\0\0\1\0\1"
    yield "pointer to itself", header() + b"\xc0\x0c\0\1\0\1"
    yield "pointer ahead", header() + b"\xc0\x20\0\1\0\1" + bytes(20)
    yield "name of 255", header() + _long(61) + b"\0\0\1\0\1"
    yield "name of 256", header() + _long(62) + b"\0\0\1\0\1"
    yield "type missing", header() + question()[:-4]
    yield "class cut off", header() + question()[:-1]
    grown = b"\x28" + b"a" * 40 + question("grow.cdn.example.")
    yield "DNAME too long", header() + (b"\x3f" + b"a" * 63) * 3 + grown


def strange_records() -> Iterator[tuple[str, bytes]]:
    """Queries with a record that has nothing to do there."""
    for rclass in (0, 1, 3, 254, 255, 1_232):
        for section in range(3):
            counts = [int(section == n) + int(n == 2) for n in range(3)]
            other = b"\0" + struct.pack("!HHIH", 1, rclass, 0, 4) + bytes(4)
            asked = header(0x0100, 1, *counts) + question()
            yield f"a record of class {rclass} in section {section}", asked + other + opt()


def _long(last: int) -> bytes:
    return (b"\x3f" + b"a" * 63) * 3 + bytes((last,)) + b"a" * last


@pytest.mark.parametrize("tcp", [False, True])
def test_odd_queries(ask: Ask, named: int, tcp: bool) -> None:
    differences = []
    meant = set()
    for label, packet in (*packets(), *strange_records()):
        found = compare(ask, named, label, packet, tcp)
        if label in MEANT:
            meant |= {label} if found else set()
        else:
            differences += found
    assert differences == []
    assert meant == set(MEANT), "a difference that is none any more"


SERVED = """
data = "data"
[dns]
listen = "127.0.0.1:0"
zones = ["{data}/wide.example.zone", "{data}/near.wide.test.zone"]
nsid = "node-1"
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1"]
[[service]]
name = "steered.near.wide.test"
"""
RUN = (
    "import sys; from pathlib import Path; from popsteer.config_file import load;"
    "from resolver.server import run; run(load(Path(sys.argv[1])))"
)
COMPILED_S = 150
MADE_NAMES = [
    *("x.w", "q.r.w", "y.host1.w", "host2.w", "_tcp.host2.w", "foo.host2.w", "h.subdel.w"),
    *("*.*.w", "z.*.w", "w", "x.cn", "cn", "x.y.cn", "x.cnout", "x.cnwild", "y.self"),
    *("z.self", "a.d3", "ent2", "x.ent2", "ent3", "b.c.d.ent3", "x.c.d.ent3", "a.b.del"),
    *("x.del2", "x.del3", "x.child", "foo.dn", "bar.dn", "zzz.dn", "a.b.dn", "x.dnout"),
    *("foo.dnchain", "www.dnother", "foo.dnother", "zz.dnother", "x.dndel", "ns1.dndel"),
    *(
        "x.dnloop",
        "y.x.dnloop",
        "x.dnlong",
        "host.w",
        "nothing",
        "MIXED.case",
        "x.bigdel",
        "WEB",
        "x.web",
    ),
    *("near.wide.test.", "www.near.wide.test.", "a.b.near.wide.test.", "wide.test."),
]
WIDE_TYPES = [
    *("A", "AAAA", "NS", "SOA", "MX", "TXT", "CNAME", "DNAME", "ANY", "SRV", "DS", "HTTPS", "SVCB"),
    *("CDS", "MB", "MINFO", "RRSIG", "NSEC", "KEY", "DNSKEY", "PTR", "NAPTR", "TYPE1234", "CAA"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[int]:
    """The port of a running server whose compiled path answers."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "popsteer.toml").write_text(SERVED.format(data=data))
    command = [sys.executable, "-c", RUN, str(folder / "popsteer.toml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = time.monotonic() + COMPILED_S
        while "compiled answer path ready" not in (text := (folder / "log").read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)
        ready = next(json.loads(line) for line in text.splitlines() if '"ready"' in line)
        yield int(ready["listen"][0].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("edns", [-1, 0])
def test_a_zone_of_every_shape_over_real_sockets(
    served: int, named: int, data: Path, edns: int
) -> None:
    """Wildcards, aliases and DNAMEs in and out of the zone, cuts, empty non-terminals, odd types.

    Additional data is left out: we give more addresses with a referral than BIND does.
    """
    origin = dns.name.from_text("wide.example.")
    zone = dns.zone.from_file(str(data / "wide.example.zone"), origin, relativize=False)
    names = [*zone.nodes, *(dns.name.from_text(name, origin) for name in MADE_NAMES)]
    differences = []
    for name in names:
        for rtype in WIDE_TYPES:
            packet = dns.message.make_query(name, rtype, use_edns=edns, payload=1_232).to_wire()
            bind, ours = essence(by_udp(named, packet)), essence(by_udp(served, packet))
            if bind["flags"] == ours["flags"] and int(bind["flags"], 16) & 0x0200:
                continue  # BIND fills a cut answer with a part of an RRset
            differences += [
                f"{name} {rtype}: {key}: BIND {bind[key]}, ours {ours[key]}"
                for key in bind
                if key != "additional" and bind[key] != ours[key]
            ]
    assert differences == []
