"""The table against a slow twin that walks all prefixes, and its bytes against damage."""

import ipaddress
import itertools
from dataclasses import replace

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer import table as tables
from popsteer.errors import TableError, TrustError
from popsteer.names import Prefix, prefix_arrays
from popsteer.signing import Signer, verifier
from popsteer.table import CANDIDATES_MAX, NO_POP, NO_RTT, SHARE_WHOLE, Table, TableMeta

POPS = ("ams1", "fra1", "nyc1")
SIGNER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRUSTED = verifier((SIGNER.public_hex,))

Rule = tuple[Prefix, tuple[int, ...]]


def _table(rules: list[Rule], generation: int = 7) -> Table:
    pop = np.full((len(rules), CANDIDATES_MAX), NO_POP, np.uint16)
    share = np.zeros((len(rules), CANDIDATES_MAX), np.uint8)
    rtt = np.full((len(rules), CANDIDATES_MAX), NO_RTT, np.uint16)
    for row, (_, ranked) in enumerate(rules):
        pop[row, : len(ranked)] = ranked
        share[row, 0] = SHARE_WHOLE
        rtt[row, : len(ranked)] = 100
    net, plen = prefix_arrays([prefix for prefix, _ in rules])
    meta = TableMeta(generation=generation, created_ms=5, policy="optimum", default=("nyc1",))
    return tables.build(meta, POPS, net, plen, pop, share, rtt)


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    """Nested prefixes of both families in a small space."""
    found = []
    for _ in range(draw(st.integers(0, 12))):
        ranked = tuple(draw(st.permutations(range(len(POPS)))))[: draw(st.integers(1, 3))]
        family, length = draw(st.sampled_from([0, 0x80])), draw(st.integers(0, 6))
        number = draw(st.integers(0, 2**length - 1))
        found.append((Prefix(number << (64 - length) if length else 0, length | family), ranked))
    return found


def _by_walking(given: list[Rule], address: Prefix) -> tuple[int, ...] | None:
    covering = [
        (prefix.length, row, ranked)
        for row, (prefix, ranked) in enumerate(given)
        if prefix.contains(address)
    ]
    return max(covering)[2] if covering else None


def _addresses() -> list[Prefix]:
    """Both ends of each smallest block of both families."""
    found = []
    for family, length in ((0, 32), (0x80, 64)):
        for block in range(64):
            low = block << 58
            last = (low | (1 << 58) - 1) >> (64 - length) << (64 - length)
            found += [Prefix(low, length | family), Prefix(last, length | family)]
    return found


@given(rules())
@settings(max_examples=200)
def test_find_is_the_longest_match(given: list[Rule]) -> None:
    table = _table(given)
    for address in _addresses():
        row, _ = table.find(address)
        expected = _by_walking(given, address)
        found = None if row < 0 else tuple(int(p) for p in table.pop[row] if p != NO_POP)
        assert found == expected


@given(rules())
@settings(max_examples=200)
def test_scopes_are_disjoint_and_each_has_one_answer(given: list[Rule]) -> None:
    """RFC 7871 section 7.2.1: a resolver may use an answer for its whole scope."""
    table = _table(given)
    answers: dict[ipaddress.IPv4Network | ipaddress.IPv6Network, int] = {}
    for address in _addresses():
        row, scope = table.find(address)
        low = address.net >> (64 - scope) << (64 - scope) if scope else 0
        block = ipaddress.ip_network(str(Prefix(low, scope | (address.plen & 0x80))))
        assert answers.setdefault(block, row) == row
    for family in (4, 6):
        blocks = sorted(
            (b for b in answers if b.version == family), key=lambda b: int(b.network_address)
        )
        for a, b in itertools.pairwise(blocks):
            assert int(a.broadcast_address) < int(b.network_address), f"{a} overlaps {b}"


@given(rules())
@settings(max_examples=100)
def test_neighbours_with_equal_answers_are_merged(given: list[Rule]) -> None:
    table = _table(given)
    for a, b in itertools.pairwise(range(len(table))):
        one, two = (Prefix(int(table.net[i]), int(table.plen[i])) for i in (a, b))
        buddies = (
            one.plen == two.plen and one.length > 0 and one.net ^ two.net == 1 << (64 - one.length)
        )
        assert not (buddies and (table.pop[a] == table.pop[b]).all())


def test_equal_prefixes_the_later_wins() -> None:
    prefix = Prefix.parse("192.0.2.0/24")
    assert _table([(prefix, (0,)), (prefix, (1,))]).ranked(0) == ["fra1"]


def test_nothing_found_gives_the_default_order() -> None:
    table = _table([(Prefix.parse("192.0.2.0/24"), (0,))])
    row, scope = table.find(Prefix.of_address("192.0.3.7"))
    assert (row, scope) == (-1, 24)
    assert table.ranked(row) == ["nyc1"]
    assert table.find(Prefix.of_address("2001:db8::1")) == (-1, 0)


@given(rules())
@settings(max_examples=50)
def test_bytes_give_the_table_back(given: list[Rule]) -> None:
    table = _table(given)
    back = tables.decode(tables.encode(table, SIGNER), TRUSTED)
    assert back.meta == table.meta
    assert back.pops == table.pops
    for name in ("net", "plen", "pop", "share", "rtt", "scope"):
        np.testing.assert_array_equal(getattr(back, name), getattr(table, name))
        assert getattr(back, name).dtype == getattr(table, name).dtype


