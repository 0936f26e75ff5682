"""One check of one POP address: the ways of `[health] method`.

Owns what passes and what fails. It never remembers a check and never decides that a POP is down;
beliefs are `resolver.health`'s. A check ends by its time-out and leaves no connection and no
process behind.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from popsteer.config import Health

BODY_BYTES_MAX = 64 * 1024
"""The text that is looked for must stand within so much of the body."""
FILE_BYTES_MAX = 64
UP_WORD = "up"


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked."""

    pop: str
    address: str

    def fill(self, text: str) -> str:
        """`{pop}` and `{address}` put in."""
        return text.replace("{pop}", self.pop).replace("{address}", self.address)


Check = Callable[[Target, Health], Awaitable[bool]]


async def checked(target: Target, health: Health) -> bool:
    """Whether one check passes within the time-out."""
    try:
        async with asyncio.timeout(health.timeout_s):
            return await METHODS[health.method](target, health)
    except (OSError, TimeoutError):
        return False


async def _tcp(target: Target, health: Health) -> bool:
    """The handshake ends well."""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, (target.address, health.port))
    return True


async def _http(target: Target, health: Health) -> bool:
    return await _asked(target, health, "http", tls=False)


async def _https(target: Target, health: Health) -> bool:
    """With a host, the certificate must be valid for it; an address alone cannot be asked for."""
    tls = ssl.create_default_context() if health.host else False
    return await _asked(target, health, "https", tls)


async def _asked(target: Target, health: Health, scheme: str, tls: ssl.SSLContext | bool) -> bool:
    """Status (RFC 9110 §15) and body are as wanted; a redirect is an answer and not followed."""
    # Imported here: a node that opens no HTTP connection need not pay for it.
    import aiohttp
    from yarl import URL

    address = f"[{target.address}]" if ":" in target.address else target.address
    url = URL(f"{scheme}://{address}:{health.port}{health.path}", encoded=True)
    options: dict[str, Any] = {"ssl": tls, "allow_redirects": False}
    if health.host:
        options |= {"headers": {"Host": health.host}}
        options |= {"server_hostname": health.host} if tls else {}
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(force_close=True, use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
            ) as session,
            session.get(url, **options) as response,
        ):
            return _status_passes(response.status, health) and await _body_passes(
                response.content, health.body.encode()
            )
    except (aiohttp.ClientError, ValueError):
        return False


def _status_passes(status: int, health: Health) -> bool:
    return status in health.status if health.status else status < 400


async def _body_passes(body: Any, wanted: bytes) -> bool:
    """Whether the text stands in the first part of the body; no text always does."""
    found = b""
    while wanted not in found:
        part = await body.read(BODY_BYTES_MAX - len(found))
        if not part:
            return False
        found += part
    return True


async def _file(target: Target, health: Health) -> bool:
    """Its first word is `up`; a file that is missing or says anything else fails."""

    def first_word() -> str:
        with Path(target.fill(health.file)).open(encoding="utf-8", errors="replace") as file:
            words = file.read(FILE_BYTES_MAX).split()
        return words[0].lower() if words else ""

    return await asyncio.to_thread(first_word) == UP_WORD


async def _command(target: Target, health: Health) -> bool:
    """It ends with 0 in time; else it is killed."""
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *(target.fill(part) for part in health.command), stdin=quiet, stdout=quiet, stderr=quiet
    )
    try:
        return await process.wait() == 0
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await asyncio.shield(process.wait())


METHODS: Mapping[str, Check] = {
    "tcp": _tcp,
    "http": _http,
    "https": _https,
    "file": _file,
    "command": _command,
}
