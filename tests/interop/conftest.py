"""A real `popsteer serve` on port 53 of a network of its own, and others' programs beside it.

The network is a namespace that the test makes, so nothing leaves the machine and nobody's port is
taken. Without the right to make one, these tests are skipped and say so.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dns.rdatatype
import dns.zone
import pytest

DEADLINE_S = 40
COMPILED_S = 150
"""The answer path may have to be compiled first."""
POPSTEER, RESOLVER, SECONDARY = "127.0.0.1", "127.0.0.2", "127.0.0.3"
PATH = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"
SECRET = "a2V5IG9mIHRoZSB0ZXN0cyBhbmQgb2Ygbm9ib2R5IGVsc2U="

ROOT = """
. 3600 SOA a.root. h.root. 1 3600 600 86400 300
. 3600 NS a.root.
a.root. 3600 A 127.0.0.1
cdn.example. 3600 NS ns1.cdn.example.
ns1.cdn.example. 3600 A 127.0.0.1
"""
ZONE = r"""
$ORIGIN cdn.example.
$TTL 300
@       SOA ns1 hostmaster {serial} 3600 600 86400 60
@       NS ns1
@       MX 10 mail
@       TXT "v=spf1 -all" "with; semicolon" "\200\065"
@       CAA 0 issue "ca.example.net"
ns1     A 127.0.0.1
mail    A 192.0.2.25
mail    AAAA 2001:db8::25
alias   CNAME mail
alias2  CNAME alias
toww    CNAME www
web     HTTPS 1 mail alpn="h3,h2" ipv4hint=192.0.2.25
svc     SVCB 1 mail port=853
_sip._tcp SRV 10 20 5060 mail
*.wild  A 192.0.2.77
*.wild  TXT "wild"
a.b.c.ent A 192.0.2.80
old     DNAME new
x.new   A 192.0.2.81
unknown TYPE62347 \# 4 DEADBEEF
MiXeD   A 192.0.2.83
big     TXT {big}
tlsa    TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
naptr   NAPTR 100 10 "u" "E2U+sip" "!^.*$!sip:info@cdn.example!" .
changed A 192.0.2.{serial}
"""
CONFIG = """
data = "data"
[dns]
listen = "127.0.0.1:53"
zones = ["root.zone", "cdn.example.zone"]
nsid = "node-1"
dnssec = "{dnssec}"
[[pop]]
id = "fra1"
ipv4 = ["198.51.100.1", "198.51.100.2"]
ipv6 = ["2001:db8:1::1"]
[[pop]]
id = "nyc1"
ipv4 = ["198.51.100.3"]
ipv6 = ["2001:db8:1::3"]
[[service]]
name = "www.cdn.example"
ttl_s = 20
[[tsig]]
name = "interop"
file = "interop.secret"
[[secondary]]
allow = ["127.0.0.3/32", "127.0.0.1/32"]
key = "interop"
notify = "127.0.0.3:53"
"""
TABLE = "prefix,pop\n10.1.0.0/16,fra1,nyc1\n10.2.0.0/16,nyc1,fra1\n10.3.0.0/24,fra1,nyc1\n"


def program(name: str) -> str:
    """Its path; skips where it is not installed."""
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@dataclass(slots=True)
class Space:
    """A network namespace with nothing but loopback."""

    name: str

    def run(self, *command: str, timeout_s: float = DEADLINE_S) -> str:
        """Output of a program in it."""
        whole = ["ip", "netns", "exec", self.name, *command]
        done = subprocess.run(whole, capture_output=True, text=True, timeout=timeout_s, check=False)
        return done.stdout + done.stderr

    @contextmanager
    def running(
        self, log: Path, ready: Callable[[str], bool], *command: str, ready_s: float = DEADLINE_S
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A program in it, from when it is ready until the end of the block."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *command],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )
        try:
            until(lambda: ready(log.read_text("utf-8", "replace")), process, log, ready_s)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    def program(self, name: str) -> str:
        """Its path; skips where it is not installed."""
        return program(name)

    def until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition, up to the deadline."""
        until(true)

    def dig(self, *arguments: str, at: str = POPSTEER) -> str:
        """`dig` at a server in it."""
        return self.run(program("dig"), f"@{at}", "+tries=3", "+time=5", *arguments)


