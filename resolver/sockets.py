"""The sockets of a DNS node: UDP and TCP on each address, once per worker.

They are bound by the parent and handed to the workers, so that a worker that dies and comes back
finds its queries waiting.
"""

import errno
import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from popsteer.errors import SetupError

TCP_BACKLOG = 256
UDP_BUFFER_BYTES = 4 * 1024 * 1024
_PMTUDISC_PROBE = 3
"""linux/in.h: always set DF and never believe a smaller path MTU (RFC 9715 §3.1)."""
_IPV6_MTU_DISCOVER, _IP_MTU_DISCOVER = 23, 10
_IP_PKTINFO = 8


@dataclass(frozen=True, slots=True)
class Bound:
    """One address of one worker."""

    udp: socket.socket
    tcp: socket.socket

    def close(self) -> None:
        """Both."""
        self.udp.close()
        self.tcp.close()


def bind(addresses: list[tuple[str, int]], workers: int) -> list[list[Bound]]:
    """Sockets by worker; port 0 gives one free port that UDP and TCP share.

    Raises:
        SetupError: an address cannot be had; nothing stays bound then.
    """
    bound: list[list[Bound]] = [[] for _ in range(workers)]
    try:
        for host, wanted in ((one, port) for name, port in addresses for one in _hosts(name)):
            port = wanted
            shared = workers > 1
            if shared and wanted:
                # SO_REUSEPORT would join another server's sockets without a word.
                _pair(host, wanted, shared=False).close()
            for sockets in bound:
                sockets.append(_pair(host, port, shared))
                port = sockets[-1].udp.getsockname()[1]
    except BaseException:
        for sockets in bound:
            for one in sockets:
                one.close()
        raise
    return bound


def _hosts(name: str) -> list[str]:
    """The addresses of a host: itself, or those of its name."""
    try:
        return [str(ip_address(name))]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        raise SetupError(f"dns.listen = {name}: no such host; write an IP address") from None
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def _pair(host: str, port: int, shared: bool) -> Bound:
    """UDP and TCP on the same port."""
    for _ in range(16):
        udp = _socket(host, port, socket.SOCK_DGRAM, shared)
        try:
            tcp = _socket(host, udp.getsockname()[1], socket.SOCK_STREAM, shared)
        except SetupError:
            udp.close()
            if port:
                raise
            continue  # a free UDP port whose TCP twin is taken: try another
        tcp.listen(TCP_BACKLOG)
        return Bound(udp, tcp)
    raise SetupError(f"dns.listen = {host}:0: no port is free for both UDP and TCP")


def _socket(host: str, port: int, kind: socket.SocketKind, shared: bool) -> socket.socket:
    version = ip_address(host).version
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    one = socket.socket(family, kind)
    try:
        one.setblocking(False)
        if kind == socket.SOCK_STREAM:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if version == 6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_DGRAM:
            _tune_udp(one, version, anywhere=ip_address(host).is_unspecified)
        one.bind((host, port))
    except OSError as error:
        one.close()
        raise SetupError(_reason(host, port, kind, error)) from None
    return one


def _tune_udp(one: socket.socket, version: int, anywhere: bool) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
    if version == 4:
        one.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)
    else:
        one.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
    if anywhere and version == 4:
        one.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
    elif anywhere:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)


def _reason(host: str, port: int, kind: socket.SocketKind, error: OSError) -> str:
    protocol = "UDP" if kind == socket.SOCK_DGRAM else "TCP"
    where = f"dns.listen = {host}:{port}: {protocol}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} port {port} is in use by another process; stop it or choose another port"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{where} port {port} needs the right CAP_NET_BIND_SERVICE"
    return f"{where}: {os.strerror(error.errno or 0)}"
