"""The bytes of the measurement plan."""

import pytest

from popsteer import wanted
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.wanted import Wanted

PLAN = Wanted(
    created_ms=5, expires_ms=100, pops={"fra1": ("10.0.0.0/24", "2001:db8::/48"), "ams1": ()}
)


def test_bytes_give_the_plan_back() -> None:
    assert wanted.decode(wanted.encode(PLAN)) == PLAN


def test_each_pop_gets_its_own_until_the_plan_expires() -> None:
    mine = PLAN.of("fra1", 99)

    assert mine == (Prefix.parse("10.0.0.0/24"), Prefix.parse("2001:db8::/48"))
    assert PLAN.of("lon1", 99) == ()
    assert PLAN.of("fra1", 100) == ()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "measurements.json"),
        (b'{"created_ms":1,"expires_ms":2}', "pops"),
        (b'{"created_ms":1,"expires_ms":2,"pops":{},"version":2}', "version"),
        (b'{"created_ms":1,"expires_ms":2,"pops":{},"more":1}', "more"),
        (b'{"created_ms":-1,"expires_ms":2,"pops":{}}', "created_ms"),
        (b'{"created_ms":1,"expires_ms":2,"pops":{"a":["10.0.0.0/99"]}}', "10.0.0.0/99"),
        (b'{"created_ms":1,"expires_ms":2,"pops":{"a":[7]}}', "str"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        wanted.decode(data)


def test_a_plan_that_is_too_long_is_refused() -> None:
    many = Wanted(created_ms=1, expires_ms=2, pops={"a": ("10.0.0.0/24",) * (wanted.PAIRS_MAX + 1)})

    with pytest.raises(ConfigError, match="at most"):
        wanted.decode(wanted.encode(many))
