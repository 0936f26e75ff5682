"""Addresses for `popsteer up`: checked before anything starts, so that errors come at once."""

import errno
import socket
from dataclasses import dataclass

from popsteer.errors import SetupError

POP_NET = "127.20"
"""POP i listens on 127.20.x.y; all of 127.0.0.0/8 is loopback (RFC 1122 §3.2.1.3)."""
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def free_address(host: str, port: int, option: str, *, udp: bool = False) -> Address:
    """`host:port` if it can be bound; port 0 picks a free one.

    Raises:
        SetupError: names the option, the address and what to do.
    """
    for _ in range(_TRIES):
        try:
            with _bound(host, port, socket.SOCK_STREAM) as tcp:
                chosen = int(tcp.getsockname()[1])
                if udp:
                    _bound(host, chosen, socket.SOCK_DGRAM).close()
                return Address(host, chosen)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and port == 0:
                continue
            raise SetupError(_refusal(option, host, port, error)) from None
    raise SetupError(f"{option} {host}:0: no port is free for both TCP and UDP")


def _refusal(option: str, host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"{option} {host}:{port}: the port is in use; name another: {option} HOST:PORT"
        case errno.EACCES:
            return (
                f"{option} {host}:{port}: no permission to listen on a port below 1024; name a "
                f"higher one: {option} HOST:PORT"
            )
        case _:
            return f"{option} {host}:{port}: cannot listen there: {error.strerror or error}"


def pop_address(index: int) -> str:
    """The loopback address of the world's POP number `index`."""
    return f"{POP_NET}.{index // 250}.{index % 250 + 1}"


def free_pop_port(pops: int) -> int:
    """One port that is free on every POP's address.

    Raises:
        SetupError: this system has no such addresses, or no such port.
    """
    for _ in range(_TRIES):
        port = free_address(pop_address(0), 0, "POP").port
        try:
            for index in range(pops):
                _bound(pop_address(index), port, socket.SOCK_STREAM).close()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            raise SetupError(
                f"POPs need loopback addresses {POP_NET}.0.0/16: {error.strerror}"
            ) from None
        return port
    raise SetupError(f"no port is free on all of {pops} POP addresses")


def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
        bound.bind((host, port))
        if kind == socket.SOCK_STREAM:
            bound.listen(1)
    except OSError:
        bound.close()
        raise
    return bound
