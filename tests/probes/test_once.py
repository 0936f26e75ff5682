"""One measurement by hand: what a target may look like, and what comes back."""

import socket

import pytest

from popsteer.errors import ConfigError
from popsteer.samples import Method
from probes.once import Target, measurements, parse


@pytest.mark.parametrize(
    ("text", "method", "target"),
    [
        ("192.0.2.1", "tcp", Target("192.0.2.1", 443, Method.TCP)),
        ("192.0.2.1:8443", "tls", Target("192.0.2.1", 8443, Method.TLS)),
        ("192.0.2.1", "dns", Target("192.0.2.1", 53, Method.DNS)),
        ("192.0.2.1", "http", Target("192.0.2.1", 80, Method.HTTP)),
        ("2001:db8::1", "tcp", Target("2001:db8::1", 443, Method.TCP)),
        ("[2001:db8::1]", "tcp", Target("2001:db8::1", 443, Method.TCP)),
        ("[2001:db8::1]:53", "dns", Target("2001:db8::1", 53, Method.DNS)),
    ],
)
def test_a_target_is_an_address_with_or_without_a_port(
    text: str, method: str, target: Target
) -> None:
    assert parse(text, method) == target


@pytest.mark.parametrize("text", ["192.0.2.1:0", "192.0.2.1:http", ":53", "192.0.2.1:99999"])
def test_a_bad_port_is_said_in_a_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="write ADDRESS or ADDRESS:PORT"):
        parse(text, "tcp")


def test_a_name_without_an_address_is_said_in_a_sentence() -> None:
    with pytest.raises(ConfigError, match="no address for"):
        parse("no name at all", "tcp")


async def test_measurements_come_one_after_the_other() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        target = Target("127.0.0.1", sock.getsockname()[1], Method.TCP)
        taken = [one async for one in measurements(target, count=3, interval_s=0.01)]
    assert [one.lost for one in taken] == [False] * 3
