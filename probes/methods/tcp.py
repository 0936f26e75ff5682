"""RTT by TCP connect: SYN to SYN-ACK, or to RST.

Where the kernel tells its own measurement of the handshake (Linux, TCP_INFO), that is taken: it
holds none of the time in which this process was busy.
"""

import asyncio
import socket
import struct
import time

from probes.methods.measurement import Measure, Measurement, answered, failed, lost

_TCPI_RTT_AT = 68
"""Offset of `tcpi_rtt` (u32, microseconds) in Linux's struct tcp_info."""


def open_tcp(timeout_s: float) -> Measure:
    """Open the method."""

    async def measure(address: str, port: int) -> Measurement:
        since_ns = time.monotonic_ns()
        try:
            with new_socket(address, socket.SOCK_STREAM) as sock:
                since_ns = time.monotonic_ns()
                async with asyncio.timeout(timeout_s):
                    await asyncio.get_running_loop().sock_connect(sock, (address, port))
                taken = answered(since_ns)
                return Measurement(min(taken.rtt_us, _kernel_rtt_us(sock, taken)), lost=False)
        except TimeoutError:
            return lost(since_ns)
        except OSError as error:
            return failed(since_ns, error)

    return measure


def new_socket(address: str, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking socket of the address's family."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    return sock


def _kernel_rtt_us(sock: socket.socket, taken: Measurement) -> int:
    if not hasattr(socket, "TCP_INFO"):
        return taken.rtt_us
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
    if len(info) < _TCPI_RTT_AT + 4:
        return taken.rtt_us
    (rtt_us,) = struct.unpack_from("=I", info, _TCPI_RTT_AT)
    # 0 is "not measured": the SYN was sent again, so no answer is surely its own (Karn).
    return int(rtt_us) or taken.rtt_us
