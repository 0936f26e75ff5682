"""What the documents say about commands, versions and pins is true."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import popsteer

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
COMMAND = re.compile(r"^\s*(?:\$ )?(?:[^#]*&& )?(?:uv run )?popsteer(?= |$)(.*)$")
WORD = re.compile(r"[a-z][a-z-]*")


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _fenced(text: str) -> list[str]:
    """Lines of code blocks, fenced or indented by four."""
    lines, inside = [], False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            inside = not inside
        elif inside or line.startswith("    "):
            lines.append(line)
    return lines


def _commands() -> list[str]:
    """The arguments of every popsteer command in the README."""
    found = (COMMAND.match(line) for line in _fenced(README.read_text()))
    return sorted({match[1].partition("#")[0].strip() for match in found if match})


def _help(*words: str) -> str:
    answer = subprocess.run(
        [sys.executable, "-m", "console.cli", *words, "--help"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, f"popsteer {' '.join(words)} --help: {answer.stderr}"
    return answer.stdout


def test_readme_gives_the_two_commands() -> None:
    text = README.read_text()
    assert "uv run popsteer up" in text
    assert "uv run pytest" in text


@pytest.mark.parametrize("command", _commands())
def test_commands_of_the_readme_exist(command: str) -> None:
    if find_spec("console.cli") is None:
        pytest.skip("console.cli is not there")
    known = _help()
    words: list[str] = []
    # Words up to the first argument or option are subcommands, as far as help lists them.
    for word in shlex.split(command):
        if not WORD.fullmatch(word) or not re.search(rf"\b{word}\b", known):
            break
        words.append(word)
        known = _help(*words)
    assert words or not command or command.startswith("-"), f"popsteer {command}: no such command"
    for option in re.findall(r"(?<!\S)--[a-z-]+", command):
        assert option in known, f"popsteer {command}: {option} is not in its help"


def test_changelog_tells_of_this_version() -> None:
    version = _project()["project"]["version"]
    assert re.search(
        rf"^## \[?{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_one_version() -> None:
    assert _project()["project"]["version"] == popsteer.__version__


def test_every_dependency_is_pinned_within_its_bounds() -> None:
    project = _project()
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    pins = {pin.partition("==")[0] for pin in project["tool"]["uv"]["constraint-dependencies"]}
    # Stubs change nothing at run time.
    names = {re.split(r"[\[<>=; ]", text)[0].lower() for text in wanted}
    assert not {name for name in names if not name.startswith("types-")} - pins
