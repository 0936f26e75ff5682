"""What the DNS benchmark serves and asks: nested prefixes, POPs, queries with their right answers.

One name, A queries with a client subnet (90 % IPv4 /24, 10 % IPv6 /56), so many subnets (85 %
IPv4 /16 to /24, nested; 15 % IPv6 /32 to /48) and POPs. The right answer comes from a
longest-prefix match that shares no code with what is measured.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.dns_load import Queries, queries_of
from popsteer.names import IPV6_BIT, Net, Plen, prefixes_of
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, Table, TableMeta, build, encode

POPS = 200
NAME = "www.cdn.example."
WIRE_NAME = b"\x03www\x03cdn\x07example\x00"
TTL_S = 20
QUERIES = 1 << 16
"""One for each id, so that a reply tells which query it is of."""


@dataclass(frozen=True, slots=True)
class World:
    """Prefixes in the order of a table; where two are equal the later wins."""

    net: Net
    plen: Plen
    pop: NDArray[np.uint16]

    def answers(self, net: Net, ipv6: bool) -> NDArray[np.uint16]:
        """POP of each address, POP 0 where no prefix covers it: by a dictionary per length."""
        found = np.zeros(len(net), np.uint16)
        family = ((self.plen & np.uint8(IPV6_BIT)) != 0) == ipv6
        length = self.plen & np.uint8(0x7F)
        for bits in np.unique(length[family]).tolist():
            rows = np.flatnonzero(family & (length == bits))
            known = dict(zip(self.net[rows].tolist(), self.pop[rows].tolist(), strict=True))
            cut = (net >> np.uint64(64 - bits)) << np.uint64(64 - bits)
            for i, one in enumerate(cut.tolist()):
                found[i] = known.get(one, found[i])
        return found


def address_of(pop: int) -> str:
    """The last octet says the POP."""
    return f"192.0.2.{pop + 1}"


def world(prefixes: int, seed: int = 5) -> World:
    """Random prefixes of which none stands twice."""
    rng = np.random.default_rng(seed)
    ipv4 = int(prefixes * 0.85)
    length4 = rng.integers(16, 25, ipv4).astype(np.uint8)
    net4 = rng.integers(1 << 24, 224 << 24, ipv4, dtype=np.uint64) << np.uint64(32)
    length6 = rng.integers(32, 49, prefixes - ipv4).astype(np.uint8)
    net6 = rng.integers(0x2400 << 48, 0x2800 << 48, prefixes - ipv4, dtype=np.uint64)
    net, length = np.concatenate([net4, net6]), np.concatenate([length4, length6])
    net = (net >> (64 - length.astype(np.uint64))) << (64 - length.astype(np.uint64))
    family = np.repeat(np.array([0, IPV6_BIT], np.uint8), [ipv4, prefixes - ipv4])
    plen = length | family
    keys = np.stack([net, plen.astype(np.uint64)], axis=1)
    rows = np.unique(keys, axis=0, return_index=True)[1]
    pop = rng.integers(0, POPS, len(rows)).astype(np.uint16)
    return World(net[rows], plen[rows], pop)


def queries(of: World, count: int = QUERIES, seed: int = 6) -> Queries:
    """Queries, 80 % of the IPv4 ones inside a prefix, with their right answers."""
    rng = np.random.default_rng(seed)
    ipv6 = rng.random(count) < 0.1
    inside = rng.random(count) < 0.8
    four = (of.plen & np.uint8(IPV6_BIT)) == 0
    net = rng.integers(1 << 24, 224 << 24, count, dtype=np.uint64) << np.uint64(32)
    net = np.where(inside, rng.choice(of.net[four], count), net)
    # Some of a prefix's /24s, not always its first.
    net = (net >> np.uint64(40)) << np.uint64(40)
    six = rng.choice(of.net[~four], count) | rng.integers(
        0, 256, count, dtype=np.uint64
    ) << np.uint64(8)
    net = np.where(ipv6, six, net)
    right = np.where(ipv6, of.answers(net, True), of.answers(net, False))
    subnets = [_subnet(int(n), bool(v6)) for n, v6 in zip(net, ipv6, strict=True)]
    return queries_of([WIRE_NAME] * count, subnets, (right + 1).astype(np.uint16))


def _subnet(net: int, ipv6: bool) -> bytes:
    if ipv6:
        return b"\x00\x02\x38\x00" + net.to_bytes(8, "big")[:7]
    return b"\x00\x01\x18\x00" + net.to_bytes(8, "big")[:3]


def table(of: World, generation: int = 1) -> Table:
    """The world as a table; POP 0 is the static order."""
    count = len(of.net)
    pop = np.full((count, CANDIDATES_MAX), NO_POP, np.uint16)
    pop[:, 0] = of.pop
    pop[:, 1] = (of.pop + 1) % POPS
    share = np.zeros((count, CANDIDATES_MAX), np.uint8)
    share[:, 0] = 255
    rtt = np.full((count, CANDIDATES_MAX), NO_RTT, np.uint16)
    meta = TableMeta(generation=generation, default=("p0",))
    return build(meta, tuple(f"p{i}" for i in range(POPS)), of.net, of.plen, pop, share, rtt)


def write_popsteer(of: World, folder: Path, port: int) -> Path:
    """Configuration and table for `popsteer serve`; cookies and demand are on."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.arrow").write_bytes(encode(table(of)))
    pops = "".join(f'[[pop]]\nid = "p{i}"\nipv4 = ["{address_of(i)}"]\n' for i in range(POPS))
    (folder / "popsteer.toml").write_text(
        f'data = "data"\n[dns]\nlisten = "127.0.0.1:{port}"\n[table]\npath = "table.arrow"\n'
        f'poll_s = 0.2\n[[service]]\nname = "{NAME}"\nttl_s = {TTL_S}\n{pops}'
    )
    return folder / "popsteer.toml"


def prefix_texts(of: World) -> list[str]:
    """As peers' configurations write them."""
    return [str(prefix) for prefix in prefixes_of(of.net, of.plen)]
