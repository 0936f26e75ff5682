"""dig, kdig, drill and delv understand every answer."""

from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)
Served = Any  # tests/interop/conftest.py; tests are no package to import from


@pytest.mark.parametrize("transport", ["+edns=0", "+tcp"])
@pytest.mark.parametrize("client", ["dig", "kdig"])
def test_every_name_by_dig_and_kdig(
    served: Served, questions: list[tuple[str, str]], client: str, transport: str
) -> None:
    for name, rtype in questions:
        command = [served.space.program(client), "@127.0.0.1", transport, name, rtype]
        out = served.space.run(*command)
        assert "status: NOERROR" in out, out
        assert "ANSWER: 0" not in out, out
        assert not any(bad in out.lower() for bad in ("malformed", "mismatch", "trailing")), out


@pytest.mark.parametrize("transport", ["-u", "-t"])
def test_every_name_by_drill(
    served: Served, questions: list[tuple[str, str]], transport: str
) -> None:
    for name, rtype in questions:
        command = [served.space.program("drill"), transport, "@127.0.0.1", name, rtype]
        out = served.space.run(*command)
        if transport == "-u" and name.startswith("big."):
            assert "qr aa tc" in out, out
            continue
        assert "rcode: NOERROR" in out, out
        assert "ANSWER: 0" not in out, out


def test_every_name_by_delv(served: Served, questions: list[tuple[str, str]]) -> None:
    for name, rtype in questions:
        command = [served.space.program("delv"), "@127.0.0.1", "-i", "+noroot", name, rtype]
        out = served.space.run(*command)
        assert out.startswith("; authoritative"), out
        assert {rtype, "CNAME"} & set(out.split()), out


def test_dig_checks_cookie_nsid_and_subnet(served: Served) -> None:
    out = served.space.dig("+nsid", "+subnet=10.2.9.0/24", "www.cdn.example", "A")
    assert "198.51.100.3" in out
    assert "(good)" in out
    assert '("node-1")' in out
    assert "CLIENT-SUBNET: 10.2.9.0/24/16" in out


def test_dig_and_kdig_transfer_with_the_key_and_not_without(served: Served) -> None:
    for client in ("dig", "kdig"):
        command = [served.space.program(client), "@127.0.0.1", "cdn.example", "AXFR"]
        assert "198.51.100.3" not in served.space.run(*command)
        whole = served.space.run(*command, "-y", served.secret_line())
        assert whole.count("SOA") == 2, whole
        assert "198.51.100.3" in whole
        assert "NOERROR" in whole  # of the signature