SMALL = _table([(Prefix.parse("192.0.2.0/24"), (0, 1)), (Prefix.parse("2001:db8::/32"), (2,))])


def test_a_truncated_table_is_refused_at_every_cut() -> None:
    sealed = tables.encode(SMALL, SIGNER)
    for cut in range(len(sealed)):
        with pytest.raises((TableError, TrustError)):
            tables.decode(sealed[:cut], TRUSTED)


def test_a_truncated_unsigned_table_is_refused_or_whole() -> None:
    body = tables.encode(SMALL)
    for cut in range(len(body)):
        try:
            table = tables.decode(body[:cut])
        except TableError:
            continue
        np.testing.assert_array_equal(table.net, SMALL.net)
        np.testing.assert_array_equal(table.pop, SMALL.pop)


def test_no_flipped_bit_passes_the_seal() -> None:
    sealed = tables.encode(SMALL, SIGNER)
    for at in range(len(sealed)):
        damaged = bytearray(sealed)
        damaged[at] ^= 1 << at % 8
        with pytest.raises((TableError, TrustError)):
            tables.decode(bytes(damaged), TRUSTED)


def test_flipped_bits_without_a_seal_raise_one_kind_of_error() -> None:
    body = tables.encode(SMALL)
    refused = 0
    for at in range(len(body)):
        damaged = bytearray(body)
        damaged[at] ^= 1 << at % 8
        try:
            tables.decode(bytes(damaged))
        except TableError:
            refused += 1
    assert refused


def test_only_a_trusted_key_signs() -> None:
    with pytest.raises(TrustError, match="not signed"):
        tables.decode(tables.encode(SMALL), TRUSTED)
    with pytest.raises(TrustError, match="unknown key"):
        tables.decode(tables.encode(SMALL, OTHER), TRUSTED)
    sealed, foreign = tables.encode(SMALL, SIGNER), tables.encode(_table([]), SIGNER)
    with pytest.raises(TrustError, match="does not match"):
        tables.decode(sealed[:-80] + foreign[-80:], TRUSTED)


def test_a_sealed_table_reads_without_a_verifier() -> None:
    assert tables.decode(tables.encode(SMALL, SIGNER)).meta.generation == 7


BROKEN = {
    "overlap": replace(SMALL, net=SMALL.net * np.uint64(0), plen=np.zeros(2, np.uint8)),
    "prefix length": replace(SMALL, plen=np.array([33, 0x80 | 32], np.uint8)),
    "host bits": replace(SMALL, net=SMALL.net + np.uint64(1)),
    "families are mixed": replace(SMALL, plen=SMALL.plen[::-1].copy()),
    "ECS scope": replace(SMALL, scope=np.array([33, 64], np.uint8)),
    "POP index 2 of 1": replace(SMALL, pops=("ams1",)),
    "row 0 has no POP": replace(SMALL, pop=np.roll(SMALL.pop, 3, axis=1)),
    "row 0: shares add up to 127": replace(SMALL, share=SMALL.share // 2),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_table_that_breaks_an_invariant_is_refused(message: str) -> None:
    with pytest.raises(TableError, match=message):
        tables.decode(tables.encode(BROKEN[message]))


def test_too_many_pops_are_refused() -> None:
    with pytest.raises(TableError, match="4097 POPs; at most 4096"):
        tables.decode(tables.encode(replace(SMALL, pops=tuple(f"p{i}" for i in range(4097)))))


@pytest.mark.parametrize(
    ("ranked", "shares", "message"),
    [
        ([NO_POP, 0], [0, 255], "row 0 has no POP"),
        ([3], [255], "POP index 3 of 3"),
        ([0, NO_POP, 1], [255], "behind an empty candidate"),
        ([0], [254, 1], "share without a POP"),
        ([0, 1], [254], "add up to 254"),
    ],
)
def test_rows_that_cannot_be_are_not_built(
    ranked: list[int], shares: list[int], message: str
) -> None:
    pop = np.full((1, CANDIDATES_MAX), NO_POP, np.uint16)
    share = np.zeros((1, CANDIDATES_MAX), np.uint8)
    pop[0, : len(ranked)] = ranked
    share[0, : len(shares)] = shares
    net, plen = prefix_arrays([Prefix.parse("192.0.2.0/24")])
    with pytest.raises(TableError, match=message):
        tables.build(TableMeta(generation=1), POPS, net, plen, pop, share, np.zeros_like(pop))


@pytest.mark.parametrize("data", [b"", b"POPSEAL1", bytes(200), b'{"a": 1}'])
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(TableError):
        tables.decode(data)


def test_renumber_changes_nothing_but_its_history() -> None:
    again = tables.renumber(SMALL, 9, 77, "rolled back")
    meta = again.meta
    assert (meta.generation, meta.parent, meta.created_ms, meta.note) == (9, 7, 77, "rolled back")
    assert meta.policy == SMALL.meta.policy
    assert again.net is SMALL.net


def test_a_million_prefixes_build_in_seconds() -> None:
    count = 1_000_000
    net = (np.arange(count, dtype=np.uint64) << np.uint64(8)) << np.uint64(32)
    plen = np.full(count, 24, np.uint8)
    pop = np.full((count, CANDIDATES_MAX), NO_POP, np.uint16)
    pop[:, 0] = np.arange(count) % 3
    share = np.zeros((count, CANDIDATES_MAX), np.uint8)
    share[:, 0] = SHARE_WHOLE
    table = tables.build(TableMeta(generation=1), POPS, net, plen, pop, share, np.zeros_like(pop))
    assert len(table) == count
