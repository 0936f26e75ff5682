"""Nanoseconds a packet in user space: the stages of the compiled path without system calls."""

import time
from typing import Any

import numpy as np

from benchmarks.dns_load import Queries
from benchmarks.dns_world import NAME, POPS, TTL_S, World, address_of, queries, table
from popsteer.config import Config, Pop, Service
from resolver.cookies import CookieSecret
from resolver.fast import book as books
from resolver.fast.batch import BATCH, LENGTH, batch
from resolver.fast.count import counts
from resolver.fast.engine import loop_memory
from resolver.fast.fill import build as build_index
from resolver.fast.kernel import kernel
from resolver.fast.limit import limits
from resolver.fast.load import Ranked, routes_of, services_of, settings_of
from resolver.fast.serve import answer_batch
from resolver.route import fleet_of
from resolver.snapshot import Options, Snapshot
from resolver.zonefile import load_zones

REPEATS = 5


@kernel
def _copy(octets: Any, length: Any, first: Any, memory: Any) -> Any:
    for i in range(memory.rx_header.shape[0]):
        for k in range(length[first + i]):
            memory.rx[i, k] = octets[first + i, k]
        memory.query[i, LENGTH] = length[first + i]


@kernel
def _answer_all(octets: Any, length: Any, memory: Any, world: Any, counted: Any, loop: Any) -> Any:
    book, routes, settings = world
    size = np.uint64(memory.rx_header.shape[0])
    for first in range(0, octets.shape[0] - BATCH + 1, BATCH):
        _copy(octets, length, first, memory)
        answer_batch(memory, size, book, routes, settings, counted, loop)


@kernel
def _copy_all(octets: Any, length: Any, memory: Any) -> Any:
    for first in range(0, octets.shape[0] - BATCH + 1, BATCH):
        _copy(octets, length, first, memory)


def packet_ns(of: World) -> float:
    """The best of some passes over queries whose look-ups miss the caches."""
    asked: Queries = queries(of)
    pops = tuple(Pop(id=f"p{i}", ipv4=(address_of(i),)) for i in range(POPS))
    config = Config(pop=pops, service=(Service(name=NAME, ttl_s=TTL_S),))
    made = table(of)
    options = Options(secret=CookieSecret(bytes(32)))
    snapshot = Snapshot(load_zones(config), fleet_of(config), options, made)
    services = services_of(snapshot, {NAME: 40e6})
    ranked = Ranked(made.pops, made.meta.default, build_index(made))
    routes, _ = routes_of(snapshot, ranked, services)
    book = books.build(snapshot.zones, True, services.number)
    settings = settings_of(options, limits(0.0), int(time.time()))
    memory, kept = batch()
    memory.address[:, 0], memory.address[:, 4] = 2, 127
    memory.clock[0] = int(time.time())
    counted, loop = counts(), loop_memory(1)
    packets = (asked.octets, asked.length)

    def whole() -> None:
        _answer_all(*packets, memory, (book, routes, settings), counted, loop)

    def copying() -> None:
        _copy_all(*packets, memory)

    best = [_best_ns(one, len(asked)) for one in (whole, copying)]
    del kept
    return best[0] - best[1]


def _best_ns(call: Any, packets: int) -> float:
    call()
    best = float("inf")
    for _ in range(REPEATS):
        began = time.thread_time_ns()
        call()
        best = min(best, (time.thread_time_ns() - began) / packets)
    return best
