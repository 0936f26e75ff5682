"""A small world with every kind of answer, and a bench that runs the compiled path on packets."""

import socket
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from popsteer.config import Config, Dns, Pop, Service
from popsteer.names import Prefix, prefix_arrays
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, Further, Ranked, Table, TableMeta, build
from resolver.cookies import CookieSecret
from resolver.dnssec import lay_over, origin_text
from resolver.fast import book as books
from resolver.fast.batch import ACTION, ANSWERED, BATCH, DRAW, LENGTH, REPLY_LENGTH, batch
from resolver.fast.count import Counted, counts, take
from resolver.fast.engine import loop_memory
from resolver.fast.fill import build as build_index
from resolver.fast.libc import AF_INET6
from resolver.fast.limit import limits
from resolver.fast.load import ranked_of, routes_of, services_of, settings_of
from resolver.fast.serve import SLOW_HEAD, SLOW_TAIL, answer_batch
from resolver.route import Outlook, fleet_of
from resolver.sign import lifetime, sign_zones
from resolver.snapshot import Options, Snapshot
from resolver.zonefile import load_zones
from resolver.zonekeys import KeyFolder, ensure

ZONE = r"""
$ORIGIN cdn.example.
$TTL 300
@        SOA ns1 hostmaster 1 7200 3600 1209600 60
@        NS ns1
@        NS ns2.provider.net.
@        MX 10 mail
@        CAA 0 issue "ca.example.net"
ns1      A 192.0.2.53
ns1      AAAA 2001:db8::53
mail     A 192.0.2.25
alias    CNAME www
far      CNAME www.elsewhere.net.
chain    CNAME alias
loop     CNAME loop
gone     CNAME nothing.here
text     TXT "first" "second"
big      TXT ( "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" "ffffffffffffffffffff"
         "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb" )
big      TXT ( "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
         "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd" )
big      TXT ( "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee" )
_sip._tcp SRV 0 5 5060 sip
sip      A 192.0.2.60
sip      AAAA 2001:db8::60
deep.er.than  A 192.0.2.7
*.wild   TXT "any"
*.wild   MX 5 mail
*.alias  CNAME www
odd      TYPE65280 \# 3 aabbcc
child    NS ns.child
child    NS ns1
ns.child A 192.0.2.77
old      DNAME new
*.new    A 192.0.2.44
toold    CNAME made.old
towild   CNAME held.wild
web      HTTPS 1 . alpn="h3,h2"
Upper    MX 10 Mail.Upper
Mail.Upper A 192.0.2.9
"""
PLAIN_ZONE = """
$ORIGIN plain.test.
@ 60 SOA . . 1 2 3 4 5
@ 60 NS ns.other.net.
"""
SERVICES = ("www.cdn.example.", "img.cdn.example.", "solo.example.org.")
SECRET = CookieSecret(b"s" * 32)
NOW_S = 1_750_000_000
POP_COUNT = 6


def world_config(folder: Path) -> Config:
    """Zones, POPs with 0 to 3 addresses, services with other TTLs and POPs."""
    (folder / "cdn.example.zone").write_text(ZONE)
    (folder / "plain.test.zone").write_text(PLAIN_ZONE)
    pops = tuple(
        Pop(
            id=f"p{i}",
            ipv4=tuple(f"198.51.100.{10 * i + k}" for k in range(i % 4)),
            ipv6=tuple(f"2001:db8:{i}::{k + 1:x}" for k in range(i % 3)),
        )
        for i in range(POP_COUNT)
    )
    services = (
        Service(name=SERVICES[0], ttl_s=20),
        Service(name=SERVICES[1], ttl_s=60, pops=("p1", "p2", "p4")),
        Service(name=SERVICES[2], ttl_s=20, pops=("p0",)),
    )
    return Config(
        dns=Dns(zones=("cdn.example.zone", "plain.test.zone")),
        pop=pops,
        service=services,
        folder=str(folder),
    )


def world_table(seed: int = 1) -> Table:
    """Some prefixes of both families, nested, with random candidates and shares.

    The second service has a set of answers of its own.
    """
    rng = np.random.default_rng(seed)
    prefixes = [Prefix.parse(f"10.{i}.0.0/16") for i in range(8)]
    prefixes += [Prefix.parse(f"10.{i}.{j}.0/24") for i in range(3) for j in range(0, 255, 5)]
    prefixes += [Prefix.parse("127.0.0.0/8"), Prefix.parse("10.1.5.128/26")]
    prefixes += [Prefix.parse(f"2001:db8:{i:x}::/48") for i in range(20)]
    net, plen = prefix_arrays(prefixes)
    first, second = random_answers(rng, len(net)), random_answers(rng, len(net))
    own = Further(services=(SERVICES[1],), default=("p2", "p1"))
    meta = TableMeta(generation=3, default=("p5", "p3"), further=(own,))
    pops = tuple(f"p{i}" for i in range(POP_COUNT - 1))
    return build(meta, pops, net, plen, first.pop, first.share, first.rtt, [second])


