import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.table_csv import compile_lines, read, whole_shares
from popsteer.errors import ConfigError
from popsteer.names import Prefix
from popsteer.table import SHARE_WHOLE, Table, TableMeta

META = TableMeta(generation=1)


def compiled(text: str) -> Table:
    return compile_lines(text.splitlines(), META, "table.csv")


def first(table: Table, address: str) -> str | None:
    row, _ = table.find(Prefix.of_address(address))
    return table.ranked(row)[0] if row >= 0 else None


def test_ranks_shares_comments_and_a_header_are_read() -> None:
    table = compiled(
        "prefix,pop\n# all of it\n\n10.0.0.0/8,fra1,lon1  # the rest\n10.1.0.0/16,lon1=70;fra1=30\n"
    )
    row, scope = table.find(Prefix.parse("10.1.2.0/24"))
    assert (table.ranked(row), scope) == (["lon1", "fra1"], 16)
    assert table.share[row].tolist()[:2] == [179, 76]
    assert first(table, "10.200.0.1") == "fra1"
    assert first(table, "11.0.0.1") is None


def test_the_longest_prefix_wins_whatever_the_order_of_lines() -> None:
    table = compiled("2001:db8:1::/48,lon1\n2001:db8::/32,fra1\n2001:db8:1:2::/64,par1\n")
    assert first(table, "2001:db8:1:2::9") == "par1"
    assert first(table, "2001:db8:1:3::9") == "lon1"
    assert first(table, "2001:db8:2::9") == "fra1"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("10.0.0.1/8,fra1", "host bits"),
        ("10.0.0.0/33,fra1", "10.0.0.0/33"),
        ("10.0.0/8,fra1", "10.0.0/8"),
        ("10.0.0.0/8", "expected prefix,pop"),
        ("10.0.0.0/8,Fra_1", "Fra_1"),
        ("10.0.0.0/8,", "POP id ''"),
        ("10.0.0.0/8,fra1=x", "pop=share"),
        ("10.0.0.0/8,fra1=-1", "pop=share"),
        ("10.0.0.0/8,fra1=0;lon1=0", "every share is 0"),
        ("10.0.0.0/8,fra1,fra1", "stands twice"),
        ("10.0.0.0/8," + ";".join(f"p{i}=1" for i in range(9)), "at most 8"),
        ("10.0.0.0/8,fra1,,lon1", "POP id ''"),
        ("10.0.0.0/8," + ",".join(f"p{i % 9}" for i in range(10)), "stands twice"),
    ],
)
def test_an_error_names_file_line_and_value(line: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"^table\.csv:3: ") as caught:
        compiled(f"# first\n192.0.2.0/24,fra1\n{line}\n")
    assert words in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\n"])
def test_a_file_without_prefixes_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)):
        read(path, META)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(8, 32), st.sampled_from("abc")),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 2**32 - 1),
)
def test_it_agrees_with_a_slow_longest_match(
    rows: list[tuple[int, int, str]], address: int
) -> None:
    networks = [
        (ipaddress.ip_network((number >> 32 - length << 32 - length, length)), pop)
        for number, length, pop in rows
    ]
    table = compiled("\n".join(f"{network},{pop}" for network, pop in networks))
    asked = ipaddress.ip_address(address)
    best = max(
        (
            (network.prefixlen, i, pop)
            for i, (network, pop) in enumerate(networks)
            if asked in network
        ),
        default=(0, 0, None),
    )
    assert first(table, str(asked)) == best[2]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(sum))
def test_shares_are_whole_and_close_to_what_was_asked(weights: list[float]) -> None:
    shares = whole_shares(weights)
    assert sum(shares) == SHARE_WHOLE
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - weight * SHARE_WHOLE / sum(weights)) <= 1


def test_what_spreadsheets_and_long_rankings_make_is_read() -> None:
    ranked = ",".join(f"p{i}" for i in range(12))
    table = compiled(f'"10.0.0.0/8","fra1,lon1"\n11.0.0.0/8,lon1,,\n12.0.0.0/8,{ranked}\n')
    assert first(table, "10.1.1.1") == "fra1"
    assert first(table, "11.1.1.1") == "lon1"
    row, _ = table.find(Prefix.parse("12.0.0.0/8"))
    assert table.ranked(row) == [f"p{i}" for i in range(8)]
    assert table.share[row].tolist() == [255] + [0] * 7


def test_a_byte_order_mark_is_no_part_of_the_first_prefix(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("10.0.0.0/8,fra1\n", "utf-8-sig")
    assert len(read(tmp_path / "t.csv", META)) == 1
