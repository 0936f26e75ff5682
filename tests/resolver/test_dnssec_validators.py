"""Validators that others wrote believe our signed zone: delv, unbound, Knot Resolver, PowerDNS.

Keys are made and zones are signed by the command; the server runs as it does in production, and
answers from the compiled path. Every socket is bound to a loopback address.
"""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

SEARCH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"
DEADLINE_S = 90
CONFIG = """
data = "data"
[dns]
listen = "127.0.0.1:{port}"
zones = ["cdn.example.zone"]
dnssec = "signed"
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1", "192.0.2.11"]
ipv6 = ["2001:db8::1"]
[[pop]]
id = "nyc1"
ipv4 = ["192.0.2.2"]
ipv6 = ["2001:db8::2"]
[[service]]
name = "www.cdn.example."
"""
ASKED = {
    "www A": dns.rcode.NOERROR,
    "www AAAA": dns.rcode.NOERROR,
    "www HTTPS": dns.rcode.NOERROR,
    "towww A": dns.rcode.NOERROR,
    "www MX": dns.rcode.NOERROR,
    "nothing A": dns.rcode.NXDOMAIN,
    "zz.nothing.at.all AAAA": dns.rcode.NXDOMAIN,
    "a.wild A": dns.rcode.NOERROR,
    "a.b.wild TXT": dns.rcode.NOERROR,
    "a.wild MX": dns.rcode.NOERROR,
    "x.exact.wild A": dns.rcode.NXDOMAIN,
    "q.wildcname A": dns.rcode.NOERROR,
    "c.ent A": dns.rcode.NOERROR,
    "x.old A": dns.rcode.NOERROR,
    "y.old A": dns.rcode.NXDOMAIN,
    "alias2 A": dns.rcode.NOERROR,
    "sub DS": dns.rcode.NOERROR,
    "unknown TYPE65400": dns.rcode.NOERROR,
    "big TXT": dns.rcode.NOERROR,
    "mixed A": dns.rcode.NOERROR,
    " SOA": dns.rcode.NOERROR,
    " DNSKEY": dns.rcode.NOERROR,
    " NSEC": dns.rcode.NOERROR,
}

NEVER_ASKED = {("pdns_recursor", "unknown TYPE65400")}
"""That number means something else inside PowerDNS: it fails without asking anybody."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A server of the signed zone, and what its parent would say of it."""

    port: int
    folder: Path
    ds: str
    """Key tag, algorithm, digest type and digest."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def popsteer(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "console.cli", *map(str, words)]


@contextmanager
def running(command: list[str], folder: Path, ready: Callable[[str], bool]) -> Iterator[None]:
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not ready(log.read_text()):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module", params=["ed25519", "ecdsap256"])
def signed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, data: Path
) -> Iterator[Signed]:
    folder = tmp_path_factory.mktemp("signed")
    shutil.copy(data / "cdn.example.zone", folder)
    port, config = free_port(), folder / "popsteer.toml"
    config.write_text(CONFIG.format(port=port))
    split = ["--split"] if request.param == "ecdsap256" else []
    command = popsteer("sign", "--config", config, "--algorithm", request.param, *split)
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder).stdout
    (ds,) = (line.split(" DS ")[1] for line in told.splitlines() if " IN DS " in line)
    serve = popsteer("serve", "--config", config)
    with running(serve, folder, lambda log: "compiled answer path ready" in log):
        yield Signed(port, folder, ds)


def ask(port: int, line: str, *, checking: bool = True) -> dns.message.Message:
    front, _, qtype = line.rpartition(" ")
    name = f"{front}.cdn.example." if front else "cdn.example."
    query = dns.message.make_query(name, qtype, want_dnssec=True, payload=1232)
    query.flags |= 0 if checking else dns.flags.CD
    reply, _ = dns.query.udp_with_fallback(query, "127.0.0.1", timeout=10, port=port)
    return reply


def answers(port: int) -> Callable[[str], bool]:
    """Ready when it answers at all."""

    def ready(_: str) -> bool:
        try:
            query = dns.message.make_query("cdn.example.", "SOA")
            dns.query.udp(query, "127.0.0.1", timeout=0.2, port=port)
        except (dns.exception.Timeout, OSError):
            return False
        return True

    return ready


@contextmanager
def unbound(port: int, upstream: int, ds: str, folder: Path) -> Iterator[None]:
    (folder / "anchor").write_text(f"cdn.example. 3600 IN DS {ds}\n")
    (folder / "unbound.conf").write_text(
        f"""server:
  directory: ""
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  interface: 127.0.0.1@{port}
  outgoing-interface: 127.0.0.1
  do-ip6: no
  do-not-query-localhost: no
  trust-anchor-file: "{folder}/anchor"
  trust-anchor-signaling: no
  module-config: "validator iterator"
remote-control:
  control-enable: no
stub-zone:
  name: cdn.example.
  stub-addr: 127.0.0.1@{upstream}
