"""What others take for the same market: HiGHS for the linear programme, OR-Tools for the flow.

Links lie behind one POP each, so the market is also a flow: row, link, POP, sink. A minimum cost
flow needs whole numbers; demands are rounded to thousandths of the mean. OR-Tools is optional. How
much fits at all is a maximum flow, by SciPy.
"""

import time
from dataclasses import dataclass
from importlib import util
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linprog
from scipy.sparse.csgraph import maximum_flow

from aggregator.market import DEAR_US, Ints, Market
from aggregator.newton import OVERFLOW_US
from benchmarks.solver_world import Shape, make_market

DEMAND_STEPS = 1_000
"""Whole units of the mean demand in the flow."""
HIGHS_S_MAX = 600.0
WHOLE_STEPS = 1_500_000_000
"""Whole units of all demand where only the amount counts: what 32 bits hold."""


@dataclass(frozen=True, slots=True)
class Peer:
    """How a peer did."""

    name: str
    rows: int
    wall_s: float
    cpu_s: float
    mean_us: float
    """Demand-weighted cost of its solution; overload, if any, at its price. NaN: there is none."""


def has_flow() -> bool:
    """Whether OR-Tools is installed."""
    return util.find_spec("ortools") is not None


def highs(shape: Shape) -> Peer:
    """The whole linear programme, every candidate a column, by HiGHS's own choice of method."""
    market = make_market(shape)
    n, k = market.cost_us.shape
    limited = np.flatnonzero(market.limited)
    number = np.full(len(market.capacity), -1)
    number[limited] = np.arange(len(limited))
    demand = np.repeat(market.demand.astype(np.float64), k)
    scale, over, e = float(market.demand.mean()), len(limited), n * k
    line = np.concatenate([number[market.pop.ravel()], number[market.link.ravel()]])
    lines = np.concatenate([line, np.arange(over)])
    columns = np.concatenate([np.tile(np.arange(e), 2), e + np.arange(over)])
    entries = np.concatenate([demand / scale, demand / scale, np.full(over, -1.0)])
    real = lines >= 0
    use = sparse.csr_matrix((entries[real], (lines[real], columns[real])), (over, e + over))
    row = np.repeat(np.arange(n), k)
    whole = sparse.csr_matrix((np.ones(e), (row, np.arange(e))), (n, e + over))
    cost = market.cost_us.ravel().astype(np.float64) * demand / scale
    start, cpu = time.perf_counter(), time.process_time()
    found = linprog(
        np.concatenate([cost, np.full(over, OVERFLOW_US)]),
        A_ub=use,
        b_ub=market.capacity[limited] / scale,
        A_eq=whole,
        b_eq=np.ones(n),
        method="highs",
        options={"time_limit": HIGHS_S_MAX},
    )
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    whole = float(market.demand.sum(dtype=np.float64))
    mean = float(found.fun) * scale / whole if found.success else float("nan")
    return Peer("HiGHS", n, wall_s, cpu_s, mean)


def flow(shape: Shape) -> Peer:
    """OR-Tools' minimum cost flow.

    It brings a HiGHS of its own, which does not load beside another: no module that this one
    imports may import that.
    """
    from ortools.graph.python import min_cost_flow

    market, pops = make_market(shape), shape.pops
    n, r = len(market), len(market.capacity)
    unit = float(market.demand.mean()) / DEMAND_STEPS
    demand = np.maximum(np.rint(market.demand / unit), 1).astype(np.int64)
    room = np.floor(market.capacity / unit).astype(np.int64)
    home = _homes(market, r)
    graph = min_cost_flow.SimpleMinCostFlow()
    k = market.cost_us.shape[1]
    sink, link = n + r, np.arange(pops, r)

    def arcs(tail: Ints, head: Ints, size: Ints, cost: NDArray[Any]) -> None:
        prices = np.rint(cost).astype(np.int64)
        graph.add_arcs_with_capacity_and_unit_cost(tail, head, size, prices)

    rows = np.repeat(np.arange(n), k)
    arcs(
        rows, n + market.link.ravel().astype(np.int64), np.repeat(demand, k), market.cost_us.ravel()
    )
    whole = int(demand.sum())
    for size, price in ((room, 0.0), (np.full(r, whole), OVERFLOW_US)):
        arcs(n + link, n + home[link], size[link], np.full(len(link), price))
        arcs(n + np.arange(pops), np.full(pops, sink), size[:pops], np.full(pops, price))
    graph.set_nodes_supplies(np.arange(n), demand)
    graph.set_nodes_supplies(np.array([sink]), np.array([-whole]))
    start, cpu = time.perf_counter(), time.process_time()
    status = graph.solve()
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    good = status == graph.OPTIMAL
    mean = graph.optimal_cost() / whole if good else float("nan")
    return Peer("OR-Tools flow", n, wall_s, cpu_s, mean)


def unavoidable(market: Market) -> float:
    """Of all demand, what no assignment places within the capacities: all less a maximum flow.

    Demands are rounded down and capacities up, so that what is told is really unavoidable.
    """
    (n, k), r = market.cost_us.shape, len(market.capacity)
    unit = float(market.demand.sum(dtype=np.float64)) / WHOLE_STEPS
    demand = np.floor(market.demand / unit).astype(np.int32)
    room = np.minimum(np.ceil(market.capacity / unit), WHOLE_STEPS).astype(np.int32)
    home = _homes(market, r)
    pop, link = np.unique(market.pop).astype(np.int64), np.unique(market.link).astype(np.int64)
    source, sink = n + r, n + r + 1
    tail = [np.full(n, source), np.repeat(np.arange(n), k), n + link, n + pop]
    head = [np.arange(n), n + market.link.ravel().astype(np.int64), n + home[link]]
    head.append(np.full(len(pop), sink))
    usable = np.where(market.cost_us < DEAR_US, demand[:, None], 0).ravel()
    size = np.concatenate([demand, usable, room[link], room[pop]])
    ends = np.concatenate(tail), np.concatenate(head)
    graph = sparse.csr_matrix((size, ends), (sink + 1, sink + 1))
    flow_value = maximum_flow(graph, source, sink).flow_value
    return 1.0 - float(flow_value) / float(demand.sum(dtype=np.int64))


def _homes(market: Market, resources: int) -> Ints:
    """[r], the POP that each link belongs to."""
    home = np.zeros(resources, np.int64)
    home[market.link.ravel()] = market.pop.ravel()
    return home
