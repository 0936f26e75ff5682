"""Names of things: POPs, links, sources, DNS names, prefixes.

A prefix is what an answer is keyed by. In arrays it is two columns: `net: uint64`, IPv4 in the
top 32 bits or the top 64 bits of IPv6, and `plen: uint8` with bit 7 set for IPv6. So the block of
a prefix is `2 ** (64 - length)` numbers in both families, and sorting by (family, net) is sorting
by address. IPv6 beyond /64 is cut to /64: no resolver is steered by an interface identifier.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import total_ordering
from typing import NewType

import numpy as np
from numpy.typing import NDArray

from popsteer.errors import ConfigError

PopId = NewType("PopId", str)
"""A POP, as `fra1`."""

Subject = NewType("Subject", str)
"""What a signal is about: a POP (`fra1`) or one of its links (`fra1/decix`)."""

SourceId = NewType("SourceId", str)
"""An agent's lane, as `fra1.rtt`: one partition key, one sequence."""

IPV6_BIT = 0x80
LENGTH_MASK = 0x7F
U64_MAX = 2**64 - 1

ID_RULE = "use 1 to 32 lower-case letters, digits or inner hyphens, as in fra1"
_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")

Net = NDArray[np.uint64]
Plen = NDArray[np.uint8]


def is_id(text: str) -> bool:
    """Whether it may name a POP or a link; see `ID_RULE`."""
    return _ID.fullmatch(text) is not None


def pop_id(text: str) -> PopId:
    """A checked POP id.

    Raises:
        ConfigError: it breaks `ID_RULE`.
    """
    if not is_id(text):
        raise ConfigError(f"POP id {text!r}: {ID_RULE}")
    return PopId(text)


def link_subject(pop: str, link: str) -> Subject:
    """The subject of a POP's link."""
    return Subject(f"{pop}/{link}")


def demand_subject(pop: str, number: int) -> Subject:
    """What demand is reported under: the POP, and the set of answers where it is a further one."""
    return Subject(f"{pop}/{number}" if number else pop)


def pop_of(subject: str) -> PopId:
    """The POP of a subject, whether it is the POP itself or one of its links."""
    return PopId(subject.partition("/")[0])


def dns_name(text: str) -> str:
    """A DNS name in the form that we compare: lower case, absolute (RFC 4343)."""
    return text.lower().rstrip(".") + "."


@total_ordering
@dataclass(frozen=True, slots=True)
class Prefix:
    """One prefix; `net` and `plen` exactly as in arrays. Order: IPv4 first, then by address."""

    net: int
    plen: int

    @classmethod
    def parse(cls, text: str) -> "Prefix":
        """From `192.0.2.0/24`, `2001:db8::/48` or a bare address (/32, or /64 for IPv6).

        Raises:
            ConfigError: not a prefix, or host bits are set.
        """
        try:
            network = ipaddress.ip_network(text.strip())
        except ValueError as error:
            raise ConfigError(f"prefix {text!r}: {error}") from None
        if network.version == 4:
            return cls(int(network.network_address) << 32, network.prefixlen)
        length = min(network.prefixlen, 64)
        top = int(network.network_address) >> 64
        return cls(top & mask(length), length | IPV6_BIT)

    @classmethod
    def of_address(cls, address: str) -> "Prefix":
        """The prefix of one client: /32 or /64.

        Raises:
            ConfigError: not an IP address.
        """
        try:
            ip = ipaddress.ip_address(address.strip())
        except ValueError as error:
            raise ConfigError(f"address {address!r}: {error}") from None
        if ip.version == 4:
            return cls(int(ip) << 32, 32)
        return cls(int(ip) >> 64, 64 | IPV6_BIT)

    @property
    def is_ipv6(self) -> bool:
        """Whether the family is IPv6."""
        return bool(self.plen & IPV6_BIT)

    @property
    def length(self) -> int:
        """Prefix length in bits of its own family, at most 64."""
        return self.plen & LENGTH_MASK

    @property
    def last(self) -> int:
        """The last number of the block, as `net` is the first."""
        return self.net | (U64_MAX ^ mask(self.length))

    def contains(self, other: "Prefix") -> bool:
        """Whether `other` lies within this prefix."""
        return (
            self.is_ipv6 == other.is_ipv6
            and self.length <= other.length
            and self.net == other.net & mask(self.length)
        )

    def __lt__(self, other: "Prefix") -> bool:
        return (self.is_ipv6, self.net, self.length) < (other.is_ipv6, other.net, other.length)

    def __str__(self) -> str:
        if self.is_ipv6:
            return f"{ipaddress.IPv6Address(self.net << 64)}/{self.length}"
        return f"{ipaddress.IPv4Address(self.net >> 32)}/{self.length}"


def mask(length: int) -> int:
    """The top `length` bits of 64 set."""
    return U64_MAX ^ ((1 << (64 - length)) - 1)


def prefix_arrays(prefixes: Iterable[Prefix]) -> tuple[Net, Plen]:
    """Two columns of equal length, in the order given."""
    listed = list(prefixes)
    net = np.array([p.net for p in listed], np.uint64)
    return net, np.array([p.plen for p in listed], np.uint8)


def prefixes_of(net: Net, plen: Plen) -> list[Prefix]:
    """The inverse of `prefix_arrays`."""
    return [Prefix(int(n), int(p)) for n, p in zip(net, plen, strict=True)]