"""
    )
    command = [program("unbound"), "-d", "-c", str(folder / "unbound.conf")]
    with running(command, folder, answers(port)):
        yield


@contextmanager
def kresd(port: int, upstream: int, ds: str, folder: Path) -> Iterator[None]:
    home = folder / f"kresd-{port}"
    home.mkdir()
    unload = ["ta_signal_query", "ta_update", "priming", "detect_time_jump", "detect_time_skew"]
    (home / "config").write_text(
        f"net.listen('127.0.0.1', {port}, {{kind='dns'}})\n"
        "net.outgoing_v4('127.0.0.1')\nnet.ipv6 = false\ncache.size = 10*MB\n"
        + "".join(f"modules.unload('{name}')\n" for name in unload)
        + "trust_anchors.remove('.')\n"
        f"trust_anchors.add('cdn.example. 3600 IN DS {ds}')\n"
        f"policy.add(policy.suffix(policy.FORWARD({{'127.0.0.1@{upstream}'}}), "
        "{todname('cdn.example.')}))\npolicy.add(policy.all(policy.REFUSE))\n"
    )
    command = [program("kresd"), "-n", "-c", str(home / "config"), str(home)]
    with running(command, folder, answers(port)):
        yield


@contextmanager
def pdns_recursor(port: int, upstream: int, ds: str, folder: Path) -> Iterator[None]:
    home = folder / f"recursor-{port}"
    home.mkdir()
    (home / "ta.lua").write_text(f'clearTA()\naddTA("cdn.example", "{ds}")\n')
    settings = {
        "local-address": "127.0.0.1",
        "local-port": port,
        "query-local-address": "127.0.0.1",
        "forward-zones": f"cdn.example=127.0.0.1:{upstream}",
        "dnssec": "validate",
        "dont-query": "",
        "lua-config-file": home / "ta.lua",
        "socket-dir": home,
        "config-dir": home,
        "daemon": "no",
        "hint-file": "no",
        "security-poll-suffix": "",
        "disable-syslog": "yes",
    }
    options = [f"--{key}={value}" for key, value in settings.items()]
    with running([program("pdns_recursor"), *options], folder, answers(port)):
        yield


VALIDATORS = {"unbound": unbound, "kresd": kresd, "pdns_recursor": pdns_recursor}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", VALIDATORS)
def test_a_resolver_believes_every_answer(signed: Signed, name: str) -> None:
    port = free_port()
    with VALIDATORS[name](port, signed.port, signed.ds, signed.folder):
        for line, rcode in ASKED.items():
            if (name, line) in NEVER_ASKED:
                continue
            reply = ask(port, line)
            assert reply.rcode() == rcode, f"{line}: {reply}"
            assert reply.flags & dns.flags.AD, f"{line}: {reply}"


@pytest.mark.timeout(300)
def test_a_resolver_with_another_anchor_believes_none(signed: Signed) -> None:
    port = free_port()
    tag, algorithm, kind, digest = signed.ds.split()
    other = f"{tag} {algorithm} {kind} {digest[::-1]}"
    with unbound(port, signed.port, other, signed.folder):
        assert ask(port, "www A").rcode() == dns.rcode.SERVFAIL
        reply = ask(port, "www A", checking=False)
        assert reply.rcode() == dns.rcode.NOERROR
        assert not reply.flags & dns.flags.AD


@pytest.mark.timeout(300)
def test_delv_validates_every_answer(signed: Signed) -> None:
    delv = program("delv")
    tag, algorithm, kind, digest = signed.ds.split()
    anchors = signed.folder / "anchors"
    anchors.write_text(
        f'trust-anchors {{ cdn.example. static-ds {tag} {algorithm} {kind} "{digest}"; }};\n'
    )
    for line, rcode in ASKED.items():
        front, _, qtype = line.rpartition(" ")
        command = [delv, "@127.0.0.1", "-p", str(signed.port), "-a", str(anchors)]
        command += ["+root=cdn.example", f"{front}.cdn.example.".lstrip("."), qtype]
        told = subprocess.run(command, check=False, capture_output=True, text=True)
        text = told.stdout + told.stderr
        assert "fully validated" in text, f"{line}: {text}"
        assert ("nxdomain" in text) == (rcode == dns.rcode.NXDOMAIN), f"{line}: {text}"


@pytest.mark.timeout(300)
def test_a_zone_and_its_signatures_are_taken_together_or_not_at_all(signed: Signed) -> None:
    config, log = (
        signed.folder / "popsteer.toml",
        signed.folder / f"{Path(sys.executable).name}.log",
    )

    def until(true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not true():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    with (signed.folder / "cdn.example.zone").open("a") as zone:
        zone.write("later IN A 192.0.2.200\n")
    until(lambda: "zones not reloaded" in log.read_text())
    assert "run `popsteer sign`" in log.read_text()
    assert ask(signed.port, "later A").rcode() == dns.rcode.NXDOMAIN
    assert ask(signed.port, "www A").answer[1].rdtype == dns.rdatatype.RRSIG
    keys = len(ask(signed.port, " DNSKEY").answer[0])
    role = "csk" if keys == 1 else "zsk"
    roll = popsteer("sign", "roll", "cdn.example", "--role", role, "--config", config)
    subprocess.run(roll, check=True, capture_output=True)
    subprocess.run(popsteer("sign", "--config", config), check=True, capture_output=True)
    until(lambda: ask(signed.port, "later A").rcode() == dns.rcode.NOERROR)
    assert len(ask(signed.port, " DNSKEY").answer[0]) == keys + 1
    port = free_port()
    with unbound(port, signed.port, signed.ds, signed.folder):
        for line in ("later A", "www A", "nothing A"):
            assert ask(port, line).flags & dns.flags.AD
