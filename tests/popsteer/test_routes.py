import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.errors import ConfigError
from popsteer.names import Prefix, mask, prefix_arrays
from popsteer.routes import NO_LINK, decode

LINKS = ("decix", "transit")


def routes(*lines: str) -> bytes:
    return "\n".join(("to,link", *lines)).encode()


def link_of(body: bytes, text: str, network: int | None = None) -> int:
    net, plen = prefix_arrays([Prefix.parse(text)])
    networks = None if network is None else np.array([network])
    return int(decode(body, "fra1", LINKS).through(net, plen, networks)[0])


def test_the_longest_prefix_wins_then_the_network_then_nothing_is_known() -> None:
    body = routes("10.0.0.0/8,transit", "10.1.0.0/16,decix", "AS64500,decix", "2001:db8::/32,decix")

    assert link_of(body, "10.2.0.0/24") == 1
    assert link_of(body, "10.1.9.0/24", 64501) == 0
    assert link_of(body, "192.0.2.0/24", 64500) == 0
    assert link_of(body, "192.0.2.0/24", 64501) == NO_LINK
    assert link_of(body, "2001:db8:7::/48") == 0
    assert link_of(body, "2001:db9::/48") == NO_LINK
    assert link_of(routes(), "10.0.0.0/24", 64500) == NO_LINK


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"prefix,link\n", "routes/fra1.csv:1: expected the header to,link"),
        (routes("10.0.0.0/8"), "routes/fra1.csv:2: expected to,link, found '10.0.0.0/8'"),
        (
            routes("10.0.0.0/8,transit", "10.0.0.0/8,transitt"),
            "routes/fra1.csv:3: link 'transitt' is no [[pop.link]] of fra1; did you mean transit?",
        ),
        (routes("ASx,decix"), "routes/fra1.csv:2: to 'ASx': write a prefix, or AS and a number"),
        (routes("10.0.0.1/8,decix"), "routes/fra1.csv:2: "),
        (b"\xff", "routes/fra1.csv:1: "),
    ],
)
def test_errors_name_object_line_and_value(body: bytes, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        decode(body, "fra1", LINKS)

    assert str(error.value).startswith(said)


@settings(max_examples=100)
@given(
    rules=st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 16), st.booleans())),
    asked=st.integers(0, 2**16 - 1),
)
def test_it_agrees_with_a_slow_longest_match(
    rules: list[tuple[int, int, bool]], asked: int
) -> None:
    prefixes = [(Prefix(high << 48 & mask(length), length), fast) for high, length, fast in rules]
    body = routes(*(f"{prefix},{LINKS[fast]}" for prefix, fast in prefixes))
    client = Prefix(asked << 48, 32)

    covering = [(p.length, i, fast) for i, (p, fast) in enumerate(prefixes) if p.contains(client)]

    assert link_of(body, str(client)) == (int(max(covering)[2]) if covering else NO_LINK)
