"""Server cookies against the vectors of RFC 9018 and by their rules."""

from ipaddress import ip_address

import pytest

from resolver.cookies import AGE_S_MAX, RENEW_S, CookieSecret, make, reply, siphash_2_4, valid

CLIENT = bytes.fromhex("2464c4abcf10c957")
ADDRESS = bytes((198, 51, 100, 100))
NOW_S = 1_700_000_000


@pytest.mark.parametrize(
    ("secret", "address", "cookie"),
    [
        (
            "e5e973e5a6b2a43f48e7dc849e37bfcf",
            "198.51.100.100",
            "2464c4abcf10c957010000005cf79f111f8130c3eee29480",
        ),
        (
            "e5e973e5a6b2a43f48e7dc849e37bfcf",
            "198.51.100.100",
            "2464c4abcf10c957010000005cf7a871d4a564a1442aca77",
        ),
        (
            "e5e973e5a6b2a43f48e7dc849e37bfcf",
            "203.0.113.203",
            "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5",
        ),
        (
            "dd3bdf9344b678b185a6f5cb60fca715",
            "2001:db8:220:1:59de:d0f4:8769:82b8",
            "22681ab97d52c298010000005cf7c57926556bd0934c72f8",
        ),
    ],
)
def test_vectors_of_rfc_9018_appendix_a(secret: str, address: str, cookie: str) -> None:
    data = bytes.fromhex(cookie)
    packed = ip_address(address).packed
    assert siphash_2_4(bytes.fromhex(secret), data[:16] + packed) == data[16:]


def test_siphash_vector_of_its_authors() -> None:
    assert siphash_2_4(bytes(range(16)), bytes(range(15))).hex() == "e545be4961ca29a1"


def test_a_cookie_is_valid_for_its_client_its_time_and_its_secret(secret: CookieSecret) -> None:
    whole = CLIENT + make(CLIENT, ADDRESS, secret, NOW_S)
    assert valid(whole, ADDRESS, secret, NOW_S)
    assert valid(whole, ADDRESS, secret, NOW_S + AGE_S_MAX)
    assert not valid(whole, ADDRESS, secret, NOW_S + AGE_S_MAX + 1)
    assert not valid(whole, ADDRESS, secret, NOW_S - 301)
    assert not valid(whole, b"\1\2\3\4", secret, NOW_S)
    assert not valid(whole, ADDRESS, CookieSecret(b"another"), NOW_S)
    assert not valid(whole[:-1] + b"\0", ADDRESS, secret, NOW_S)


def test_a_cookie_outlives_the_rotation_of_the_secret(secret: CookieSecret) -> None:
    midnight_s = NOW_S // 86_400 * 86_400
    whole = CLIENT + make(CLIENT, ADDRESS, secret, midnight_s - 1)
    assert valid(whole, ADDRESS, secret, midnight_s + 10)
    assert secret.of_day(1) != secret.of_day(2)


def test_a_young_cookie_comes_back_an_old_or_bad_one_is_renewed(secret: CookieSecret) -> None:
    whole = CLIENT + make(CLIENT, ADDRESS, secret, NOW_S)
    assert reply(whole, ADDRESS, secret, NOW_S + RENEW_S) == whole
    for data in (whole, CLIENT, CLIENT + bytes(16), CLIENT + bytes(32)):
        renewed = reply(data, ADDRESS, secret, NOW_S + RENEW_S + 1)
        assert renewed[:8] == CLIENT
        assert valid(renewed, ADDRESS, secret, NOW_S + RENEW_S + 1)
        assert renewed != data


def test_the_timestamp_survives_2106(secret: CookieSecret) -> None:
    late_s = 2**32 + 5
    whole = CLIENT + make(CLIENT, ADDRESS, secret, late_s - 10)
    assert valid(whole, ADDRESS, secret, late_s)
