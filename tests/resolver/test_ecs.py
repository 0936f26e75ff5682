"""Client subnets: what is valid, what is looked up, what is echoed."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsteer.names import Prefix
from resolver.ecs import ClientSubnet, EcsError, parse


def option(family: int, source: int, scope: int, address: str) -> bytes:
    return struct.pack("!HBB", family, source, scope) + bytes.fromhex(address)


@pytest.mark.parametrize(
    ("data", "prefix"),
    [
        (option(1, 24, 0, "c63364"), "198.51.100.0/24"),
        (option(1, 32, 0, "c6336407"), "198.51.100.7/32"),
        (option(1, 20, 0, "c63360"), "198.51.96.0/20"),
        (option(2, 56, 0, "20010db8000001"), "2001:db8:0:100::/56"),
        (option(2, 128, 0, "20010db8000000000000000000000001"), "2001:db8::/64"),
        (option(1, 0, 0, ""), None),
        (option(2, 0, 0, ""), None),
        (option(0, 0, 0, ""), None),
    ],
)
def test_a_valid_option_is_looked_up_and_echoed(data: bytes, prefix: str | None) -> None:
    subnet = parse(data)
    assert subnet.prefix == (Prefix.parse(prefix) if prefix else None)
    assert subnet.echo(17) == data[:3] + b"\x11" + data[4:]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1\x18",
        option(0, 8, 0, "01"),
        option(0, 0, 1, ""),
        option(3, 24, 0, "010203"),
        option(1, 33, 0, "0102030405"),
        option(2, 129, 0, "01" * 17),
        option(1, 24, 24, "010203"),
        option(1, 24, 0, "01020304"),
        option(1, 24, 0, "0102"),
        option(1, 20, 0, "010203"),
        option(1, 0, 0, "00"),
    ],
)
def test_a_malformed_option_is_refused(data: bytes) -> None:
    with pytest.raises(EcsError):
        parse(data)


@given(st.binary(max_size=24))
def test_any_bytes_are_a_subnet_or_an_error(data: bytes) -> None:
    try:
        subnet = parse(data)
    except EcsError:
        return
    assert isinstance(subnet, ClientSubnet)
    assert subnet.echo(0) == data
