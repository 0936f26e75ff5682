"""`popsteer bench dns --part fuzz`: a million mutated packets to a real server over real sockets.

The zone is signed; queries of every kind are bent in random ways and sent by UDP, and some by
TCP. What must hold: the server stays, its memory is flat, no UDP answer is over 1232 octets,
nothing answers a message that is itself a response, and right afterwards it answers as before.
Every so many packets a query that goes the slowest way is waited for, so that nothing is lost by
a full queue.
"""

import contextlib
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.edns
import dns.exception
import dns.message
import dns.name
import dns.tsig
from rich.console import Console

from benchmarks.dns_peers import await_compiled, free_port, resident_mb, running
from benchmarks.figure import Figure, report

PACKETS = 1_000_000
BATCH = 128
"""Packets between two that are waited for; well below the slow path's queue."""
TCP_EVERY = 50
"""One packet in so many also goes by TCP."""
WARM_SHARE = 0.5
"""Memory is compared from here on: by then random clients have touched every page of the tables
that count, which come as huge pages of 2 MB."""
UDP_BYTES_MAX = 1_232
GROWN_MB_MAX = 4.0
RESPONSE_SHARE = 0.1
WAIT_S, TRIES_MAX = 1.0, 20
_QR = 0x80
_FENCE = struct.Struct("!HHHHHH")
_STATUS = 2 << 11
"""An opcode that the slow path alone answers."""

ZONE = r"""
$ORIGIN cdn.example.
@ 60 SOA ns h 1 2 3 4 5
@ 60 NS ns
ns 60 A 192.0.2.53
alias 60 CNAME www
*.wild 60 TXT "any"
sub 60 NS ns.sub
ns.sub 60 A 192.0.2.54
old 60 DNAME new
x.new 60 A 192.0.2.55
$GENERATE 1-70 many 60 A 10.0.0.$
"""
CONFIG = """
data = "data"
[dns]
listen = "127.0.0.1:{port}"
zones = ["cdn.example.zone"]
dnssec = "signed"
nsid = "fuzz"
[[pop]]
id = "fra1"
ipv4 = ["192.0.2.1"]
ipv6 = ["2001:db8::1"]
[[service]]
name = "www.cdn.example"
[[tsig]]
name = "fuzz"
file = "fuzz.secret"
[[secondary]]
allow = ["127.0.0.0/8"]
key = "fuzz"
"""
_KEY = dns.tsig.Key("fuzz.", b"fuzz" * 8)
_SECRET = "ZnV6emZ1enpmdXp6ZnV6emZ1enpmdXp6ZnV6emZ1eno="  # noqa: S105 -- of a server for a minute
_RUN = (
    "import sys\nfrom pathlib import Path\nfrom popsteer.config_file import load\n"
    "from resolver.server import run\nrun(load(Path(sys.argv[1])))"
)


@dataclass(slots=True)
class Tally:
    """What came back."""

    sent: int = 0
    answers: int = 0
    octets_max: int = 0
    to_responses: int = 0
    fences_late: int = 0
    tcp_messages: int = 0


def queries() -> list[bytes]:
    """Well-formed messages of every kind that the server tells apart."""
    found = []
    names = ("www", "alias", "x.wild", "h.sub", "a.old", "many", "nothing", "@", "WwW")
    for name in names:
        owner = dns.name.from_text(name if name != "@" else "", None)
        owner = owner.derelativize(dns.name.from_text("cdn.example."))
        for qtype in ("A", "AAAA", "TXT", "ANY", "DS", "TYPE65400"):
            found.append(dns.message.make_query(owner, qtype))
            edns = dns.message.make_query(owner, qtype, use_edns=0, want_dnssec=True, payload=4_096)
            edns.use_edns(
                0,
                edns.ednsflags,
                4_096,
                options=[
                    dns.edns.ECSOption("10.1.2.0", 24),
                    dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"c" * 8),
                    dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),
                    dns.edns.GenericOption(dns.edns.OptionType.PADDING, b"\0" * 16),
                ],
            )
            found.append(edns)
    for qtype in ("A", "SOA", "AXFR", "IXFR"):
        signed = dns.message.make_query("cdn.example.", qtype, use_edns=0)
        signed.use_tsig(_KEY)
        found.append(signed)
    wires = [message.to_wire() for message in found]
    wires += [struct.pack("!6H", 7, opcode << 11, 0, 0, 0, 0) for opcode in range(16)]
    return wires


