"""A table with several sets of answers, against a table for each of them."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from popsteer import table as tables
from popsteer.errors import TableError
from popsteer.names import Prefix, mask, prefix_arrays
from popsteer.table import NO_POP, SETS_MAX, Further, Ranked, Table, TableMeta, build

POPS = ("ams1", "fra1", "lon1")
VIDEO = "video.example."


def answers(first: list[int]) -> Ranked:
    """One POP a row."""
    pop = np.full((len(first), 8), NO_POP, np.uint16)
    share = np.zeros((len(first), 8), np.uint8)
    pop[:, 0], share[:, 0] = first, 255
    return Ranked(pop, share, np.full(pop.shape, 7, np.uint16))


def table_of(texts: list[str], *sets: list[int], generation: int = 1) -> Table:
    first, *further = (answers(one) for one in sets)
    named = tuple(
        Further(services=(VIDEO,), policy="nearest RTT", default=("lon1",))
        if not number
        else Further(services=(f"s{number}.example.",))
        for number, _ in enumerate(further)
    )
    meta = TableMeta(generation=generation, policy="optimum", default=("ams1",), further=named)
    net, plen = prefix_arrays(Prefix.parse(text) for text in texts)
    return build(meta, POPS, net, plen, first.pop, first.share, first.rtt, further)


BOTH = table_of(["10.0.0.0/24", "10.0.1.0/24"], [0, 0], [1, 2])


def test_neighbours_merge_only_where_all_sets_agree() -> None:
    assert len(BOTH) == 2
    assert len(table_of(["10.0.0.0/24", "10.0.1.0/24"], [0, 0], [1, 1])) == 1


def test_a_service_has_its_own_answers_and_all_others_the_first() -> None:
    client = Prefix.parse("10.0.1.7/32")

    found = {
        name: own.ranked(own.find(client)[0])
        for name in (VIDEO, "www.example.")
        for own in [BOTH.answers_of(name)]
    }

    assert found == {VIDEO: ["lon1"], "www.example.": ["ams1"]}
    assert BOTH.answers_of(VIDEO).meta.policy == "nearest RTT"
    assert BOTH.answers_of(VIDEO).meta.default == ("lon1",)
    assert BOTH.answers_of("www.example.") is BOTH


def test_bytes_give_all_sets_back() -> None:
    back = tables.decode(tables.encode(BOTH))

    assert back.meta == BOTH.meta
    for one, other in zip(back.sets, BOTH.sets, strict=True):
        assert one.meta == other.meta
        assert np.array_equal(one.pop, other.pop)
        assert np.array_equal(one.share, other.share)
        assert np.array_equal(one.rtt, other.rtt)


def test_a_rollback_keeps_all_sets() -> None:
    again = tables.renumber(BOTH, 9, 5, "rollback to 1")

    assert [one.meta.generation for one in again.sets] == [9, 9]
    assert again.answers_of(VIDEO).meta.policy == "nearest RTT"


def test_bytes_that_name_other_sets_than_they_hold_are_refused() -> None:
    one = table_of(["10.0.0.0/24"], [0])
    lies = one.with_meta(msgspec.structs.replace(one.meta, further=(Further(services=("x.",)),)))

    with pytest.raises(TableError):
        tables.decode(tables.encode(lies))


def test_there_are_only_so_many_sets() -> None:
    with pytest.raises(TableError, match="8 further sets"):
        table_of(["10.0.0.0/24"], *[[0]] * (SETS_MAX + 1))


def test_every_set_is_checked() -> None:
    with pytest.raises(TableError, match="POP index 3"):
        table_of(["10.0.0.0/24"], [0], [3])


@settings(max_examples=100)
@given(data=st.data())
def test_each_set_answers_as_if_it_stood_alone(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(8, 26), min_size=1, max_size=8))
    texts = [
        str(Prefix.parse(f"10.{data.draw(st.integers(0, 3))}.{64 * (i % 4)}.0/32"))
        for i in range(len(lengths))
    ]
    cut = [Prefix.parse(f"{text.partition('/')[0]}/32") for text in texts]
    prefixes = [
        str(Prefix(one.net & mask(length), length))
        for one, length in zip(cut, lengths, strict=True)
    ]
    column = st.lists(st.integers(0, 2), min_size=len(prefixes), max_size=len(prefixes))
    sets = data.draw(st.lists(column, min_size=2, max_size=4))
    whole = table_of(prefixes, *sets)

    for number, own in enumerate(sets):
        alone = table_of(prefixes, own)
        for client in cut:
            ours, theirs = whole.sets[number], alone
            row, other = ours.find(client)[0], theirs.find(client)[0]
            assert (row < 0) == (other < 0)
            if row >= 0:
                assert ours.ranked(row) == theirs.ranked(other)