def random_answers(rng: np.random.Generator, rows: int) -> Ranked:
    """Three candidates each, of which two have a share."""
    pop = np.full((rows, CANDIDATES_MAX), NO_POP, np.uint16)
    share = np.zeros((rows, CANDIDATES_MAX), np.uint8)
    for row in range(rows):
        pop[row, :3] = rng.permutation(POP_COUNT - 1)[:3]
        first = int(rng.integers(0, 256))
        share[row, :2] = (first, 255 - first)
    return Ranked(pop, share, np.full(pop.shape, NO_RTT, np.uint16))


@pytest.fixture(scope="session")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    config = world_config(tmp_path_factory.mktemp("world"))
    outlook = Outlook(frozenset({"p1"}), frozenset(), frozenset({"p4"}), {"p2": 0.5})
    options = Options(b"node-1", SECRET)
    table = world_table()
    zones, fleet = load_zones(config), fleet_of(config)
    return Snapshot(zones, fleet, options, table, outlook, index=build_index(table))


@pytest.fixture(scope="session")
def signed(snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """The same with all zones signed."""
    folder = KeyFolder(tmp_path_factory.mktemp("keys"))
    zones = snapshot.zones
    names = map(origin_text, zones.by_origin)
    keys = {name: ensure(folder, name, "ed25519", False, NOW_S) for name in names}
    file = sign_zones(zones, snapshot.fleet, keys, lifetime(NOW_S, 14))
    return replace(snapshot, zones=lay_over(zones, snapshot.fleet, file, folder.path))


@dataclass(slots=True)
class Reply:
    """What the compiled path made of a packet; None where it was the slow path's, or dropped."""

    action: int
    wire: bytes | None
    steered: bool = False
    """A POP was drawn for it, though perhaps none has an address."""


class FastBench:
    """The compiled path on packets in memory, without sockets."""

    def __init__(self, snapshot: Snapshot, rrl_per_s: float = 0.0, now_s: int = NOW_S) -> None:
        self.services = services_of(snapshot, dict.fromkeys(SERVICES, 1000000.0))
        self.book = books.build(snapshot.zones, snapshot.options.minimal_any, self.services.number)
        ranked = ranked_of(snapshot.table, snapshot.index)
        self.routes, self.pops = routes_of(snapshot, ranked, self.services)
        self.settings = settings_of(snapshot.options, limits(rrl_per_s), now_s)
        self.counts = counts()
        self.memory, self._kept = batch()
        self.loop = loop_memory(seed=5)
        self.memory.clock[0] = now_s
        self.answered = 0

    def run(self, packets: list[bytes], addresses: list[bytes]) -> list[Reply]:
        """Replies in order; at most a batch of packets."""
        assert len(packets) <= BATCH
        for i, (packet, address) in enumerate(zip(packets, addresses, strict=True)):
            self.memory.rx[i] = 0xEE
            self.memory.rx[i, : len(packet)] = np.frombuffer(packet, np.uint8)
            self.memory.query[i] = 0
            self.memory.query[i, LENGTH] = len(packet)
            self.memory.address[i] = np.frombuffer(sockaddr(address), np.uint8)
        answer_batch(
            self.memory,
            np.uint64(len(packets)),
            self.book,
            self.routes,
            self.settings,
            self.counts,
            self.loop,
        )
        self.loop.control[SLOW_TAIL] = self.loop.control[SLOW_HEAD]
        return [self._reply(i) for i in range(len(packets))]

    def _reply(self, i: int) -> Reply:
        query = self.memory.query[i]
        action, length, drawn = (int(query[c]) for c in (ACTION, REPLY_LENGTH, DRAW))
        if action != ANSWERED or not length:
            return Reply(action, None)
        self.answered += 1
        return Reply(action, self.memory.tx[i, :length].tobytes(), bool(drawn))

    def taken(self) -> Counted:
        """The demand since the last time."""
        return take(self.counts)


def sockaddr(address: bytes, port: int = 53_000) -> bytes:
    """The kernel's struct of a packed address, in a slot of 32 octets."""
    if len(address) == 4:
        head = struct.pack("=H", socket.AF_INET) + struct.pack("!H", port)
        return (head + address).ljust(32, b"\0")
    head = struct.pack("=H", AF_INET6) + struct.pack("!HI", port, 0)
    return (head + address).ljust(32, b"\0")


@pytest.fixture(scope="session")
def open_bench() -> type[FastBench]:
    """Makes a bench for a snapshot."""
    return FastBench


@pytest.fixture(scope="session")
def now_s() -> int:
    """When everything happens."""
    return NOW_S
