"""`popsteer lab …`: what it writes, what it says, what it refuses."""

from pathlib import Path

import pytest

from console.cli import run
from popsteer.lab import Changes, RttChange, load

CONFIG = """
data = "."
[[pop]]
id = "fra1"
ipv4 = ["127.0.0.1"]
[[pop]]
id = "lon1"
ipv4 = ["127.0.0.2"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "popsteer.toml").write_text(CONFIG)
    monkeypatch.setenv("POPSTEER_CONFIG", str(tmp_path / "popsteer.toml"))
    return tmp_path


def changes(folder: Path) -> Changes:
    return load(folder / "lab.json")


def test_a_change_is_written_told_and_taken_back(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lab", "down", "lon1", "fra1"]) == 0
    assert run(["lab", "up", "fra1"]) == 0
    assert run(["lab", "rtt", "10.0.7.0/24", "*", "--add-ms", "300"]) == 0
    assert changes(folder) == Changes(
        down=("lon1",), rtt=(RttChange(prefix="10.0.7.0/24", pop="*", add_ms=300),)
    )
    assert capsys.readouterr().out.splitlines() == [
        "lon1 fra1: the listeners close; they open again with: popsteer lab up lon1 fra1",
        "fra1: the listeners open",
        "10.0.7.0/24 to every POP: RTT x1 + 300 ms, 0% lost",
    ]

    assert run(["lab", "rtt", "10.0.7.0/24", "*"]) == 0
    assert run(["lab", "up", "lon1"]) == 0
    assert changes(folder) == Changes()


@pytest.mark.parametrize(
    "arguments",
    [
        ["down"],
        ["up", "ams1"],
        ["rtt", "10.0.0.0/8", "fra1", "--loss", "5"],
        ["rtt", "10.0.0.0/8", "fra1", "--factor", "0"],
        ["rtt", "10.0.0.0/8", "fra1", "--add-ms", "-3"],
        ["rtt", "10.0.0.0/8", "ams1"],
        ["rtt", "10.0.0", "fra1"],
        ["demand", "10.0.0.0/8", "-3"],
        ["load-pop", "fra1", "-3"],
        ["load-pop", "ams1", "3"],
    ],
)
def test_what_no_world_can_be_is_refused(
    arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["lab", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (folder / "lab.json").exists()
