"""A signed zone is answered as BIND answers it: BIND gets it by transfer, both are asked.

Two things differ on purpose. To ANY and RRSIG both give one RRset over UDP, not the same one, and
over TCP we give the records of signing to those with DO alone. What is steered is not compared.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

DEADLINE_S = 90
CONFIG = """
data = "data"
[dns]
listen = "127.0.0.1:{port}"
zones = ["cdn.example.zone"]
dnssec = "signed"
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1"]
[[service]]
name = "www.cdn.example."
[[secondary]]
allow = ["127.0.0.1/32"]
"""
NAMED = """
options {{
    directory "{folder}"; pid-file none; session-keyfile none; recursion no; notify no;
    listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    transfer-source 127.0.0.1; query-source address 127.0.0.1;
    dnssec-validation no; minimal-responses no-auth; minimal-any yes;
    max-udp-size 1232; edns-udp-size 1232;
}};
controls {{ }};
zone "cdn.example" {{
    type secondary; file "secondary.zone"; primaries {{ 127.0.0.1 port {ours}; }};
}};
"""
FRONTS = [
    *("", "ns1", "mail", "txt", "alias", "alias2", "ext", "dangling", "wild", "a.wild", "b.a.wild"),
    *("exact.wild", "x.exact.wild", "under.exact2.wild", "q.wildcname", "wildcname", "c.ent"),
    *("b.c.ent", "z.b.c.ent", "ent", "sub", "host.sub", "ns.sub", "tocut", "old", "x.old"),
    *("a.b.old", "new", "x.new", "_tcp", "_sip._tcp", "unknown", "big", "many7", "mixed", "zzz"),
    *("aaa", "*.wild", "loop1", "nothing.at.all", "grow", "x.grow"),
]
TYPES = [
    *("A", "AAAA", "TXT", "MX", "NS", "SOA", "CNAME", "DS", "SRV", "DNSKEY", "NSEC", "CDS"),
    *("DNAME", "TYPE65400"),
]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def has_zone(port: int) -> bool:
    """Whether it answers with authority."""
    query = dns.message.make_query("cdn.example.", "SOA")
    try:
        return bool(dns.query.udp(query, "127.0.0.1", timeout=0.5, port=port).answer)
    except (dns.exception.Timeout, OSError):
        return False


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[tuple[int, int]]:
    """Ours and BIND's."""
    named = shutil.which("named", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if named is None:
        pytest.skip("named (BIND 9) is not installed")
    folder = tmp_path_factory.mktemp("as-bind")
    shutil.copy(data / "cdn.example.zone", folder)
    ours, theirs = free_port(), free_port()
    config = folder / "popsteer.toml"
    config.write_text(CONFIG.format(port=ours))
    (folder / "named.conf").write_text(NAMED.format(folder=folder, port=theirs, ours=ours))
    popsteer = [sys.executable, "-m", "console.cli"]
    sign = [*popsteer, "sign", "--config", str(config)]
    subprocess.run(sign, check=True, capture_output=True)
    serve = [*popsteer, "serve", "--config", str(config)]
    log = folder / "serve.log"
    bind = [named, "-g", "-n", "1", "-c", str(folder / "named.conf")]
    with (
        running(serve, log, lambda: "compiled answer path ready" in log.read_text()),
        running(bind, folder / "named.log", lambda: has_zone(theirs)),
    ):
        yield ours, theirs


def essence(message: dns.message.Message) -> dict[str, Any]:
    """What a resolver acts on."""

    def records(section: list[Any]) -> list[str]:
        return sorted(f"{str(r.name).lower()} {r.ttl} {r.rdtype} {d}" for r in section for d in r)

    return {
        "rcode": message.rcode(),
        "flags": dns.flags.to_text(message.flags),
        "edns": dns.flags.edns_to_text(message.ednsflags),
        "answer": records(message.answer),
        "authority": records(message.authority),
        "additional": records(message.additional),
    }


@pytest.mark.timeout(300)
@pytest.mark.parametrize("dnssec", [True, False])
def test_every_static_answer_is_as_binds(ports: tuple[int, int], dnssec: bool) -> None:
    for front in FRONTS:
        for qtype in TYPES:
            name = f"{front}.cdn.example." if front else "cdn.example."
            query = dns.message.make_query(
                name, qtype, use_edns=0, want_dnssec=dnssec, payload=1232, flags=0
            )
            ours, theirs = (dns.query.udp(query, "127.0.0.1", 10, port) for port in ports)
            assert essence(ours) == essence(theirs), f"{name} {qtype}"
