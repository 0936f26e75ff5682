"""RTT by an HTTP request on an open connection: request sent to the first byte of the response.

The server's own time is in it; any status is an answer. Port 443 is asked by HTTPS.
"""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import aiohttp

from probes.methods.measurement import Measure, Measurement, answered, failed, lost

HTTPS_PORT = 443


def open_http(timeout_s: float) -> Measure:
    """Open the method."""

    async def measure(address: str, port: int) -> Measurement:
        scheme = "https" if port == HTTPS_PORT else "http"
        host = f"[{address}]" if ":" in address else address
        timing = _Timing()
        try:
            async with asyncio.timeout(timeout_s):
                return await _ask(f"{scheme}://{host}:{port}/", timing)
        except TimeoutError:
            return lost(timing.since_ns)
        except aiohttp.ClientSSLError:
            return answered(timing.since_ns)
        except OSError as error:
            return failed(timing.since_ns, error)
        except aiohttp.ClientError:
            return answered(timing.since_ns)  # it hung up or spoke something else: it is there

    return measure


class _Timing:
    """When the current phase began: connecting, then waiting for the response."""

    def __init__(self) -> None:
        self.since_ns = time.monotonic_ns()

    async def restart(
        self, _session: aiohttp.ClientSession, _context: SimpleNamespace, _params: Any
    ) -> None:
        """The request is on its way."""
        self.since_ns = time.monotonic_ns()


async def _ask(url: str, timing: _Timing) -> Measurement:
    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(timing.restart)
    connector = aiohttp.TCPConnector(ssl=False, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as session,
        session.get(url, allow_redirects=False),
    ):
        return answered(timing.since_ns)
