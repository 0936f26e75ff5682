"""One target measured by hand: `popsteer probe once TARGET`; gives values, prints nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

from popsteer.errors import ConfigError
from popsteer.samples import Method
from probes.methods import METHODS, Measurement

DEFAULT_PORT = {Method.DNS: 53, Method.HTTP: 80}
OTHER_PORT = 443


@dataclass(frozen=True, slots=True)
class Target:
    """Where one measurement goes."""

    address: str
    port: int
    method: Method


def parse(text: str, method: str) -> Target:
    """`ADDRESS`, `NAME`, `ADDRESS:PORT` or `[V6]:PORT`; a name is resolved by this machine.

    Raises:
        ConfigError: not of that form, or a name without an address.
    """
    how = Method[method.upper()]
    host, port = _host_port(text, DEFAULT_PORT.get(how, OTHER_PORT))
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(
            f"target {text!r}: no address for {host!r} ({error}); write an IP address"
        ) from None
    return Target(str(found[0][4][0]), port, how)


def _host_port(text: str, default: int) -> tuple[str, int]:
    if text.count(":") > 1 and not text.startswith("["):
        return text, default  # a bare IPv6 address
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        return text.strip("[]"), default
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise ConfigError(f"target {text!r}: write ADDRESS or ADDRESS:PORT, as in 192.0.2.1:443")
    return host.strip("[]"), int(port)


async def measurements(
    target: Target, *, count: int = 1, interval_s: float = 1.0, timeout_s: float = 1.0
) -> AsyncIterator[Measurement]:
    """Measure `count` times, one after the other.

    Raises:
        SetupError: this machine does not let the probe out.
    """
    measure = METHODS[target.method](timeout_s)
    for number in range(count):
        if number:
            await asyncio.sleep(interval_s)
        yield await measure(target.address, target.port)
