"""Sequence numbers: the layout of AWS's version 2, and an order that nothing breaks."""

from hypothesis import given
from hypothesis import strategies as st

from console.localaws.sequence import DIGITS, TICK_MAX, Ticker, encode, position, tick_of

CREATED_US = 1_763_715_723_000_000
TICKS = st.integers(CREATED_US, CREATED_US + 10**15)
INDEXES = st.integers(0, 10_000)


@given(TICKS, INDEXES)
def test_numbers_have_56_digits_and_give_the_tick_back(tick: int, index: int) -> None:
    number = encode(CREATED_US, index, tick)

    assert len(str(number)) == DIGITS
    assert tick_of(number) == tick
    assert position(number, CREATED_US, index) == tick


@given(TICKS, INDEXES)
def test_the_kcl_reads_version_and_shard_of_a_number(tick: int, index: int) -> None:
    """As software.amazon.kinesis.checkpoint.SequenceNumberValidator does."""
    number = encode(CREATED_US, index, tick)

    assert number.bit_length() == 186
    assert number >> 184 == 2
    assert number >> 4 & 0xFFFFFFFF == index


@given(TICKS, TICKS, INDEXES)
def test_numbers_of_a_shard_are_in_the_order_of_ticks(one: int, other: int, index: int) -> None:
    numbers = encode(CREATED_US, index, one), encode(CREATED_US, index, other)

    assert (numbers[0] < numbers[1]) == (one < other)


def test_a_child_starts_above_all_its_parent_gave() -> None:
    parents_last = encode(CREATED_US, 9, CREATED_US + 5_000_000)

    assert encode(CREATED_US + 5_000_001, 1, CREATED_US + 5_000_001) > parents_last


def test_foreign_numbers_give_the_nearest_position() -> None:
    assert position(0, CREATED_US, 3) == 0
    assert position(10**60, CREATED_US, 3) == TICK_MAX


@given(st.lists(st.integers(0, 1000), min_size=2))
def test_ticks_grow_even_when_the_clock_does_not(clock: list[int]) -> None:
    ticker = Ticker()

    ticks = [ticker.next(now_us) for now_us in clock]

    assert ticks == sorted(set(ticks))
    assert all(tick >= now_us for tick, now_us in zip(ticks, clock, strict=True))
