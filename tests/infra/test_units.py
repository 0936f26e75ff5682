"""Units and container file say what the commands are really called."""

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

INFRA = Path(__file__).parents[2] / "infra"
PROCESSES = ("probe", "aggregate", "plan", "serve", "console")
UNITS = sorted((INFRA / "systemd").glob("*.service"))


def _unit(path: Path) -> RawConfigParser:
    # A key may stand several times (Environment=); only the last is looked at here.
    unit = RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    return unit


def test_one_unit_per_process() -> None:
    assert [path.stem for path in UNITS] == sorted(f"popsteer-{name}" for name in PROCESSES)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_unit_runs_its_process_as_nobody_special(path: Path) -> None:
    service = _unit(path)["Service"]
    process = path.stem.removeprefix("popsteer-")
    assert service["ExecStart"].split()[1:3] == [process, "--config"]
    assert service["User"] == "popsteer"
    assert service["NoNewPrivileges"] == "yes"
    assert service["ProtectSystem"] == "strict"


def test_only_serve_and_probe_have_a_capability() -> None:
    given = {path.stem: _unit(path)["Service"].get("AmbientCapabilities", "") for path in UNITS}
    assert {unit: what for unit, what in given.items() if what} == {
        "popsteer-serve": "CAP_NET_BIND_SERVICE",
        "popsteer-probe": "CAP_NET_RAW",
    }


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_finds_no_fault(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on PATH")
    # The program need not be installed for the unit to be right.
    unit = tmp_path / path.name
    program = shutil.which("true")
    unit.write_text(path.read_text().replace("/opt/popsteer/bin/popsteer", f"{program}"))
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    ours = [line for line in answer.stderr.splitlines() if path.name in line]
    assert not ours, answer.stderr


def test_container_copies_every_package_and_is_not_root() -> None:
    text = (INFRA / "container" / "Containerfile").read_text()
    for package in ("popsteer", "probes", "aggregator", "resolver", "console", "benchmarks"):
        assert f"COPY {package} {package}\n" in text
    assert "\nUSER 8053:8053\n" in text
    assert 'ENTRYPOINT ["popsteer"]' in text
