"""Where machine code is kept: code in the folder is code that can be loaded."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ASK = "from resolver.fast.kernel import cache_folder; print(cache_folder())"


def cache_of(tree: Path, cache: Path) -> Path:
    """The folder that a process which runs the sources in `tree` uses."""
    answer = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(answer.stdout.strip())


def test_another_place_of_the_same_sources_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Numba does not load there what was compiled here, so it must not be taken for compiled."""
    copy, cache = tmp_path / "copy", tmp_path / "cache"
    for package in ("popsteer", "resolver"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, copy / package, ignore=ignored)

    here, there = cache_of(ROOT, cache), cache_of(copy, cache)

    assert here.parent == there.parent == cache
    assert here != there
    assert here == cache_of(ROOT, cache)


def test_other_sources_have_a_folder_of_their_own(tmp_path: Path) -> None:
    for package in ("popsteer", "resolver"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    before = cache_of(tmp_path, tmp_path)

    kernel = tmp_path / "resolver" / "fast" / "lookup.py"
    kernel.write_text(kernel.read_text() + "\n")

    assert cache_of(tmp_path, tmp_path) != before
