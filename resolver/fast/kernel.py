"""The one decorator of all compiled functions, and where their machine code is kept.

Compiled code caches on disk, so only the very first start on a machine compiles. numba notices
when the file of a cached function changes but not when a function that it calls does; the cache
folder is therefore named after a digest of all sources of this package. numba also takes nothing
that was compiled for another folder, processor or release of itself, so these are part of the name:
code in the folder is code that this process can load.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import njit
from numba.core.registry import cpu_target

Function = TypeVar("Function", bound=Callable[..., Any])

KERNEL_FLAGS: dict[str, Any] = {
    "nogil": True,  # the slow path and the control plane run beside it
    "cache": True,
    "error_model": "numpy",  # no exceptions: nothing here divides by what a packet says
    "boundscheck": False,  # the parser checks every length once
    "fastmath": False,
    "_nrt": False,  # nothing is allocated, so arrays need no reference counts
}


_RIM = {"engine.py", "path.py", "load.py", "builder.py", "compile.py", "taken.py"}
"""No kernel reads these."""
_CONSTANTS = (
    "resolver/cookies.py",
    "resolver/demand.py",
    "resolver/wire.py",
    "popsteer/names.py",
    "popsteer/table.py",
)
"""Modules elsewhere whose constants are compiled in."""


def _digest() -> str:
    folder = Path(__file__).resolve().parent
    own = sorted(path for path in folder.glob("*.py") if path.name not in _RIM)
    processor = cpu_target.target_context.codegen().magic_tuple()
    sha = hashlib.sha256(repr((folder, numba.__version__, sys.version, processor)).encode())
    for source in (*own, *(folder.parents[1] / name for name in _CONSTANTS)):
        sha.update(source.read_bytes())
    return sha.hexdigest()[:16]


def cache_folder() -> Path:
    """Where machine code is kept: NUMBA_CACHE_DIR, else the user's cache folder."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = os.environ.get("NUMBA_CACHE_DIR") or str(user / "popsteer" / "kernels")
    return Path(root) / _digest()


# Read by numba when a function is decorated, so it is set before the first one is.
numba.config.CACHE_DIR = str(cache_folder())


def kernel(function: Function) -> Function:
    """Compile to nopython code at the first call, or take it from the disk."""
    compiled: Function = njit(**KERNEL_FLAGS)(function)
    return compiled


def inlined(function: Function) -> Function:
    """A piece of a kernel that LLVM folds into its caller.

    numba's own inlining (`inline="always"`) gives the same code but takes twice as long to compile.
    """
    compiled: Function = njit(**KERNEL_FLAGS, forceinline=True)(function)
    return compiled
