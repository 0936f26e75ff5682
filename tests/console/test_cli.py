import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.cli import GROUPS, overview, run

HEAVY = ("boto3", "numpy", "aiohttp", "pyarrow", "rich", "cyclopts", "numba", "scipy")
COMMANDS = [command.name for group in GROUPS.values() for command in group]


def call(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "POPSTEER_CONFIG"}
    return subprocess.run(
        [sys.executable, "-m", "console.cli", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_importing_the_command_loads_nothing_heavy() -> None:
    code = f"import sys, console.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert seen.stdout.strip() == "[]"


def test_help_is_printed_without_loading_anything_heavy() -> None:
    code = (
        "import sys, console.cli; code = console.cli.run(['--help']); "
        f"print(code, [m for m in {HEAVY!r} if m in sys.modules])"
    )
    seen = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert seen.stdout.splitlines()[-1] == "0 []"


def test_the_overview_names_every_command_of_the_contract() -> None:
    contract = (
        "up probe aggregate plan serve console explain table drain undrain pin cap freeze orders "
        "bench lab record replay whatif history query sign"
    )
    assert set(COMMANDS) == set(contract.split())
    lines = [line.split()[0] for line in overview().splitlines() if line.startswith("  ")]
    assert lines == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_more(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--help"]) == 0
    assert f"popsteer {command}" in capsys.readouterr().out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["explian", "10.0.0.1"]) == 2
    assert capsys.readouterr().err == "popsteer: no command 'explian'; did you mean explain?\n"


def test_an_unknown_option_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--tabel", "x"]) == 2
    error = capsys.readouterr().err
    assert "--tabel" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["drain", "fra1", "--for"], "drain"), (["table", "show", "--rows", "x"], "table show")],
)
def test_a_wrong_command_line_names_the_help_to_read(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err.endswith(f" See: popsteer {named} --help\n")


def test_a_store_that_is_not_there_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]  # free again when this ends
    file = tmp_path / "popsteer.toml"
    file.write_text(f'[aws]\nendpoint = "http://127.0.0.1:{port}"\n')
    assert run(["orders", "--config", str(file)]) == 1
    assert capsys.readouterr().err == (
        f"popsteer: s3://popsteer/orders/current.json: nothing answers at http://127.0.0.1:{port} "
        "(aws.endpoint); is `popsteer up`, or what serves it, running?\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [["explain", "10.0.0.1"], ["table", "list"], ["orders"], ["drain", "fra1"], ["freeze"]],
)
def test_without_a_running_system_one_sentence_says_what_to_do(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("POPSTEER_CONFIG", raising=False)
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert "popsteer up" in error
    assert "--config" in error
    assert len(error.splitlines()) == 1


def test_the_environment_names_the_running_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POPSTEER_CONFIG", str(tmp_path / "elsewhere.toml"))
    assert run(["orders"]) == 2
    assert str(tmp_path / "elsewhere.toml") in capsys.readouterr().err


def test_an_order_for_an_unknown_pop_names_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "popsteer.toml"
    file.write_text('[[pop]]\nid = "fra1"\n[[pop]]\nid = "lon1"\n')
    assert run(["drain", "fra", "--config", str(file)]) == 2
    assert capsys.readouterr().err == "popsteer: no POP 'fra'; did you mean fra1?\n"


def test_an_error_of_ours_has_no_traceback_and_its_own_exit_code(tmp_path: Path) -> None:
    seen = call("serve", "--config", "none.toml", folder=tmp_path)
    assert (seen.returncode, seen.stdout) == (2, "")
    assert seen.stderr == "popsteer: none.toml: no such file\n"


def test_tables_are_compiled_verified_compared_and_shown(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("10.0.0.0/8,fra1,lon1\n10.1.0.0/16,lon1=70;fra1=30\n")
    (tmp_path / "b.csv").write_text("10.0.0.0/8,fra1,lon1\n10.1.0.0/16,lon1\n")
    for name in ("a", "b"):
        made = call("table", "compile", f"{name}.csv", "-o", f"{name}.arrow", folder=tmp_path)
        assert made.returncode == 0, made.stderr
    assert call("table", "verify", "a.arrow", folder=tmp_path).returncode == 0
    told = json.loads(call("table", "diff", "a.arrow", "b.arrow", "--json", folder=tmp_path).stdout)
    assert [one["prefix"] for one in told["prefixes"]] == ["10.1.0.0/16"]
    shown = call("table", "show", "a.arrow", folder=tmp_path).stdout
    assert "lon1 70%, fra1 30%" in shown


def test_a_compiled_table_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("10.0.0.0/8,fra1\n")
    (tmp_path / "a.arrow").write_bytes(b"old")
    (tmp_path / "link.arrow").symlink_to("a.arrow")
    with (tmp_path / "a.arrow").open("rb") as reading:
        made = call("table", "compile", "a.csv", "-o", "link.arrow", folder=tmp_path)
        assert made.returncode == 0, made.stderr
        assert reading.read() == b"old"  # who has it open reads on
    assert (tmp_path / "link.arrow").is_symlink()
    assert call("table", "verify", "a.arrow", folder=tmp_path).returncode == 0
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.arrow", "a.csv", "link.arrow"]


def test_a_truncated_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("10.0.0.0/8,fra1\n")
    call("table", "compile", "a.csv", "-o", "a.arrow", folder=tmp_path)
    whole = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "half.arrow").write_bytes(whole[: len(whole) // 2])
    seen = call("table", "verify", "half.arrow", folder=tmp_path)
    assert seen.returncode == 1
    assert seen.stderr.startswith("popsteer: half.arrow: not a whole table")
    assert len(seen.stderr.splitlines()) == 1


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path: Path) -> None:
    lines = "".join(f"10.{i >> 8}.{i & 255}.0/24,p{i % 7}\n" for i in range(20_000))
    (tmp_path / "a.csv").write_text(lines)
    call("table", "compile", "a.csv", "-o", "a.arrow", folder=tmp_path)
    command = [sys.executable, "-m", "console.cli", "table", "show", "a.arrow", "--rows", "0"]
    running = subprocess.Popen(
        [*command, "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "{\n"
    running.stdout.close()
    assert running.wait(60) == 141
    assert running.stderr is not None
    assert running.stderr.read() == ""
    running.stderr.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts its background jobs with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_leaves_with_130_and_no_traceback(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.csv")
    running = subprocess.Popen(
        [sys.executable, "-m", "console.cli", "table", "compile", "fifo.csv", "-o", "x.arrow"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Opening the other end returns once the command has begun to read, that is, is well inside.
    with (tmp_path / "fifo.csv").open("w"), running:
        running.send_signal(signal.SIGINT)
        try:
            _, error = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, error) == (130, "")
