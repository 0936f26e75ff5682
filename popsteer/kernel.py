"""The one decorator of compiled loops over columns; the answer path has its own, `resolver.fast`.

A loop over rows is compiled where it reads better than its vectorised form, or where that would
sort or copy the same million rows again and again. Such a function takes and fills arrays, and
calls no compiled function of another file: the cache on disk sees changes of its own file alone.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile to nopython code at the first call, or take it from the disk."""
    compiled: Function = njit(cache=True, nogil=True, error_model="numpy")(function)
    return compiled
