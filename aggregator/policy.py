"""Policies: how prefixes are assigned to POPs, as functions in a dict.

A policy takes a problem and gives an assignment; what it is called in the configuration of a
service is its key here.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from aggregator.optimum import optimum
from aggregator.solve import Assignment, Problem, greedy

Policy = Callable[[Problem], Assignment]


def nearest(problem: Problem) -> Assignment:
    """Each prefix goes to its fastest usable POP, whatever the load."""
    unlimited = np.full(len(problem.capacity_bps), np.inf)
    return greedy(replace(problem, capacity_bps=unlimited))


POLICIES: dict[str, tuple[str, Policy]] = {
    "optimum": ("optimum by prices", optimum),
    "greedy": ("capacity-aware greedy", greedy),
    "nearest": ("nearest RTT", nearest),
}
"""By the name in the configuration: what it really is, for the table's metadata, and how."""
