import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from popsteer.errors import ConfigError
from popsteer.names import (
    Prefix,
    dns_name,
    link_subject,
    mask,
    pop_id,
    pop_of,
    prefix_arrays,
    prefixes_of,
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Any IPv4 network, any IPv6 network up to /64."""
    if draw(st.booleans()):
        length = draw(st.integers(0, 32))
        number = draw(st.integers(0, 2**32 - 1))
        return ipaddress.ip_network((number >> (32 - length) << (32 - length), length))
    length = draw(st.integers(0, 64))
    number = draw(st.integers(0, 2**64 - 1)) >> (64 - length) << (64 - length)
    return ipaddress.IPv6Network((number << 64, length))


@given(networks())
def test_parse_and_text_are_inverse(network: Network) -> None:
    assert str(Prefix.parse(str(network))) == str(network)


@given(networks(), networks())
def test_contains_is_that_of_ipaddress(a: Network, b: Network) -> None:
    inside = a.version == b.version and b.subnet_of(a)  # type: ignore[arg-type]
    assert Prefix.parse(str(a)).contains(Prefix.parse(str(b))) == inside


@given(st.lists(networks()))
def test_order_is_by_family_then_address(found: list[Network]) -> None:
    ours = [str(p) for p in sorted(Prefix.parse(str(n)) for n in found)]
    theirs = sorted(found, key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    assert ours == [str(n) for n in theirs]


@given(networks())
def test_last_is_the_last_address(network: Network) -> None:
    last = int(network.broadcast_address)
    expected = last << 32 | 2**32 - 1 if network.version == 4 else last >> 64
    assert Prefix.parse(str(network)).last == expected


@given(st.lists(networks()))
def test_arrays_and_back(found: list[Network]) -> None:
    prefixes = [Prefix.parse(str(n)) for n in found]
    net, plen = prefix_arrays(prefixes)
    assert net.dtype == np.uint64
    assert plen.dtype == np.uint8
    assert prefixes_of(net, plen) == prefixes


@given(st.ip_addresses())
def test_an_address_is_a_prefix_of_its_own(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    prefix = Prefix.of_address(str(address))
    assert prefix.length == (32 if address.version == 4 else 64)
    assert address in ipaddress.ip_network(str(prefix))


def test_ipv6_beyond_64_is_cut() -> None:
    assert str(Prefix.parse("2001:db8::1/128")) == "2001:db8::/64"


@pytest.mark.parametrize("text", ["", "192.0.2.1/24", "192.0.2.0/33", "2001:db8::/129", "fra1"])
def test_what_is_no_prefix_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="prefix") as refused:
        Prefix.parse(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("text", ["", "192.0.2.0/24", "192.0.2.256", "::g"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match="address") as refused:
        Prefix.of_address(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize("length", range(65))
def test_mask_sets_the_top_bits(length: int) -> None:
    assert f"{mask(length):064b}" == "1" * length + "0" * (64 - length)


@pytest.mark.parametrize("text", ["fra1", "a", "a-b", "0", "a" * 32])
def test_good_pop_ids(text: str) -> None:
    assert pop_id(text) == text


@pytest.mark.parametrize("text", ["", "FRA1", "-a", "a-", "a_b", "a/b", "a" * 33, "fra1\n", "ü"])
def test_bad_pop_ids(text: str) -> None:
    with pytest.raises(ConfigError, match="POP id"):
        pop_id(text)


def test_subjects_name_their_pop() -> None:
    assert link_subject("fra1", "decix") == "fra1/decix"
    assert pop_of("fra1/decix") == "fra1"
    assert pop_of("fra1") == "fra1"


@pytest.mark.parametrize(
    ("text", "name"), [("WWW.CDN.example", "www.cdn.example."), ("a.", "a."), (".", ".")]
)
def test_dns_names_are_lower_case_and_absolute(text: str, name: str) -> None:
    assert dns_name(text) == name
