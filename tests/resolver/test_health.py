"""The local health loop against real listeners."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from popsteer.config import Config, Health, Pop
from resolver.checks import Target, checked
from resolver.health import Belief, Prober

FAST = Health(port=1, interval_s=0.02, timeout_s=1.0, down_after=2, up_after=3)
DEADLINE_S = 10
HERE = Target("fra1", "127.0.0.1")


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, up to the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not true():  # noqa: ASYNC110 -- what is awaited has no event to wait on
            await asyncio.sleep(0.005)


async def listener(reply: bytes) -> asyncio.Server:
    """Answers a request's first line with `reply`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(reply)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@pytest.fixture
def open_port() -> Iterator[int]:
    """A port whose connections the kernel completes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    """A port that refuses."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def health(port: int, **changes: Any) -> Health:
    return msgspec.structs.replace(FAST, port=port, **changes)


def test_a_belief_turns_only_after_enough_checks_in_a_row() -> None:
    belief = Belief()
    for passed, up in [
        (False, True),
        (True, True),
        (False, True),
        (False, False),
        (True, False),
        (True, False),
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]:
        belief = belief.after(passed, FAST)
        assert belief.up is up


async def test_tcp_passes_on_a_listener_and_fails_on_a_refusal(
    open_port: int, closed_port: int
) -> None:
    assert await checked(HERE, health(open_port))
    assert not await checked(HERE, health(closed_port))


@pytest.mark.parametrize(
    ("reply", "passed"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 302 Found\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", False),
        (b"HTTP/1.1 503 Busy\r\n\r\n", False),
        (b"SSH-2.0-x\r\n", False),
        (b"\r\n", False),
        (b"x" * 5_000, False),
        (b"HTTP/1.1", False),
    ],
)
async def test_http_passes_on_a_status_below_400(reply: bytes, passed: bool) -> None:
    server = await listener(reply)
    async with server:
        assert await checked(HERE, health(port_of(server), method="http")) is passed


async def test_a_silent_server_fails_http_by_the_time_out(open_port: int) -> None:
    assert not await checked(HERE, health(open_port, method="http"))


async def test_a_pop_goes_down_and_comes_back_and_a_restart_remembers(
    tmp_path: Path, closed_port: int
) -> None:
    config = Config(pop=(Pop(id="fra1", ipv4=("127.0.0.1",)), Pop(id="bare")))
    turned: list[int] = []
    kept = tmp_path / "health.json"
    prober = Prober(config, health(closed_port), kept, Random(1), lambda: turned.append(1))
    assert prober.down == frozenset()
    running = asyncio.create_task(prober.run())
    await until(lambda: prober.down == {"fra1"})
    restarted = Prober(config, health(closed_port), kept, Random(1), lambda: None)
    assert restarted.down == {"fra1"}
    with socket.create_server(("127.0.0.1", closed_port)):
        await until(lambda: not prober.down)
        running.cancel()
        await asyncio.wait([running])
    assert len(turned) == 2
    assert msgspec.json.decode(kept.read_bytes()) == {"fra1 127.0.0.1": True}


async def test_all_addresses_are_checked_and_a_dead_family_is_the_nodes_own_trouble(
    tmp_path: Path, closed_port: int
) -> None:
    pops = (
        Pop(id="fra1", ipv4=("127.0.0.1", "127.0.0.2"), ipv6=("::1",)),
        Pop(id="ams1", ipv4=("127.0.0.3",)),
    )
    kept = tmp_path / "health.json"
    prober = Prober(Config(pop=pops), health(closed_port), kept, Random(1), lambda: None)
    running = asyncio.create_task(prober.run())
    await until(lambda: prober.down == {"fra1", "ams1"})
    six = socket.create_server(("::1", closed_port), family=socket.AF_INET6)
    with socket.create_server(("127.0.0.2", closed_port)):
        # The second address is enough; IPv6, when it is back, changes nothing.
        await until(lambda: prober.down == {"ams1"} and b'"fra1 ::1":true' in kept.read_bytes())
    await until(lambda: not prober.down)  # no IPv4 anywhere, while IPv6 is well
    six.close()
    await until(lambda: prober.down == {"fra1", "ams1"})
    running.cancel()
    await asyncio.wait([running])


def test_a_torn_memory_is_no_memory(tmp_path: Path) -> None:
    kept = tmp_path / "health.json"
    kept.write_bytes(b'{"fra1": fal')
    config = Config(pop=(Pop(id="fra1", ipv4=("127.0.0.1",)),))
    assert Prober(config, FAST, kept, Random(1), lambda: None).down == frozenset()


@pytest.mark.parametrize(
    ("changes", "passed"),
    [
        ({"status": (204, 503)}, True),
        ({"status": (200,)}, False),
        ({"status": (503,), "body": "all is well"}, True),
        ({"status": (503,), "body": "nothing is"}, False),
    ],
)
async def test_http_can_ask_for_a_status_and_a_text(changes: dict[str, Any], passed: bool) -> None:
    chunks = b"4\r\nall \r\n7\r\nis well\r\n0\r\n\r\n"
    head = b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await listener(head + chunks) as server:
        wanted = health(port_of(server), method="http", **changes)
        assert await checked(HERE, wanted) is passed


async def test_http_names_the_host_and_asks_for_the_path() -> None:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        asked = health(port_of(server), method="http", host="cdn.example", path="/up%2Fnow?a=b")
        assert await checked(HERE, asked)
    assert heads[0].startswith(b"GET /up%2Fnow?a=b HTTP/1.1\r\n")
    assert b"Host: cdn.example\r\n" in heads[0]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Key and certificate of cdn.example, signed by itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cdn.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cdn.example")]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path / "cdn.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(pem))
    return path


@pytest.mark.parametrize(
    ("host", "passed"), [("", True), ("cdn.example", True), ("other.example", False)]
)
async def test_https_checks_the_certificate_of_a_named_host(
    certificate: Path, host: str, passed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        asked = health(port_of(server), method="https", host=host, timeout_s=5)
        assert await checked(HERE, asked) is passed


@pytest.mark.parametrize(
    ("text", "passed"), [("up\n", True), ("UP since", True), ("down", False), ("", False)]
)
async def test_a_file_says_up_by_its_first_word(tmp_path: Path, text: str, passed: bool) -> None:
    (tmp_path / "fra1.health").write_text(text)
    asked = health(1, method="file", file=str(tmp_path / "{pop}.health"))
    assert await checked(HERE, asked) is passed
    assert not await checked(Target("nyc1", "127.0.0.1"), asked)


@pytest.mark.parametrize(
    ("command", "passed"),
    [
        (("test", "{pop} at {address}", "=", "fra1 at 127.0.0.1"), True),
        (("false",), False),
        (("/nowhere/there-is-no-such-program",), False),
        (("sleep", "60"), False),
    ],
)
async def test_a_command_says_up_by_its_exit_code(command: tuple[str, ...], passed: bool) -> None:
    asked = health(1, method="command", command=command, timeout_s=0.5)
    assert await checked(HERE, asked) is passed
