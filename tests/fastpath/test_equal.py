"""The compiled path gives the slow path's bytes, on random and on mutated queries."""

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from popsteer.names import Prefix, demand_subject
from resolver import cookies
from resolver.answer import Answer, Client, Transport, answer
from resolver.fast.batch import BATCH, DROP
from resolver.route import Outlook
from resolver.snapshot import Snapshot

Bench = Any  # tests/fastpath/conftest.py:FastBench; tests are no package to import it from
OpenBench = Callable[[Snapshot], Bench]

NAMES = [
    *("www.cdn.example", "img.cdn.example", "solo.example.org", "cdn.example", "alias.cdn.example"),
    *("chain.cdn.example", "loop.cdn.example", "gone.cdn.example", "far.cdn.example"),
    *("text.cdn.example", "big.cdn.example", "_sip._tcp.cdn.example", "_tcp.cdn.example"),
    *("deep.er.than.cdn.example", "er.than.cdn.example", "a.wild.cdn.example", "wild.cdn.example"),
    *("a.b.wild.cdn.example", "x.alias.cdn.example", "odd.cdn.example", "child.cdn.example"),
    *("host.child.cdn.example", "ns.child.cdn.example", "old.cdn.example", "a.old.cdn.example"),
    *("web.cdn.example", "upper.cdn.example", "mail.upper.cdn.example", "hostmaster.cdn.example"),
    *("x.hostmaster.cdn.example", "ns1.cdn.example", "x.ns1.cdn.example", "plain.test"),
    *("nothing.plain.test", "nothing.cdn.example", "a.b.c.d.cdn.example", "example", "org", ""),
    *("toold.cdn.example", "made.old.cdn.example", "towild.cdn.example", "held.wild.cdn.example"),
    *("elsewhere.net", "www.elsewhere.net", "*.wild.cdn.example", "x.*.wild.cdn.example"),
]
TYPES = [
    1,
    28,
    1,
    28,
    2,
    5,
    6,
    12,
    15,
    16,
    33,
    39,
    43,
    46,
    47,
    48,
    64,
    65,
    255,
    257,
    65280,
    65281,
    99,
]
TYPES += [24, 25, 46, 47]  # the types that may stand beside an alias
CLIENTS = [
    bytes([10, 1, 5, 200]),
    bytes([192, 0, 2, 1]),
    bytes([127, 0, 0, 1]),
    bytes.fromhex("20010db8000300000000000000000001"),
    bytes.fromhex("fe800000000000000000000000000001"),
]


class Draws:
    """SplitMix64 again: the draws that the compiled path makes, in its order."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def next(self) -> int:
        """48 bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) % 2**64
        z = self._state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return (z ^ z >> 31) & (1 << 48) - 1


