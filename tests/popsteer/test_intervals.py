"""Ranges against a slow obvious twin: a walk over every number of a small space."""

import ipaddress

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer.intervals import GAP, Ranges, blocks, common_prefix_length, flatten, last_of, merge
from popsteer.names import U64_MAX, Prefix, prefix_arrays

SPACE_BITS = 6


@st.composite
def small_prefixes(draw: st.DrawFn) -> list[Prefix]:
    """Prefixes of the top six bits, so that every case of nesting comes up."""
    found = []
    for _ in range(draw(st.integers(0, 12))):
        length = draw(st.integers(0, SPACE_BITS))
        number = draw(st.integers(0, 2**length - 1))
        found.append(Prefix(number << (64 - length) if length else 0, length))
    return found


def _owner_by_walking(prefixes: list[Prefix], number: int) -> int:
    """The longest that covers it; of equal ones the later."""
    covering = [(p.length, row) for row, p in enumerate(prefixes) if p.net <= number <= p.last]
    return max(covering)[1] if covering else GAP


def _owners(ranges: Ranges, numbers: list[int]) -> list[int]:
    found = []
    for number in numbers:
        inside = (ranges.first <= np.uint64(number)) & (np.uint64(number) <= ranges.last)
        rows = ranges.owner[inside]
        assert len(rows) <= 1, "ranges overlap"
        found.append(int(rows[0]) if len(rows) else GAP)
    return found


def _points() -> list[int]:
    """Both ends of every smallest block."""
    step = 1 << (64 - SPACE_BITS)
    return [edge for i in range(2**SPACE_BITS) for edge in (i * step, i * step + step - 1)]


@given(small_prefixes())
@settings(max_examples=300)
def test_flatten_is_the_longest_match(prefixes: list[Prefix]) -> None:
    ranges = flatten(*prefix_arrays(prefixes))
    expected = [_owner_by_walking(prefixes, number) for number in _points()]
    assert _owners(ranges, _points()) == expected
    assert (ranges.first <= ranges.last).all()
    assert (ranges.first[1:] > ranges.last[:-1]).all()


@given(small_prefixes(), st.data())
@settings(max_examples=300)
def test_merge_keeps_answers_and_leaves_no_equal_neighbours(
    prefixes: list[Prefix], data: st.DataObject
) -> None:
    answer = np.array([data.draw(st.integers(0, 2)) for _ in prefixes], np.int64)
    ranges = flatten(*prefix_arrays(prefixes))
    merged = merge(ranges, answer)
    given_answers = [int(answer[o]) if o != GAP else GAP for o in _owners(ranges, _points())]
    kept = [int(answer[o]) if o != GAP else GAP for o in _owners(merged, _points())]
    assert kept == given_answers
    for i in range(len(merged.first) - 1):
        touching = int(merged.last[i]) + 1 == int(merged.first[i + 1])
        assert not (touching and answer[merged.owner[i]] == answer[merged.owner[i + 1]])


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=20, unique=True))
@settings(max_examples=300)
def test_blocks_are_those_of_summarize_address_range(numbers: list[int]) -> None:
    edges = sorted(numbers)[: len(numbers) // 2 * 2]
    pairs = list(zip(edges[::2], edges[1::2], strict=True))
    ranges = Ranges(
        np.array([a << 32 for a, _ in pairs], np.uint64),
        np.array([b << 32 | 0xFFFFFFFF for _, b in pairs], np.uint64),
        np.arange(len(pairs)),
    )
    net, plen, owner = blocks(ranges, ipv6=False)
    expected = [
        (str(network), row)
        for row, (a, b) in enumerate(pairs)
        for network in ipaddress.summarize_address_range(
            ipaddress.IPv4Address(a), ipaddress.IPv4Address(b)
        )
    ]
    ours = [(str(Prefix(int(n), int(p))), int(o)) for n, p, o in zip(net, plen, owner, strict=True)]
    assert ours == expected


@given(st.integers(0, U64_MAX), st.integers(0, U64_MAX))
def test_blocks_of_any_range_cover_exactly_it(a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    ranges = Ranges(
        np.array([first], np.uint64), np.array([last], np.uint64), np.zeros(1, np.int64)
    )
    net, plen, _ = blocks(ranges, ipv6=True)
    ends = last_of(net, plen)
    assert int(net[0]) == first
    assert int(ends[-1]) == last
    assert (net[1:] == ends[:-1] + np.uint64(1)).all()


@given(st.integers(0, U64_MAX), st.integers(0, 64))
def test_last_of_is_that_of_prefix(number: int, length: int) -> None:
    prefix = Prefix(number >> (64 - length) << (64 - length), length)
    assert int(last_of(*prefix_arrays([prefix]))[0]) == prefix.last


@given(st.integers(0, U64_MAX), st.integers(0, U64_MAX))
def test_common_prefix_length_is_that_of_the_bits(a: int, b: int) -> None:
    bits = list(zip(f"{a:064b}", f"{b:064b}", strict=True))
    expected = next((i for i, (x, y) in enumerate(bits) if x != y), 64)
    assert common_prefix_length(a, b) == expected


def test_nothing_gives_nothing() -> None:
    ranges = flatten(*prefix_arrays([]))
    assert not len(merge(ranges, np.zeros(0, np.int64)).first)
    assert not len(blocks(ranges, ipv6=False)[0])
