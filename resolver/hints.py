"""Address hints of SVCB and HTTPS records that follow the steered POP (RFC 9460 §7.3). Pure.

A client may connect to a hint before it has the addresses, so hints of a steered name must be the
addresses of the very POP that A and AAAA would name.
"""

import struct

IPV4HINT, IPV6HINT = 4, 6
_HINTS = {IPV4HINT, IPV6HINT}


def has_hints(wire: bytes) -> bool:
    """Whether the record's data carries an address hint."""
    return any(key in _HINTS for key, _ in _params(wire))


def with_hints(wire: bytes, ipv4: tuple[bytes, ...], ipv6: tuple[bytes, ...]) -> bytes:
    """The data with its hints replaced; a hint for which the POP has no address goes away."""
    addresses = {IPV4HINT: b"".join(ipv4), IPV6HINT: b"".join(ipv6)}
    kept = [(key, addresses.get(key, value)) for key, value in _params(wire)]
    return wire[: _params_at(wire)] + b"".join(
        struct.pack("!HH", key, len(value)) + value
        for key, value in kept
        if value or key not in _HINTS
    )


def _params_at(wire: bytes) -> int:
    """Offset of the SvcParams: behind SvcPriority and TargetName, which is never compressed."""
    offset = 2
    while wire[offset]:
        offset += 1 + wire[offset]
    return offset + 1


def _params(wire: bytes) -> list[tuple[int, bytes]]:
    offset = _params_at(wire)
    params = []
    while offset < len(wire):
        key, size = struct.unpack_from("!HH", wire, offset)
        params.append((key, wire[offset + 4 : offset + 4 + size]))
        offset += 4 + size
    return params