def name_of(rng: random.Random) -> bytes:
    name = rng.choice(NAMES)
    if rng.random() < 0.15:
        label = "".join(rng.choice("abcXYZ019-_") for _ in range(rng.randint(1, 30)))
        name = f"{label}.{name}" if name else label
    if rng.random() < 0.4:
        name = "".join(rng.choice((c.upper(), c)) for c in name)
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def subnet_of(rng: random.Random) -> bytes:
    family = rng.choice((1, 1, 1, 2, 2, 0))
    if family == 0:
        return struct.pack("!HBB", 0, 0, 0)
    if family == 1:
        bits, address = 32, bytes([10, rng.randrange(9), rng.randrange(256), rng.randrange(256)])
        source = rng.choice((24, 24, 24, 32, 20, 16, 0, 27))
    else:
        bits, source = 128, rng.choice((56, 48, 64, 128, 0, 61))
        tail = bytes(rng.randrange(256) for _ in range(10))
        address = bytes.fromhex("20010db800") + bytes([rng.randrange(24)]) + tail
    value = int.from_bytes(address, "big") >> (bits - source) << (bits - source) if source else 0
    octets = value.to_bytes(bits // 8, "big")[: (source + 7) // 8]
    return struct.pack("!HBB", family, source, 0) + octets


def cookie_of(rng: random.Random, client: bytes, snapshot: Snapshot, now_s: int) -> bytes:
    own = bytes(rng.randrange(256) for _ in range(8))
    kind = rng.random()
    if kind < 0.4:
        return own
    if kind < 0.5:
        return own + bytes(rng.randrange(256) for _ in range(rng.choice((8, 16, 32))))
    assert snapshot.options.secret is not None
    age_s = rng.choice((0, 1, 1799, 1800, 1801, 3599, 3601, -1, -299, -301, 86_400))
    made = cookies.make(own, client, snapshot.options.secret, now_s - age_s)
    return own + made


def query_of(rng: random.Random, client: bytes, snapshot: Snapshot, now_s: int) -> bytes:
    question = name_of(rng) + struct.pack("!HH", rng.choice(TYPES), 1)
    flags = rng.choice((0x0100, 0x0000, 0x0120, 0x0110, 0x0010))
    opt = b""
    if rng.random() < 0.8:
        options = []
        if rng.random() < 0.6:
            options.append((8, subnet_of(rng)))
        if rng.random() < 0.6:
            options.append((10, cookie_of(rng, client, snapshot, now_s)))
        if rng.random() < 0.2:
            options.append((3, b""))
        if rng.random() < 0.1:
            options.append((rng.choice((11, 12, 65001, 8, 10)), bytes(rng.randrange(12))))
        rng.shuffle(options)
        rdata = b"".join(struct.pack("!HH", code, len(d)) + d for code, d in options)
        size = rng.choice((1232, 4096, 512, 0, 700, 1400))
        dnssec_ok = rng.choice((0, 0x8000))
        opt = b"\0" + struct.pack("!HHIH", 41, size, dnssec_ok, len(rdata)) + rdata
    head = struct.pack("!6H", rng.randrange(65536), flags, 1, 0, 0, bool(opt))
    return head + question + opt


def mutated(rng: random.Random, packet: bytes) -> bytes:
    octets = bytearray(packet)
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        at = rng.randrange(len(octets)) if octets else 0
        if kind < 0.6 and octets:
            octets[at] = rng.choice(
                (0, 0xFF, octets[at] ^ 1 << rng.randrange(8), rng.randrange(256))
            )
        elif kind < 0.8:
            del octets[at:]
        else:
            octets[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
    return bytes(octets)


class Tally:
    """How many packets each path took."""

    fast = slow = dropped = 0


def compare(
    bench: Bench, snapshot: Snapshot, packets: list[tuple[bytes, bytes]], now_s: int
) -> Tally:
    """Every reply of the compiled path is the slow path's; its silence is silence there too."""
    draws, tally = Draws(5), Tally()
    for first in range(0, len(packets), BATCH):
        part = packets[first : first + BATCH]
        replies = bench.run([p for p, _ in part], [a for _, a in part])
        for (packet, address), reply in zip(part, replies, strict=True):
            client = Client(address, Transport.UDP)
            if reply.action == DROP:
                assert answer(packet, client, snapshot, 0, now_s) is None, packet.hex()
                tally.dropped += 1
            elif reply.wire is None:
                tally.slow += 1
            else:
                want = expected(packet, client, snapshot, draws, now_s, reply.steered)
                assert want is not None, packet.hex()
                assert reply.wire == want.wire, (
                    f"{packet.hex()}\n{reply.wire.hex()}\n{want.wire.hex()}"
                )
                tally.fast += 1
    return tally


def expected(
    packet: bytes, client: Client, snapshot: Snapshot, draws: Draws, now_s: int, steered: bool
) -> Answer | None:
    """The slow path's answer; the compiled path draws once for each steered answer."""
    return answer(packet, client, snapshot, draws.next() if steered else 0, now_s)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_random_queries_get_the_same_bytes(
    snapshot: Snapshot, open_bench: OpenBench, now_s: int, seed: int
) -> None:
    rng = random.Random(seed)
    bench = open_bench(snapshot)
    packets = []
    for _ in range(1500):
        client = rng.choice(CLIENTS)
        packets.append((query_of(rng, client, snapshot, now_s), client))
    tally = compare(bench, snapshot, packets, now_s)
    # Fails loudly if it compares the slow path with itself.
    assert bench.answered == tally.fast
    assert tally.fast > 0.7 * len(packets), vars(tally)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", ["snapshot", "signed"])
def test_mutated_queries_get_the_same_bytes(
    request: pytest.FixtureRequest, open_bench: OpenBench, now_s: int, world: str
) -> None:
    snapshot: Snapshot = request.getfixturevalue(world)
    rng = random.Random(99)
    bench = open_bench(snapshot)
    packets = []
    for _ in range(4000):
        client = rng.choice(CLIENTS)
        packets.append((mutated(rng, query_of(rng, client, snapshot, now_s)), client))
    tally = compare(bench, snapshot, packets, now_s)
    assert min(tally.fast, tally.slow, tally.dropped) > 20, vars(tally)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "change", ["no table", "all down", "drained", "halted", "no ecs", "no cookies"]
)
def test_other_settings_get_the_same_bytes(
    snapshot: Snapshot, open_bench: OpenBench, now_s: int, change: str
) -> None:
    everyone = frozenset(snapshot.fleet.ipv4)
    other = {
        "no table": replace(snapshot, table=None),
        "all down": replace(snapshot, outlook=Outlook(everyone)),
        "drained": replace(
            snapshot, outlook=Outlook(drained=everyone - {"p3"}, down=frozenset({"p3"}))
        ),
        "halted": replace(snapshot, zones=snapshot.zones.halted()),
        "no ecs": replace(snapshot, options=replace(snapshot.options, ecs=False, nsid=b"")),
        "no cookies": replace(snapshot, options=replace(snapshot.options, secret=None)),
    }[change]
    rng = random.Random(change)
    packets = []
    for _ in range(640):
        client = rng.choice(CLIENTS)
        packets.append((query_of(rng, client, snapshot, now_s), client))
    tally = compare(open_bench(other), other, packets, now_s)
    assert tally.fast > 300


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
def test_signed_zones_get_the_same_bytes(
    signed: Snapshot, open_bench: OpenBench, now_s: int, seed: int
) -> None:
    rng = random.Random(seed)
    bench = open_bench(signed)
    packets = []
    for _ in range(1500):
        client = rng.choice(CLIENTS)
        packets.append((query_of(rng, client, signed, now_s), client))
    tally = compare(bench, signed, packets, now_s)
    assert bench.answered == tally.fast
    assert tally.fast > 0.7 * len(packets), vars(tally)


@pytest.mark.timeout(600)
def test_signed_denials_get_the_same_bytes(
    signed: Snapshot, open_bench: OpenBench, now_s: int
) -> None:
    """Names between all the names that there are: a flood of them stays on the compiled path."""
    rng = random.Random(8)
    bench = open_bench(signed)
    packets = []
    for _ in range(3000):
        label = bytes(
            rng.choice(b"abcdefghilmnostuwxz_-*09\0\xffMW") for _ in range(rng.choice((1, 2, 5)))
        )
        labels = (rng.choice((b"www", b"wild", b"big", b"ns1", label)), label)[rng.randint(0, 1) :]
        end = rng.choice(("cdn.example", "wild.cdn.example", "_tcp.cdn.example", "plain.test"))
        wire = b"".join(bytes((len(one),)) + one for one in (*labels, *end.encode().split(b".")))
        question = wire + b"\0" + struct.pack("!HH", rng.choice(TYPES), 1)
        opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0x8000, 0)
        packets.append((struct.pack("!6H", 7, 0, 1, 0, 0, 1) + question + opt, CLIENTS[0]))
    tally = compare(bench, signed, packets, now_s)
    assert tally.fast > 0.9 * len(packets), vars(tally)


