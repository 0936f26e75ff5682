"""What was needed for a moment goes back to the system."""

import subprocess
import sys

PROGRAM = """
import pathlib, numpy as np, numba
from popsteer.memory import give_back, keep_little

def rss_mb():
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Rss"))) / 1024

keep_little()
numba.njit(lambda x: x + 1)(1)
before = rss_mb()
blocks = [np.ones(1 << 14) for _ in range(2_000)]  # 256 MB in small blocks
after = rss_mb()
del blocks
give_back()
print(before, after, rss_mb())
"""


def test_freed_memory_and_the_compiler_go_back() -> None:
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    before, after, left = map(float, told.stdout.split())

    assert after > before + 200
    assert left < before  # less than before: the compiler's code has gone, too
