from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from console.table_csv import compile_lines
from popsteer.names import Prefix, prefixes_of
from popsteer.table import Table, TableMeta
from popsteer.table_diff import Move, diff, moves

Line = tuple[int, int, str]
# A few octets apart, so that prefixes of two tables often meet.
LINES = st.lists(
    st.tuples(
        st.integers(0, 255),
        st.sampled_from([5, 6, 8]),
        st.sampled_from(["a", "b", "a,b", "b=1;a=1"]),
    ),
    min_size=1,
    max_size=8,
)


def made(lines: list[Line], default: tuple[str, ...] = ()) -> Table:
    text = [f"{n >> 8 - p << 8 - p}.0.0.0/{p},{answer}" for n, p, answer in lines]
    text += [f"{n >> 8 - p << 8 - p:x}00::/{p},{answer}" for n, p, answer in lines]
    return compile_lines(text, TableMeta(generation=1, default=default), "x")


def answer(table: Table, prefix: Prefix) -> list[tuple[str, int]]:
    row, _ = table.find(prefix)
    if row < 0:
        return [(pop, 0 if i else 255) for i, pop in enumerate(table.meta.default)]
    return list(zip(table.ranked(row), table.share[row].tolist(), strict=False))


def test_a_table_does_not_differ_from_itself() -> None:
    table = made([(10, 8, "a"), (20, 8, "b,a")])
    assert len(diff(table, replace(table))) == 0


def test_a_moved_prefix_is_found_and_counted() -> None:
    old = made([(10, 8, "a"), (20, 8, "b")])
    new = made([(10, 8, "b"), (20, 8, "b")])
    changed = diff(old, new)
    texts = [str(prefix) for prefix in prefixes_of(changed.net, changed.plen)]
    assert texts == ["10.0.0.0/8", "a00::/8"]
    assert moves(changed) == [Move("a", "b", 2)]


def test_a_row_that_says_what_the_default_says_may_vanish() -> None:
    old, new = made([(10, 8, "a"), (20, 8, "b")], ("a",)), made([(20, 8, "b")], ("a",))
    assert len(diff(old, new)) == 0


def test_another_default_changes_what_no_row_covers() -> None:
    old = made([(10, 8, "a")], ("a",))
    new = replace(old, meta=msgspec.structs.replace(old.meta, default=("b",)))
    changed = diff(old, new)
    inside = [
        p for p in prefixes_of(changed.net, changed.plen) if p.contains(Prefix.parse("10.0.0.0/8"))
    ]
    assert not inside
    assert {move[:2] for move in moves(changed)} == {("a", "b")}


@given(LINES, LINES, st.sampled_from([(), ("a",), ("b", "a")]))
def test_it_agrees_with_asking_both_tables_everywhere(
    old_lines: list[Line], new_lines: list[Line], default: tuple[str, ...]
) -> None:
    old, new = made(old_lines), made(new_lines, default)
    changed = prefixes_of((difference := diff(old, new)).net, difference.plen)
    for octet in range(256):
        for text in (f"{octet}.1.1.1", f"{octet:x}01::1" if octet else "1::1"):
            at = Prefix.of_address(text)
            differs = answer(old, at) != answer(new, at)
            assert differs == any(prefix.contains(at) for prefix in changed), text
