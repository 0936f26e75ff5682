"""EDNS Client Subnet: read, judge, echo (RFC 7871 §6, §7). Pure."""

import struct
from dataclasses import dataclass

from popsteer.names import IPV6_BIT, Prefix, mask

OPTION = 8
_FAMILY_BITS = {1: 32, 2: 128}
_NO_FAMILY = 0


class EcsError(Exception):
    """An option that RFC 7871 calls malformed: the query is a FORMERR."""


@dataclass(frozen=True, slots=True)
class ClientSubnet:
    """A valid option of a query."""

    family: int
    """1 IPv4, 2 IPv6; 0 goes with no address at all."""
    source: int
    """SOURCE PREFIX-LENGTH."""
    address: bytes
    """As few octets as the prefix needs."""

    @property
    def prefix(self) -> Prefix | None:
        """What to look up; None where the client wants to stay unknown (/0)."""
        if not self.source:
            return None
        if self.family == 1:
            return Prefix(int.from_bytes(self.address.ljust(8, b"\0"), "big"), self.source)
        top = int.from_bytes(self.address[:8].ljust(8, b"\0"), "big")
        length = min(self.source, 64)
        return Prefix(top & mask(length), length | IPV6_BIT)

    def echo(self, scope: int) -> bytes:
        """The option of the answer: FAMILY, SOURCE and ADDRESS as asked (§7.2.1)."""
        return struct.pack("!HBB", self.family, self.source, scope) + self.address


def parse(data: bytes) -> ClientSubnet:
    """The subnet in an option's data.

    Raises:
        EcsError: unknown FAMILY, SCOPE not 0, an address of another length than SOURCE needs, or
            bits set behind SOURCE (§6, §7.1.1).
    """
    if len(data) < 4:
        raise EcsError
    family, source, scope = struct.unpack_from("!HBB", data)
    address = data[4:]
    if family == _NO_FAMILY and not source and not scope and not address:
        return ClientSubnet(family, source, address)
    bits = _FAMILY_BITS.get(family)
    if bits is None or source > bits or scope or len(address) != (source + 7) // 8:
        raise EcsError
    if source % 8 and address[-1] & (0xFF >> source % 8):
        raise EcsError
    return ClientSubnet(family, source, address)