def until(
    true: Callable[[], bool],
    process: "subprocess.Popen[bytes] | None" = None,
    log: Path | None = None,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Wait for a condition, up to the deadline."""
    deadline = time.monotonic() + deadline_s
    while not true():
        told = log.read_text("utf-8", "replace")[-3_000:] if log else ""
        assert process is None or process.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


@contextmanager
def space(number: int) -> Iterator[Space]:
    """A namespace for one server."""
    name = f"popsteer-{os.getpid()}-{number}"
    if os.geteuid() != 0 or shutil.which("ip", path=PATH) is None:
        pytest.skip("a network namespace needs root and iproute2")
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no network namespace can be made: {made.stderr.strip()}")
    try:
        subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
        for address in (RESOLVER, SECONDARY):
            adding = ["ip", "-n", name, "address", "add", f"{address}/8", "dev", "lo"]
            subprocess.run(adding, check=True)
        yield Space(name)
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


@dataclass(frozen=True, slots=True)
class Served:
    """A running server and its files."""

    space: Space
    folder: Path
    log: Path

    def write_zone(self, serial: int) -> None:
        """The zone of a version; the server takes it by itself."""
        write_zone(self.folder, serial)

    def trust_anchor(self) -> str:
        """The DS record of the signed root."""
        return (self.folder / "ds").read_text().strip()

    def secret_line(self) -> str:
        """How BIND's tools want the key."""
        return f"hmac-sha256:interop:{SECRET}"


def write_zone(folder: Path, serial: int) -> None:
    big = " ".join(f'"{i}{"x" * 240}"' for i in range(12))
    path = folder / "cdn.example.zone"
    path.write_text(ZONE.replace("{serial}", str(serial)).replace("{big}", big))


def cli(*arguments: str) -> list[str]:
    """`popsteer` of this very environment."""
    return [sys.executable, "-c", "from console.cli import main; main()", *arguments]


def sign(config: Path) -> list[str]:
    """Sign the zones with the keys that they have; the DS records for their parents."""
    command = cli("sign", "--config", str(config))
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [line for line in done.stdout.splitlines() if " IN DS " in line]


@contextmanager
def serving(space: Space, folder: Path, *, signed: bool) -> Iterator[Served]:
    """`popsteer serve` with the zones, a table and a key for secondaries."""
    write_zone(folder, 1)
    (folder / "root.zone").write_text(ROOT)
    (folder / "interop.secret").write_text(SECRET)
    (folder / "table.csv").write_text(TABLE)
    config = folder / "popsteer.toml"
    config.write_text(CONFIG.format(dnssec="zones.signed" if signed else ""))
    table = str(folder / "table.arrow")
    compiling = cli("table", "compile", str(folder / "table.csv"), "-o", table)
    subprocess.run(compiling, check=True, capture_output=True)
    if signed:
        # The root vouches for the zone, and whoever knows the root's DS believes both.
        child = next(ds for ds in sign(config) if ds.startswith("cdn.example."))
        (folder / "root.zone").write_text(f"{ROOT}{child}\n")
        root = next(ds for ds in sign(config) if ds.startswith(". "))
        (folder / "ds").write_text(f"{root}\n")
    log = folder / "popsteer.log"
    command = cli("serve", "--config", str(config), "--table", table)
    # Both paths answer the same; what waits here is that the compiled one is what is asked.
    with space.running(
        log, lambda text: "compiled answer path ready" in text, *command, ready_s=COMPILED_S
    ):
        yield Served(space, folder, log)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The unsigned server."""
    folder = tmp_path_factory.mktemp("served")
    with space(0) as own, serving(own, folder, signed=False) as started:
        yield started


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The signed one."""
    folder = tmp_path_factory.mktemp("signed")
    with space(1) as own, serving(own, folder, signed=True) as started:
        yield started


@pytest.fixture(scope="session")
def questions() -> list[tuple[str, str]]:
    """Every name and type of the zone, and names that the zone makes or lacks."""
    text = ZONE.replace("{serial}", "1").replace("{big}", '"big"')
    zone = dns.zone.from_text(text, "cdn.example.", relativize=False)
    found = [
        (str(name), dns.rdatatype.to_text(rdataset.rdtype))
        for name, rdataset in zone.iterate_rdatasets()
        if not str(name).startswith("*")
    ]
    made = ["x.wild", "q.r.wild", "x.old", "toww", "www", "alias2"]
    found += [(f"{name}.cdn.example.", "A") for name in made]
    return [*found, ("www.cdn.example.", "AAAA"), ("x.wild.cdn.example.", "TXT")]
