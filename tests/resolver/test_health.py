"""The local health loop against real listeners."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from popsteer.config import Config, Health, Pop
from resolver.health import Belief, Prober, checked

FAST = Health(port=1, interval_s=0.02, timeout_s=0.2, down_after=2, up_after=3)
DEADLINE_S = 10


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
    assert await checked("127.0.0.1", health(open_port))
    assert not await checked("127.0.0.1", health(closed_port))


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
        assert await checked("127.0.0.1", health(port_of(server), method="http")) is passed


async def test_a_silent_server_fails_http_by_the_time_out(open_port: int) -> None:
    assert not await checked("127.0.0.1", health(open_port, method="http"))


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
    assert msgspec.json.decode(kept.read_bytes()) == {"fra1": True}


def test_a_torn_memory_is_no_memory(tmp_path: Path) -> None:
    kept = tmp_path / "health.json"
    kept.write_bytes(b'{"fra1": fal')
    config = Config(pop=(Pop(id="fra1", ipv4=("127.0.0.1",)),))
    assert Prober(config, FAST, kept, Random(1), lambda: None).down == frozenset()
