from pathlib import Path

import numpy as np
import pytest

from popsteer import targets
from popsteer.errors import ConfigError
from popsteer.names import Prefix, prefixes_of

GOOD = "prefix,address,weight\n192.0.2.0/24,192.0.2.1,1e6\n2001:db8::/48,2001:db8::1,0\n"


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "targets.csv"
    path.write_text(text)
    return path


def test_rows_keep_their_order(tmp_path: Path) -> None:
    found = targets.load(_write(tmp_path, GOOD))
    assert [str(p) for p in prefixes_of(found.net, found.plen)] == ["192.0.2.0/24", "2001:db8::/48"]
    assert found.address == ("192.0.2.1", "2001:db8::1")
    assert found.weight_bps.tolist() == [1e6, 0.0]


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    found = targets.load(_write(tmp_path, GOOD))
    again = tmp_path / "again.csv"
    targets.save(again, found)
    back = targets.load(again)
    np.testing.assert_array_equal(back.net, found.net)
    np.testing.assert_array_equal(back.plen, found.plen)
    np.testing.assert_array_equal(back.weight_bps, found.weight_bps)
    assert back.address == found.address


def test_no_rows_are_no_targets(tmp_path: Path) -> None:
    assert len(targets.load(_write(tmp_path, "prefix,address,weight\n"))) == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1: expected the header prefix,address,weight"),
        ("prefix,weight\n", ":1: expected the header"),
        (GOOD + "fra1,192.0.2.1,1\n", ":4: prefix 'fra1'"),
        (GOOD + "192.0.2.0/24,fra1,1\n", ":4: address 'fra1'"),
        (
            GOOD + "192.0.2.0/24,192.0.2.1\n",
            ":4: expected prefix,address,weight, found '192.0.2.0/24,192.0.2.1'",
        ),
        (GOOD + "192.0.2.0/24,192.0.2.1,many\n", ":4: weight 'many'"),
        (GOOD + "192.0.2.0/24,192.0.2.1,-1\n", ":4: weight '-1'"),
        (GOOD + "192.0.2.0/24,192.0.2.1,inf\n", ":4: weight 'inf'"),
        (GOOD + "192.0.2.0/24,192.0.2.1,nan\n", ":4: weight 'nan'"),
    ],
)
def test_refusals_name_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        targets.load(path)
    assert str(refused.value).startswith(f"{path}{says}")


def test_a_missing_file_and_a_binary_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        targets.load(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as refused:
        targets.load(path)
    assert str(path) in str(refused.value)


def test_ten_thousand_rows_load(tmp_path: Path) -> None:
    rows = "".join(
        f"10.{i // 256}.{i % 256}.0/24,10.{i // 256}.{i % 256}.1,1\n" for i in range(10_000)
    )
    found = targets.load(_write(tmp_path, f"prefix,address,weight\n{rows}"))
    assert Prefix(int(found.net[-1]), int(found.plen[-1])) == Prefix.parse("10.39.15.0/24")
