"""The assignment problem as the price solver sees it: rows, candidates, resources.

Every candidate of a row uses two resources, a POP and an egress link; a candidate without a link
of its own uses a resource without limit. A row is one prefix or one piece of a heavy one and has
no memory: what moving it would cost is already in its costs.

Costs and demands are float32 and resources int16 where they fit, for at a million rows the memory
that is read is what takes the time. Sums are float64.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

DEAR_US = np.float32(1e12)
"""Cost of a candidate that cannot be used; kernels want it finite."""
ROWS_A_THREAD = 5_000
"""With fewer rows than that a second thread costs more than it saves."""
THREADS_MAX = 8

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
Ints = NDArray[Any]
Arrays = tuple[F32, Ints, Ints, F32]
"""Costs, POPs, links and demands of a market, as kernels take them."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Market:
    """n rows with k candidates each, r resources."""

    cost_us: F32
    """[n, k], `DEAR_US` where there is no candidate; every row has one below."""
    pop: Ints
    """[n, k], the resource number of the candidate's POP."""
    link: Ints
    """[n, k], the resource number of its link."""
    demand: F32
    """[n], above 0."""
    capacity: F64
    """[r]; infinite is without limit."""

    def __len__(self) -> int:
        return len(self.demand)

    @property
    def limited(self) -> NDArray[np.bool_]:
        """[r], resources that can become scarce."""
        return np.isfinite(self.capacity)

    def sampled(self, count: int) -> "Market":
        """About `count` rows that stand for all: equal steps along the cumulated demand."""
        reached = np.cumsum(self.demand, dtype=np.float64)
        steps = (np.arange(count) + 0.5) * (reached[-1] / count)
        row, times = np.unique(np.searchsorted(reached, steps), return_counts=True)
        return replace(
            self,
            cost_us=self.cost_us[row],
            pop=self.pop[row],
            link=self.link[row],
            demand=(times * (reached[-1] / count)).astype(np.float32),
        )


def resource_kind(resources: int) -> type[np.signedinteger[Any]]:
    """The smallest integers that hold the numbers of so many resources."""
    return np.int16 if resources < np.iinfo(np.int16).max else np.int32


def resource_numbers(number: Ints, resources: int) -> Ints:
    """Resource numbers in the smallest integers that hold them."""
    return np.ascontiguousarray(number, resource_kind(resources))


class Crew:
    """Threads that share the rows of a market. The kernels release the interpreter's lock."""

    def __init__(self, pool: Executor, threads: int) -> None:
        self._pool = pool
        self._threads = threads

    def each(self, rows: int, work: Callable[[int, int], Result]) -> list[Result]:
        """`work(start, stop)` for slices that cover all rows; the results in their order."""
        slices = max(1, min(self._threads, rows // ROWS_A_THREAD))
        edges = [rows * number // slices for number in range(slices + 1)]
        if slices == 1:
            return [work(0, rows)]
        jobs = [self._pool.submit(work, a, b) for a, b in pairwise(edges)]
        return [job.result() for job in jobs]


@contextmanager
def crew(threads: int | None = None) -> Iterator[Crew]:
    """As many threads as there are processors to run on, for one solution.

    Linear algebra gets none of its own: its threads spin when they have nothing to do, on the
    processors that these need.
    """
    count = threads or min(len(os.sched_getaffinity(0)), THREADS_MAX)
    algebra = _libraries().limit(limits=1, user_api="blas")
    with ThreadPoolExecutor(count, "market") as pool, algebra:
        yield Crew(pool, count)


@cache
def _libraries() -> ThreadpoolController:
    """The libraries with threads of their own; to find them takes longer than a small market."""
    return ThreadpoolController()
