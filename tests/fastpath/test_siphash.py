"""SipHash-2-4 against the authors' vectors and the cookies of RFC 9018 appendix A."""

import ipaddress
from typing import Any

import numpy as np

from resolver.fast.kernel import kernel
from resolver.fast.siphash import cookie_hash

# Key 00 01 .. 0f, input 00 01 .. n-1, from the reference implementation's vectors.
REFERENCE_20 = bytes.fromhex("98eea21af25cd6be")


@kernel
def hashed(key: Any, words: Any, ipv6: Any) -> Any:
    return cookie_hash(key, words[0], words[1], words[2], words[3], ipv6)


def sip(key: bytes, data: bytes) -> bytes:
    words = np.frombuffer(data.ljust(32, b"\0"), "<u8")
    value = int(hashed(np.frombuffer(key, "<u8"), words, len(data) == 32))
    return value.to_bytes(8, "little")


def test_reference_vector() -> None:
    assert sip(bytes(range(16)), bytes(range(20))) == REFERENCE_20


def test_rfc_9018_appendix_a1_ipv4() -> None:
    key = bytes.fromhex("e5e973e5a6b2a43f48e7dc849e37bfcf")
    cookie = bytes.fromhex("2464c4abcf10c957010000005cf79f111f8130c3eee29480")
    address = ipaddress.ip_address("198.51.100.100").packed
    assert sip(key, cookie[:16] + address) == cookie[16:]


def test_rfc_9018_appendix_a4_ipv6() -> None:
    key = bytes.fromhex("dd3bdf9344b678b185a6f5cb60fca715")
    cookie = bytes.fromhex("22681ab97d52c298010000005cf7c57926556bd0934c72f8")
    address = ipaddress.ip_address("2001:db8:220:1:59de:d0f4:8769:82b8").packed
    assert sip(key, cookie[:16] + address) == cookie[16:]
