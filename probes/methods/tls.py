"""RTT by TLS handshake on an open connection: ClientHello to the server's Finished.

With TLS 1.3 (RFC 8446 section 2) that is one round trip and the server's signing. Certificates
are not checked: the question is how far the server is, not who it is. An alert is an answer.
"""

import asyncio
import socket
import ssl
import time

from probes.methods.measurement import Measure, Measurement, answered, failed, lost
from probes.methods.tcp import new_socket


def open_tls(timeout_s: float) -> Measure:
    """Open the method."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def measure(address: str, port: int) -> Measurement:
        since_ns = time.monotonic_ns()
        try:
            with new_socket(address, socket.SOCK_STREAM) as sock:
                since_ns = time.monotonic_ns()
                async with asyncio.timeout(timeout_s):
                    await asyncio.get_running_loop().sock_connect(sock, (address, port))
                    since_ns = time.monotonic_ns()
                    return await _handshake(sock.dup(), context, since_ns)
        except TimeoutError:
            return lost(since_ns)
        except ssl.SSLError:
            return answered(since_ns)
        except OSError as error:
            return failed(since_ns, error)

    return measure


async def _handshake(sock: socket.socket, context: ssl.SSLContext, since_ns: int) -> Measurement:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(
        asyncio.Protocol, sock=sock, ssl=context, server_hostname=""
    )
    taken = answered(since_ns)
    transport.abort()
    return taken
