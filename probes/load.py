"""What a POP says of its own load, over HTTP; whether it answers at all is its being up.

The report is JSON: `{"load_bps": …, "load_rps": …, "links": {"<link id>": tx_bps}}`, every key
optional, unknown keys ignored. A POP that answers without a readable report is up with an unknown
load; one that refuses, times out or answers with an error status is down.
"""

import asyncio
import ipaddress
import math

import aiohttp
import msgspec

from popsteer.config import Pop
from popsteer.samples import RATE_BPS_MAX

REPORT_BYTES_MAX = 64 * 1024
UP_STATUS_MAX = 399


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """A POP's own figures; None is unknown."""

    load_bps: float | None = None
    load_rps: float | None = None
    links: dict[str, float] = {}
    """Bits/s sent, by the link's id."""


def report_url(template: str, pop: Pop) -> str:
    """The address of a POP's report; "" where there is none to ask."""
    address = next(iter((*pop.ipv4, *pop.ipv6)), "")
    if not template or ("{address}" in template and not address):
        return ""
    if address and ipaddress.ip_address(address).version == 6:
        address = f"[{address}]"
    return template.replace("{address}", address).replace("{pop}", pop.id)


async def ask(session: aiohttp.ClientSession, url: str, timeout_s: float) -> LoadReport | None:
    """The POP's report; None when it is down."""
    try:
        async with asyncio.timeout(timeout_s), session.get(url, allow_redirects=False) as answer:
            if answer.status > UP_STATUS_MAX:
                return None
            return parse_report(await _body(answer))
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for chunk in answer.content.iter_chunked(REPORT_BYTES_MAX):
        body += chunk
        if len(body) > REPORT_BYTES_MAX:
            return b""
    return body


def parse_report(body: bytes) -> LoadReport:
    """A report without the figures that make no sense; an empty one where nothing does."""
    try:
        report = msgspec.json.decode(body, type=LoadReport)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return LoadReport()
    return LoadReport(
        load_bps=_sane(report.load_bps),
        load_rps=_sane(report.load_rps),
        links={k: v for k, v in report.links.items() if _sane(v) is not None},
    )


def _sane(value: float | None) -> float | None:
    sane = value is not None and math.isfinite(value) and 0 <= value <= RATE_BPS_MAX
    return value if sane else None
