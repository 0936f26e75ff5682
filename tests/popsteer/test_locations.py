from pathlib import Path

import numpy as np
import pytest

from popsteer import locations
from popsteer.errors import ConfigError
from popsteer.names import prefixes_of

GOOD = "prefix,latitude,longitude\n192.0.2.0/24,50.03,8.57\n2001:db8::/48,-33.9,151.2\n"


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "locations.csv"
    path.write_text(text)
    return path


def test_rows_keep_their_order(tmp_path: Path) -> None:
    found = locations.load(_write(tmp_path, GOOD))

    assert [str(p) for p in prefixes_of(found.net, found.plen)] == ["192.0.2.0/24", "2001:db8::/48"]
    assert found.at.tolist() == [[50.03, 8.57], [-33.9, 151.2]]


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    found = locations.load(_write(tmp_path, GOOD))
    again = tmp_path / "again.csv"

    locations.save(again, found)

    back = locations.load(again)
    np.testing.assert_array_equal(back.net, found.net)
    np.testing.assert_array_equal(back.plen, found.plen)
    np.testing.assert_array_equal(back.at, found.at)


def test_no_rows_are_no_locations(tmp_path: Path) -> None:
    assert locations.load(_write(tmp_path, GOOD.splitlines()[0] + "\n")).at.shape == (0, 2)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ":1: expected the header prefix,latitude,longitude"),
        (GOOD + "10.0.0.0/8,1\n", ":4: expected prefix,latitude,longitude, found '10.0.0.0/8,1'"),
        (GOOD + "fra1,1,1\n", ":4: prefix 'fra1'"),
        (GOOD + "10.0.0.0/8,91,0\n", ":4: latitude, longitude '91,0': write degrees"),
        (GOOD + "10.0.0.0/8,0,nan\n", ":4: latitude, longitude '0,nan': write degrees"),
        (GOOD + "10.0.0.0/8,north,0\n", ":4: latitude, longitude 'north,0': write degrees"),
        (GOOD + "192.0.2.0/24,0,0\n", ":4: 192.0.2.0/24 a second time: a prefix is in one place"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, text: str, says: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        locations.load(path)
    assert str(caught.value).startswith(f"{path}{says}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.csv: No such file"):
        locations.load(tmp_path / "none.csv")
