from hypothesis import given
from hypothesis import strategies as st

from aggregator.seen import GAPS_MAX, Mark, union

sequences = st.lists(st.integers(0, 40), max_size=60)


def mark_of(numbers: list[int]) -> Mark:
    mark = Mark()
    for number in numbers:
        if not mark.has(number):
            mark = mark.add(number, number)
    return mark


def seen_of(mark: Mark) -> set[int]:
    return {n for n in range(64) if mark.has(n)}


@given(sequences)
def test_a_mark_knows_what_a_set_knows(numbers: list[int]) -> None:
    assert seen_of(mark_of(numbers)) == set(numbers)


@given(sequences, sequences)
def test_the_union_has_seen_what_either_has(left: list[int], right: list[int]) -> None:
    both = union({"a": mark_of(left)}, {"a": mark_of(right), "b": mark_of(right)})

    assert seen_of(both["a"]) == set(left) | set(right)
    assert seen_of(both["b"]) == set(right)


@given(sequences)
def test_numbers_in_order_leave_no_gap(numbers: list[int]) -> None:
    ordered = sorted(set(numbers))

    gaps = mark_of(ordered).gaps

    assert len(gaps) == sum(b - a > 1 for a, b in zip([-1, *ordered], ordered, strict=False))


def test_the_oldest_gaps_are_given_up_first() -> None:
    mark = mark_of(list(range(0, 4 * GAPS_MAX, 2)))

    assert len(mark.gaps) == GAPS_MAX
    assert mark.has(1)  # forgotten: a late record would count as a duplicate
    assert not mark.has(4 * GAPS_MAX - 3)
