"""RTT by a DNS query over UDP (RFC 1035); whatever response comes counts, REFUSED as well.

The question is for a reserved name (RFC 2606) that any resolver holds or refuses at once. Random
id, port and letter case (draft-vixie-dnsext-dns0x20) keep off-path answers out: what does not
match the question is not an answer.
"""

import asyncio
import random
import socket
import time

from dns.exception import DNSException
from dns.flags import RD
from dns.message import Message, from_wire, make_query
from dns.rcode import Rcode

from probes.methods.measurement import Measure, Measurement, answered, failed, lost
from probes.methods.tcp import new_socket

NAME = "example.com."
_RESPONSE_BYTES_MAX = 4_096


def open_dns(timeout_s: float) -> Measure:
    """Open the method."""
    rng = random.SystemRandom()

    async def measure(address: str, port: int) -> Measurement:
        query = make_query(_any_case(NAME, rng), "A", flags=RD, id=rng.randrange(1 << 16))
        wire = query.to_wire()
        since_ns = time.monotonic_ns()
        try:
            with new_socket(address, socket.SOCK_DGRAM) as sock:
                sock.connect((address, port))
                since_ns = time.monotonic_ns()
                async with asyncio.timeout(timeout_s):
                    sock.send(wire)
                    return await _response(sock, query, since_ns)
        except TimeoutError:
            return lost(since_ns)
        except OSError as error:
            return failed(since_ns, error)

    return measure


async def _response(sock: socket.socket, query: Message, since_ns: int) -> Measurement:
    loop = asyncio.get_running_loop()
    while True:
        wire = await loop.sock_recv(sock, _RESPONSE_BYTES_MAX)
        taken = answered(since_ns)
        if _answers(query, wire):
            return taken


def _answers(query: Message, wire: bytes) -> bool:
    try:
        response = from_wire(wire, ignore_trailing=True)
    except DNSException:
        return False
    if not query.is_response(response):
        return False
    if not response.question:
        return response.rcode() != Rcode.NOERROR
    # Names compare without case; their text does not.
    return response.question[0].name.to_text() == query.question[0].name.to_text()


def _any_case(name: str, rng: random.Random) -> str:
    return "".join(rng.choice((c.lower(), c.upper())) for c in name)