def test_demand_is_counted_as_the_slow_path_counts(
    snapshot: Snapshot, open_bench: OpenBench, now_s: int
) -> None:
    rng = random.Random(4)
    bench, draws = open_bench(snapshot), Draws(5)
    want: dict[tuple[int, int, str], int] = {}
    for _ in range(10):
        packets = [query_of(rng, CLIENTS[0], snapshot, now_s) for _ in range(BATCH)]
        replies = bench.run(packets, [CLIENTS[0]] * BATCH)
        for packet, reply in zip(packets, replies, strict=True):
            if not reply.steered:
                continue
            made = answer(packet, Client(CLIENTS[0], Transport.UDP), snapshot, draws.next(), now_s)
            if made is not None and made.served is not None and snapshot.table is not None:
                client, row = made.served.client, made.served.row
                length = 48 if client.is_ipv6 else 24
                if row >= 0:
                    length = max(length, int(snapshot.table.plen[row]) & 0x7F)
                length = min(client.length, length)
                net = Prefix(client.net, client.plen).net >> (64 - length) << (64 - length)
                number = snapshot.table.meta.set_of(made.served.service)
                subject = demand_subject(made.served.pop, number)
                key = (net, length | client.plen & 0x80, subject)
                want[key] = want.get(key, 0) + 1
    got = bench.taken()
    assert {
        (int(n), int(p), bench.pops[pop]): int(q)
        for n, p, pop, q in zip(got.net, got.plen, got.pop, got.queries, strict=True)
    } == want
    assert got.bits.sum() == sum(want.values()) * 1e6
    assert len(bench.taken().net) == 0
