from pathlib import Path

import pytest

from popsteer import lab
from popsteer.errors import ConfigError
from popsteer.lab import Changes, RttChange, Watch

SOME = Changes(
    rtt=(RttChange(prefix="10.0.0.0/24", pop="*", factor=2.0),),
    down=("fra",),
    load_bps={"nyc": 1e9},
    demand={"10.0.0.0/8": 3.0},
)


def test_no_file_is_no_change(tmp_path: Path) -> None:
    assert lab.load(tmp_path / lab.FILE) == Changes()


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / lab.FILE
    lab.save(path, SOME)
    assert lab.load(path) == SOME
    assert [left.name for left in tmp_path.iterdir()] == [lab.FILE]


@pytest.mark.parametrize("text", ["", "[]", '{"down": 3}', '{"rtt": [{}]}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / lab.FILE
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"lab\.json"):
        lab.load(path)


def test_watch_sees_each_change_once_and_keeps_the_last_good(tmp_path: Path) -> None:
    path = tmp_path / lab.FILE
    watch = Watch(path)
    assert not watch.poll()
    lab.save(path, SOME)
    assert watch.poll()
    assert watch.changes == SOME
    assert not watch.poll()
    path.write_text("{")
    assert not watch.poll()
    assert watch.changes == SOME
    path.unlink()
    assert watch.poll()
    assert watch.changes == Changes()