def mutated(wire: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The message bent in one to four places."""
    data = bytearray(wire)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data)) if data else 0
        match rng.randrange(8):
            case 0 if data:
                data[at] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at] = rng.choice((0, 1, 63, 64, 127, 128, 192, 255))
            case 2:
                del data[at:]
            case 3:
                data[at:at] = rng.randbytes(rng.randint(1, 40))
            case 4 if len(data) >= 12:
                struct.pack_into(
                    "!H", data, 4 + 2 * rng.randrange(4), rng.choice((0, 1, 2, 65_535))
                )
            case 5:
                other = rng.choice(others)
                data = data[:at] + other[rng.randrange(len(other)) :]
            case 6:
                del data[at : at + rng.randint(1, 8)]
            case 7 if len(data) >= 2:
                struct.pack_into("!H", data, min(at, len(data) - 2), rng.randrange(65_536))
            case _:
                data += rng.randbytes(rng.randint(1, 12))
    return bytes(data[:2_000])


class _Client:
    """One UDP socket for queries and one for responses, which must stay silent."""

    def __init__(self, port: int, tally: Tally) -> None:
        self._tally = tally
        self._port = port
        self._queries, self._responses = (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)
        )
        for one in (self._queries, self._responses):
            one.connect(("127.0.0.1", port))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            one.setblocking(False)
        self._fences = 0

    def close(self) -> None:
        """Both."""
        self._queries.close()
        self._responses.close()

    def send(self, data: bytes, response: bool) -> None:
        """One packet, as a query or as a response."""
        if len(data) > 2:
            data = data[:2] + bytes((data[2] & ~_QR | (_QR if response else 0),)) + data[3:]
        with contextlib.suppress(BlockingIOError):
            (self._responses if response and len(data) > 2 else self._queries).send(data)
        self._tally.sent += 1

    def fence(self) -> None:
        """Wait until all before is handled; counts what came."""
        self._fences = self._fences % 65_535 + 1
        asked = _FENCE.pack(self._fences, _STATUS, 0, 0, 0, 0)
        wanted = _FENCE.pack(self._fences, 0x8000 | _STATUS | 4, 0, 0, 0, 0)
        for _ in range(TRIES_MAX):
            self._queries.send(asked)
            if self._drain(wanted):
                break
            self._tally.fences_late += 1
        else:
            raise RuntimeError("the server does not answer any more")
        with contextlib.suppress(BlockingIOError):
            while self._responses.recv(65_535):
                self._tally.to_responses += 1

    def _drain(self, wanted: bytes) -> bool:
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            try:
                data = self._queries.recv(65_535)
            except BlockingIOError:
                time.sleep(0.0002)
                continue
            if data == wanted:
                return True
            self._tally.answers += 1
            self._tally.octets_max = max(self._tally.octets_max, len(data))
        return False

    def by_tcp(self, data: bytes) -> None:
        """The same by TCP; whatever comes, until the server closes or is done."""
        with socket.create_connection(("127.0.0.1", self._port), 5) as one:
            one.settimeout(5)
            one.sendall(struct.pack("!H", len(data)) + data)
            one.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while one.recv(65_535):
                    pass
        self._tally.tcp_messages += 1

    def right(self) -> bool:
        """Whether an ordinary query still gets its answer."""
        asked = dns.message.make_query("www.cdn.example.", "A")
        self._queries.send(asked.to_wire())
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s:
            try:
                data = self._queries.recv(65_535)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            with contextlib.suppress(dns.exception.DNSException):
                told = dns.message.from_wire(data)
                if told.id == asked.id and told.answer:
                    return str(told.answer[0][0]) == "192.0.2.1"
        return False


def run(json_path: Path | None = None, packets: int = PACKETS, seed: int = 1) -> int:
    """Send, count, print, write JSON; the exit code is 1 when a bound is missed."""
    with tempfile.TemporaryDirectory(prefix="popsteer-fuzz-") as folder:
        figures = _measure(Path(folder), packets, random.Random(seed))
    return report(Console(), figures, json_path, seed=seed)


def _measure(folder: Path, packets: int, rng: random.Random) -> list[Figure]:
    port = free_port()
    (folder / "cdn.example.zone").write_text(ZONE)
    (folder / "fuzz.secret").write_text(_SECRET)
    (folder / "popsteer.toml").write_text(CONFIG.format(port=port))
    config = str(folder / "popsteer.toml")
    signing = [sys.executable, "-c", "from console.cli import main; main()", "sign"]
    subprocess.run([*signing, "--config", config], check=True, capture_output=True)
    command = [sys.executable, "-c", _RUN, config]
    tally = Tally()
    with running(command, port, folder) as (pid, _):
        await_compiled(folder / "log")
        client = _Client(port, tally)
        try:
            began_s = time.monotonic()
            warm_mb = 0.0
            for done in _batches(client, packets, rng):
                if done >= packets * WARM_SHARE and not warm_mb:
                    warm_mb = resident_mb(pid)
            grown_mb = resident_mb(pid) - warm_mb
            right = client.right()
            spent_s = time.monotonic() - began_s
        finally:
            client.close()
    log = (folder / "log").read_text(errors="replace")
    faults = log.count("answer failed") + log.count("Traceback")
    return [
        Figure("packets sent", tally.sent, packets, "", at_least=True),
        Figure("messages by TCP", tally.tcp_messages, 0, "", at_least=True),
        Figure("answers by UDP", tally.answers, 1, "", at_least=True),
        Figure("longest UDP answer", tally.octets_max, UDP_BYTES_MAX, "octets"),
        Figure("answers to responses", tally.to_responses, 0, ""),
        Figure("faults in the log", faults, 0, ""),
        Figure("right afterwards", right, 1, "", at_least=True),
        Figure("memory grown in the second half", grown_mb, GROWN_MB_MAX, "MB"),
        Figure("memory", warm_mb, float("inf"), "MB"),
        Figure("fences late", tally.fences_late, float("inf"), ""),
        Figure("packets a second", tally.sent / spent_s, 0, "/s", at_least=True),
    ]


def _batches(client: _Client, packets: int, rng: random.Random) -> Iterator[int]:
    seeds = queries()
    for done in range(0, packets, BATCH):
        for number in range(done, min(done + BATCH, packets)):
            data = mutated(rng.choice(seeds), rng, seeds)
            client.send(data, rng.random() < RESPONSE_SHARE)
            if number % TCP_EVERY == 0:
                client.by_tcp(data)
        client.fence()
        yield done
