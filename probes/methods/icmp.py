"""RTT by ICMP echo (RFC 792, RFC 4443), through gufo-ping.

A raw socket (root or CAP_NET_RAW), or a datagram socket where `net.ipv4.ping_group_range` lets
this group use one. A missing permission is said in one sentence and is never a loss.
"""

import asyncio
import contextlib
import socket
import time

from gufo.ping import Ping
from gufo.ping.socket import SelectionPolicy

from popsteer.errors import SetupError
from probes.methods.measurement import Measure, Measurement, lost

NO_PERMISSION = (
    "ICMP needs CAP_NET_RAW (setcap cap_net_raw+ep on the Python executable, or "
    "AmbientCapabilities=CAP_NET_RAW in the unit) or a group in net.ipv4.ping_group_range; "
    'without either, set probe.methods = ["tcp"]'
)


def open_icmp(timeout_s: float) -> Measure:
    """Open the method; it keeps one socket for each address family."""
    ping = Ping(policy=SelectionPolicy.RAW_DGRAM, timeout=timeout_s)

    async def measure(address: str, port: int) -> Measurement:  # noqa: ARG001 -- ICMP has none
        since_ns = time.monotonic_ns()
        try:
            # The library keeps its future until the answer or its own time-out: a cancelled one
            # would be an error there, so cancellation stops here.
            rtt_s = await asyncio.shield(ping.ping(address))
        except PermissionError:
            raise SetupError(NO_PERMISSION) from None
        if rtt_s is None or rtt_s > timeout_s:
            return lost(since_ns)
        return Measurement(int(rtt_s * 1e6), lost=False)

    return measure


def check_permission() -> None:
    """Ask the kernel for the socket that the method will need.

    Raises:
        SetupError: the kernel grants none.
    """
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        with contextlib.suppress(PermissionError):
            socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP).close()
            return
    raise SetupError(NO_PERMISSION)
