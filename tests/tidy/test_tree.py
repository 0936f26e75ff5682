"""House rules that a machine can read off the tree; each is a ratchet, none a nag."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("popsteer", "probes", "aggregator", "resolver", "console", "benchmarks")

FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60
KERNEL_LINES_MAX = 90
KERNEL_DECORATORS = {"njit", "kernel", "inlined"}
"""numba's, and those of resolver/fast."""
PROSE_AND_CODE = {".py", ".tf", ".js", ".css", ".html", ".md", ".service", ".toml", ".yml", ".sh"}
JUNK_DRAWERS = {
    "utils",
    "util",
    "helpers",
    "helper",
    "manager",
    "managers",
    "base",
    "common",
    "misc",
}
LOCK_FILES = {"uv.lock", "poetry.lock", "Pipfile.lock", "package-lock.json", ".terraform.lock.hcl"}

# Written apart, because no file of the project may contain them, this one included.
HOSTS = tuple(
    name.replace(" ", "")
    for name in (
        "py pi.org",
        "python hosted.org",
        "npm js.org",
        "npm js.com",
        "crates .io",
        "maven .org",
        "proxy.go lang.org",
        "docker .io",
        "gh cr.io",
        "qu ay.io",
        "registry.terra form.io",
        "deb .debian.org",
        "index -url",
    )
)
MACHINE = re.compile(
    r"(?<![\w.])/(?:wo"
    r"rk|ro"
    r"ot|ho"
    r"me/\w+)/|sha"
    r"red/(?:facts|prototypes|design\.md|style\.md)"
)


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file of the project, new ones too."""
    return _tracked()


@pytest.fixture(scope="module")
def trees(files: list[Path]) -> dict[Path, ast.Module]:
    """Every Python file, parsed."""
    return {path: ast.parse(path.read_text()) for path in files if path.suffix == ".py"}


def _in_packages(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] in PACKAGES


def _at(path: Path, line: int = 0) -> str:
    return f"{path.relative_to(ROOT)}:{line}" if line else str(path.relative_to(ROOT))


def test_the_tree_is_found(files: list[Path], trees: dict[Path, ast.Module]) -> None:
    assert ROOT / "pyproject.toml" in files
    assert ROOT / "popsteer" / "names.py" in trees


def test_no_file_is_too_long(files: list[Path]) -> None:
    too_long = [
        f"{_at(path)} has {lines} lines"
        for path in files
        if path.suffix in PROSE_AND_CODE
        and (lines := len(path.read_text().splitlines())) > FILE_LINES_MAX
    ]
    assert not too_long


def test_no_function_is_too_long(trees: dict[Path, ast.Module]) -> None:
    too_long = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                lines = node.end_lineno - node.lineno + 1
                if lines > (KERNEL_LINES_MAX if _is_kernel(node) else FUNCTION_LINES_MAX):
                    too_long.append(f"{_at(path, node.lineno)} {node.name} has {lines} lines")
    assert not too_long


def _is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    names = {
        ast.unparse(decorator).partition("(")[0].rpartition(".")[2]
        for decorator in node.decorator_list
    }
    return bool(names & KERNEL_DECORATORS)


def test_every_module_says_what_it_owns(trees: dict[Path, ast.Module]) -> None:
    silent = [
        _at(p) for p, tree in trees.items() if _in_packages(p) and not ast.get_docstring(tree)
    ]
    assert not silent


def test_only_the_console_prints(trees: dict[Path, ast.Module]) -> None:
    # stdout of a KCL child is protocol.
    printing = [
        _at(path, node.lineno)
        for path, tree in trees.items()
        if _in_packages(path) and path.relative_to(ROOT).parts[0] != "console"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
    ]
    assert not printing


def test_no_global_that_changes(trees: dict[Path, ast.Module]) -> None:
    changed = [
        _at(path, node.lineno)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
    ]
    assert not changed


def test_no_junk_drawers(files: list[Path]) -> None:
    drawers = [
        _at(path)
        for path in files
        if path.suffix == ".py" and JUNK_DRAWERS & {path.stem, *path.relative_to(ROOT).parts[:-1]}
    ]
    assert not drawers


def test_tests_are_no_package(files: list[Path]) -> None:
    tests = ROOT / "tests"
    assert not [_at(p) for p in files if p.is_relative_to(tests) and p.name == "__init__.py"]


def test_no_lock_file_is_tracked(files: list[Path]) -> None:
    assert not [_at(path) for path in files if path.name in LOCK_FILES]


def test_no_file_names_a_registry_or_a_machine(files: list[Path]) -> None:
    named = []
    for path in files:
        try:
            lines = path.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            found = [host for host in HOSTS if host in line] + MACHINE.findall(line)
            named += [f"{_at(path, number)} names {name}" for name in found]
    assert not named
