"""Every method against real sockets on loopback: answers, refusals, silence, no permission."""

import asyncio
import contextlib
import datetime as dt
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from popsteer.errors import SetupError
from popsteer.samples import Method
from probes.methods import METHODS, icmp

V4 = "127.0.0.1"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def teapot_after_30_ms(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.03)
    writer.write(b"HTTP/1.1 418 I'm a teapot\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    writer.close()


@asynccontextmanager
async def listening(handler: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(cast("asyncio.Task[None]", asyncio.current_task()))
        with contextlib.suppress(OSError):
            await handler(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, V4, 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
        async with asyncio.timeout(5):
            await asyncio.gather(*served)


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind((V4, 0))
        return int(sock.getsockname()[1])


class DnsServer(asyncio.DatagramProtocol):
    """Answers a query as the test wants."""

    def __init__(self, respond: Callable[[dns.message.Message], list[bytes]]) -> None:
        self._respond = respond

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer."""
        for wire in self._respond(dns.message.from_wire(data)):
            self._transport.sendto(wire, addr)


@asynccontextmanager
async def answering(
    respond: Callable[[dns.message.Message], list[bytes]],
) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(
        lambda: DnsServer(respond), local_addr=(V4, 0)
    )
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


@pytest.mark.parametrize("method", [Method.TCP, Method.TLS, Method.HTTP, Method.DNS])
async def test_a_refusal_is_an_answer(method: Method) -> None:
    taken = await METHODS[method](1.0)(V4, closed_port())
    assert not taken.lost
    assert 0 < taken.rtt_us < 500_000


async def test_tcp_times_the_handshake() -> None:
    async with listening(say_nothing) as port:
        taken = await METHODS[Method.TCP](1.0)(V4, port)
    assert not taken.lost
    assert 0 < taken.rtt_us < 100_000


async def test_tcp_over_ipv6() -> None:
    try:
        server = await asyncio.start_server(hang_up, "::1", 0)
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    async with server:
        taken = await METHODS[Method.TCP](1.0)("::1", server.sockets[0].getsockname()[1])
    assert not taken.lost


async def test_tcp_silence_is_a_loss_and_tells_how_long_it_waited() -> None:
    # A listener whose queue of pending connections is full drops further SYNs.
    with socket.socket() as full:
        full.bind((V4, 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex((V4, port))
        taken = await METHODS[Method.TCP](0.2)(V4, port)
        for sock in waiting:
            sock.close()
    assert taken.lost
    assert 190_000 <= taken.rtt_us < 1_000_000


@pytest.mark.parametrize("method", [Method.TLS, Method.HTTP])
async def test_a_server_that_says_nothing_is_a_loss(method: Method) -> None:
    async with listening(say_nothing) as port:
        taken = await METHODS[method](0.2)(V4, port)
    assert taken.lost
    assert taken.rtt_us >= 190_000


@pytest.mark.parametrize("method", [Method.TLS, Method.HTTP])
async def test_a_server_that_hangs_up_has_answered(method: Method) -> None:
    async with listening(hang_up) as port:
        taken = await METHODS[method](1.0)(V4, port)
    assert not taken.lost


async def test_http_times_the_first_byte_whatever_the_status() -> None:
    async with listening(teapot_after_30_ms) as port:
        taken = await METHODS[Method.HTTP](2.0)(V4, port)
    assert not taken.lost
    assert 29_000 <= taken.rtt_us < 1_000_000


async def test_tls_times_the_handshake_of_a_self_signed_server(tmp_path: Path) -> None:
    async with listening(say_nothing, self_signed(tmp_path)) as port:
        taken = await METHODS[Method.TLS](2.0)(V4, port)
    assert not taken.lost
    assert 0 < taken.rtt_us < 500_000


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.REFUSED, dns.rcode.SERVFAIL])
async def test_any_dns_response_is_an_answer(rcode: dns.rcode.Rcode) -> None:
    def respond(query: dns.message.Message) -> list[bytes]:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return [response.to_wire()]

    async with answering(respond) as port:
        taken = await METHODS[Method.DNS](1.0)(V4, port)
    assert not taken.lost


async def test_dns_answers_that_match_no_question_are_losses() -> None:
    def respond(query: dns.message.Message) -> list[bytes]:
        other_id = dns.message.make_response(query)
        other_id.id ^= 1
        other_case = dns.message.make_response(
            dns.message.make_query(query.question[0].name.to_text().swapcase(), "A", id=query.id)
        )
        return [b"", b"\0" * 7, other_id.to_wire(), other_case.to_wire(), query.to_wire()]

    async with answering(respond) as port:
        taken = await METHODS[Method.DNS](0.2)(V4, port)
    assert taken.lost


async def test_dns_questions_are_never_alike() -> None:
    seen: list[tuple[int, str]] = []

    def respond(query: dns.message.Message) -> list[bytes]:
        seen.append((query.id, query.question[0].name.to_text()))
        return [dns.message.make_response(query).to_wire()]

    async with answering(respond) as port:
        measure = METHODS[Method.DNS](1.0)
        for _ in range(8):
            await measure(V4, port)
    assert len({number for number, _ in seen}) > 4
    assert len({name for _, name in seen}) > 4


async def test_icmp_echo_of_loopback() -> None:
    try:
        icmp.check_permission()
    except SetupError as error:
        pytest.skip(str(error))
    measure = METHODS[Method.ICMP](1.0)
    taken = [await measure(V4, 0) for _ in range(3)]
    assert all(not one.lost and 0 < one.rtt_us < 100_000 for one in taken)


def test_icmp_without_permission_is_a_sentence_and_no_loss() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to take the permission away from a child process")
    child = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY], capture_output=True, text=True, check=False, timeout=60
    )
    if "granted" in child.stdout:
        pytest.skip("net.ipv4.ping_group_range lets everybody ping here")
    assert child.stdout.splitlines() == [icmp.NO_PERMISSION] * 2, child.stderr


_AS_NOBODY = """
import asyncio, os
from popsteer.errors import SetupError
from probes.methods import icmp
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    icmp.check_permission()
    print("granted")
except SetupError as error:
    print(error)
try:
    asyncio.run(icmp.open_icmp(0.2)("127.0.0.1", 0))
except SetupError as error:
    print(error)
"""


async def test_what_the_own_machine_refuses_is_no_loss() -> None:
    # The broadcast address may not be connected to without permission.
    with pytest.raises(SetupError, match="no permission"):
        await METHODS[Method.DNS](0.2)("255.255.255.255", 53)


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pop.example")])
    start = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
