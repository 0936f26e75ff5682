"""The compiled loop on a real socket: takes over, swaps without loss, hands on, counts, stops."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from resolver.answer import Client, Transport, answer
from resolver.fast.engine import SocketLoop, World, warm
from resolver.fast.path import FastPath, Rates
from resolver.route import Outlook
from resolver.snapshot import Snapshot
from resolver.sockets import bind
from resolver.udp import UdpListener

OpenBench = Callable[[Snapshot], Any]
WWW = b"\3www\3cdn\7example\0"
SIP = b"\3sip\3cdn\7example\0"
SIP_REPLY_BYTES = 12 + len(SIP) + 4 + 16
"""One A record, whatever the client."""
SOL_UDP, UDP_GRO, SO_NO_CHECK = 17, 104, 11
QUERIES = 40


def query(ident: int, name: bytes = WWW, qtype: int = 1, qclass: int = 1) -> bytes:
    return struct.pack("!6H", ident, 0, 1, 0, 0, 0) + name + struct.pack("!HH", qtype, qclass)


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A server's socket and a client connected to it."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        client.connect(server.getsockname())
        client.settimeout(10)
        yield server, client


def world_of(bench: Any) -> World:
    world = World(bench.book, bench.routes, bench.settings, tuple(bench.pops))
    warm(world)
    return world


def queries_in(loop: SocketLoop) -> int:
    return sum(int(counted.queries.sum()) for _, counted in loop.demand())


@pytest.mark.timeout(600)
def test_no_query_is_lost_while_worlds_are_swapped(
    snapshot: Snapshot, open_bench: OpenBench, sockets: tuple[socket.socket, socket.socket]
) -> None:
    server, client = sockets
    calm = world_of(open_bench(replace(snapshot, outlook=Outlook())))
    other = world_of(open_bench(replace(snapshot, outlook=Outlook(drained=frozenset({"p2"})))))
    loop = SocketLoop(server, lambda *_: None, seed=1)
    loop.start(calm)
    stop = threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.wait(0.002):
            turn += 1
            loop.enter((calm, other)[turn % 2])

    swapper = threading.Thread(target=swap)
    swapper.start()
    counted = answered = 0
    longest_s = 0.0
    try:
        for ident in range(3_000):
            began_s = time.monotonic()
            client.send(query(ident))
            reply = client.recv(1_500)
            longest_s = max(longest_s, time.monotonic() - began_s)
            assert reply[:2] == ident.to_bytes(2, "big")
            answered += 1
            if ident % 500 == 499:
                counted += queries_in(loop)
    finally:
        stop.set()
        swapper.join()
        loop.stop()
    assert counted + queries_in(loop) == answered == 3_000
    taken = loop.counted()
    assert taken.rcodes == {"NOERROR": answered}
    assert taken.pops.total() == answered
    assert longest_s < 5


@pytest.mark.timeout(600)
def test_unknown_queries_are_handed_on_with_their_client(
    snapshot: Snapshot, open_bench: OpenBench, sockets: tuple[socket.socket, socket.socket]
) -> None:
    server, client = sockets
    seen: list[tuple[bytes, Any]] = []
    loop = SocketLoop(server, lambda data, _, peer: seen.append((data, peer)), seed=1)
    loop.start(world_of(open_bench(snapshot)))
    packets = [query(1, qclass=3), query(2, qtype=251), b"\0\1\x28" + bytes(9)]
    for packet in packets:
        client.send(packet)
    client.send(query(4))
    assert client.recv(1_500)[:2] == b"\0\4"  # so the ones before it have been read
    deadline_s = time.monotonic() + 10
    while len(seen) < len(packets) and time.monotonic() < deadline_s:
        loop.answer_slowly()
    loop.stop()
    assert seen == [(packet, client.getsockname()) for packet in packets]


@pytest.mark.timeout(600)
async def test_the_path_takes_over_from_the_slow_one(
    snapshot: Snapshot,
    sockets: tuple[socket.socket, socket.socket],
    now_s: int,
) -> None:
    server, client = sockets
    slow = 0

    def respond(data: bytes, _: tuple[Any, ...]) -> bytes | None:
        nonlocal slow
        slow += 1
        made = answer(data, Client(b"\x7f\0\0\1", Transport.UDP), snapshot, 0, now_s)
        return made.wire if made else None

    listener = UdpListener(server, respond)
    event_loop = asyncio.get_running_loop()
    listener.start(event_loop)
    path = FastPath([listener], {}, Rates(0.0))
    path.offer(snapshot)
    path.start(event_loop)

    async def ask(ident: int) -> bytes:
        return await asyncio.to_thread(_exchange, client, query(ident))

    assert (await ask(1))[:2] == b"\0\1"
    await asyncio.to_thread(_until_running, path)
    before = slow
    for ident in range(2, 50):
        assert (await ask(ident))[:2] == ident.to_bytes(2, "big")
    assert slow == before  # the compiled path answered, not the slow one
    version = query(99, b"\7version\4bind\0", 16, 3)
    assert (await asyncio.to_thread(_exchange, client, version))[:2] == b"\0\x63"
    assert slow == before + 1
    path.offer(replace(snapshot, outlook=Outlook(frozenset({"p3"}))))
    assert (await ask(100))[:2] == b"\0\x64"
    path.stop()
    listener.stop(event_loop)
    assert path.counted().rcodes["NOERROR"] >= 49


def _until_running(path: FastPath) -> None:
    while not path.running:
        time.sleep(0.02)


def _exchange(client: socket.socket, packet: bytes) -> bytes:
    client.send(packet)
    return client.recv(1_500)


def _received(server: socket.socket, client: socket.socket, world: World) -> list[bytes]:
    """What a client that asked QUERIES times before the loop began receives, as it was sent."""
    client.setsockopt(SOL_UDP, UDP_GRO, 1)
    for ident in range(QUERIES):
        client.send(query(ident, SIP))
    loop = SocketLoop(server, lambda *_: None, seed=1)
    loop.start(world)
    found: list[bytes] = []
    try:
        while sum(map(len, found)) < QUERIES * SIP_REPLY_BYTES:
            found.append(client.recv(65_535))
    finally:
        loop.stop()
    return found


def _idents(messages: list[bytes]) -> list[int]:
    whole = b"".join(messages)
    size = SIP_REPLY_BYTES
    return [int.from_bytes(whole[at : at + 2], "big") for at in range(0, len(whole), size)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_answers_to_one_client_leave_as_one_message(
    snapshot: Snapshot, open_bench: OpenBench, host: str
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    (bound,) = bind([(host, 0)], 1)[0]
    with bound.udp, bound.tcp, socket.socket(family, socket.SOCK_DGRAM) as client:
        client.connect(
            ("::1" if family == socket.AF_INET6 else "127.0.0.1", bound.udp.getsockname()[1])
        )
        client.settimeout(10)
        messages = _received(bound.udp, client, world_of(open_bench(snapshot)))
    assert _idents(messages) == list(range(QUERIES))
    assert len(messages) == 1


@pytest.mark.timeout(600)
def test_where_messages_cannot_be_cut_answers_leave_singly(
    snapshot: Snapshot, open_bench: OpenBench, sockets: tuple[socket.socket, socket.socket]
) -> None:
    server, client = sockets
    # The system refuses to cut a message whose parts get no checksum.
    server.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
    messages = _received(server, client, world_of(open_bench(snapshot)))
    assert _idents(messages) == list(range(QUERIES))
    assert len(messages) == QUERIES
