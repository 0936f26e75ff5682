"""The stages from nothing to a steered answer, each checked from outside, as a user would.

Every check crosses the real boundary: the AWS endpoint, the POPs' listeners, DNS over UDP, the
page over HTTP, objects in S3.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
from dnslib import QTYPE, RCODE, DNSError, DNSRecord

from console.lab.clients import ecs_scope, query
from popsteer.config import Config
from popsteer.errors import StoreError
from popsteer.names import Prefix
from popsteer.store import ObjectStore
from popsteer.table import CURRENT_KEY

POLL_S = 0.25
TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: what people read, and whether it is reached."""

    name: str
    reached: Callable[[], Awaitable[bool]]


def stages(config: Config, store: ObjectStore, sample: Prefix) -> tuple[Stage, ...]:
    """In the order in which they are reached on a cold start."""
    health = config.health
    assert health is not None
    zone_question = bytes(DNSRecord.question(config.service[0].name, "SOA").pack())
    steered = query(config.service[0].name, sample)
    addresses = frozenset(address for pop in config.pop for address in pop.ipv4)

    async def aws() -> bool:
        # It answers before it has made the bucket.
        answers = await _http_answers(config.aws.endpoint)
        return answers and await asyncio.to_thread(_has_bucket, store)

    async def pops() -> bool:
        return await _http_answers(f"http://{config.pop[-1].ipv4[0]}:{health.port}/")

    async def dns() -> bool:
        return await _ask(config, zone_question) is not None

    async def page() -> bool:
        return await _http_answers(f"http://{config.console.listen}/healthz")

    async def partial() -> bool:
        return await asyncio.to_thread(_has_partial, store)

    async def table() -> bool:
        return await asyncio.to_thread(_has_table, store)

    async def answer() -> bool:
        return _is_steered(await _ask(config, steered), addresses)

    return (
        Stage("embedded AWS answers", aws),
        Stage(f"{len(config.pop)} POPs listen", pops),
        Stage("DNS server answers", dns),
        Stage("page is up", page),
        Stage("KCL has folded the first window", partial),
        Stage("planner has published a table", table),
        Stage("DNS steers by measurement", answer),
    )


async def reach(stage: Stage) -> None:
    """Return when the stage is reached."""
    while not await stage.reached():  # noqa: ASYNC110 - other processes set no event of ours
        await asyncio.sleep(POLL_S)


async def _http_answers(url: str) -> bool:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
            return answer.status < 500
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def _ask(config: Config, packet: bytes) -> DNSRecord | None:
    host, port = config.dns.addresses[0]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.setblocking(False)
        try:
            await loop.sock_connect(asking, (host, port))
            await loop.sock_sendall(asking, packet)
            data = await asyncio.wait_for(loop.sock_recv(asking, 4096), TIMEOUT_S)
            return DNSRecord.parse(data)
        except (OSError, TimeoutError, DNSError):
            return None


def _is_steered(record: DNSRecord | None, addresses: frozenset[str]) -> bool:
    """A POP's address whose ECS scope says that it depends on the subnet: it is the table's."""
    if record is None or record.header.rcode != RCODE.NOERROR:
        return False
    named = any(rr.rtype == QTYPE.A and str(rr.rdata) in addresses for rr in record.rr)
    return named and ecs_scope(record) > 0


def _has_bucket(store: ObjectStore) -> bool:
    try:
        store.list(CURRENT_KEY)
    except StoreError:
        return False
    return True


def _has_partial(store: ObjectStore) -> bool:
    try:
        return bool(store.list("partials/kind=rtt/"))
    except StoreError:
        return False


def _has_table(store: ObjectStore) -> bool:
    try:
        return store.read(CURRENT_KEY) is not None
    except StoreError:
        return False
