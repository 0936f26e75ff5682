"""`popsteer bench dns`: queries a second and CPU time a query, beside the C servers.

All servers answer the same queries, one after the other in several rounds, pinned to one core
with the generator on another. CPU microseconds per right answer is the figure that other work on
the machine disturbs least, and the one that is judged. Then tables of a million prefixes: cost a
packet in user space, start, swap under load, memory.
"""

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table as Page

from benchmarks import dns_fuzz
from benchmarks.dns_load import ANY_POP, SOCKETS, Queries, Run, drive
from benchmarks.dns_micro import packet_ns
from benchmarks.dns_peers import (
    PEERS,
    SERVER_CORE,
    Peer,
    await_compiled,
    cpu_ns,
    free_port,
    installed,
    running,
)
from benchmarks.dns_signed import rate_kept
from benchmarks.dns_world import World, queries, table, world
from benchmarks.figure import Figure, report
from benchmarks.loop import memory_mb
from popsteer.table import encode

SUBNETS, MANY = 100_000, 1_000_000
ROUNDS, RUN_S, WINDOW = 3, 2.0, 128
GENERATOR_CORE = 1


@dataclass(frozen=True, slots=True)
class Shot:
    """One run of one server."""

    peer: str
    run: Run
    cpu_us: float
    """Of the server, per right answer."""


def run(
    json_path: Path | None = None,
    part: Literal["speed", "fuzz"] = "speed",
    sockets: int = SOCKETS,
) -> int:
    """Measure, print, write JSON; the exit code is 1 when a bound is missed.

    Args:
        json_path: File for the figures.
        part: `speed` beside peers, or `fuzz`: a million mutated packets.
        sockets: From how many ports the servers are asked; answers to one port can leave together.
    """
    if part == "fuzz":
        return dns_fuzz.run(json_path)
    console = Console()
    os.sched_setaffinity(0, {GENERATOR_CORE} & os.sched_getaffinity(0) or os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="popsteer-dns-") as folder:
        shots, missing = _compare(Path(folder), console, sockets)
        kept = rate_kept(world(SUBNETS), Path(folder) / "signed")
        figures = [*_ratios(shots), Figure("rate with DO", kept, 0.7, "x", at_least=True)]
        figures += _many(Path(folder) / "many", console)
    _show(console, shots, missing, sockets)
    return report(console, figures, json_path, shots=[asdict(s) for s in shots], missing=missing)


def _compare(folder: Path, console: Console, sockets: int) -> tuple[list[Shot], list[str]]:
    """Rounds over all servers that are installed, in turn."""
    of = world(SUBNETS)
    asked = queries(of)
    present = [peer for peer in PEERS if installed(peer)]
    missing = [peer.name for peer in PEERS if peer not in present]
    shots: list[Shot] = []
    for round_number in range(ROUNDS):
        for peer in present:
            place = folder / f"{peer.program.replace('/', '_')}-{round_number}"
            try:
                shots.append(_shoot(peer, of, asked, place, sockets))
            except RuntimeError as error:
                console.print(f"{peer.name} did not start: {error}")
                missing.append(peer.name)
    return shots, sorted(set(missing))


def _shoot(peer: Peer, of: World, asked: Queries, folder: Path, sockets: int) -> Shot:
    port = free_port()
    command = peer.write(of, folder, port)
    expected = asked if peer.steers else _unjudged(asked)
    with running(command, port, folder) as (pid, _):
        if peer.name == "popsteer":
            await_compiled(folder / "log")
        drive(("127.0.0.1", port), expected, RUN_S / 4, WINDOW, sockets)
        before_ns = cpu_ns(pid)
        run = drive(("127.0.0.1", port), expected, RUN_S, WINDOW, sockets)
        spent_ns = cpu_ns(pid) - before_ns
    return Shot(peer.name, run, spent_ns / 1_000 / max(run.good, 1))


def _unjudged(asked: Queries) -> Queries:
    return Queries(asked.octets, asked.length, np.full(len(asked), ANY_POP, np.uint16))


def _ratios(shots: Sequence[Shot]) -> list[Figure]:
    """CPU time of each peer over ours, the median of all rounds, and that no answer was wrong."""
    cost = {
        name: [s.cpu_us for s in shots if s.peer == name]
        for name in dict.fromkeys(s.peer for s in shots)
    }
    ours = cost["popsteer"]
    wrong = sum(s.run.wrong for s in shots if s.peer == "popsteer")
    figures = [
        Figure("CPU a query", statistics.median(ours), inf, "us"),
        Figure("wrong answers", wrong, 0, ""),
    ]
    for peer in PEERS[1:]:
        if peer.name in cost:
            ratio = statistics.median(c / o for c, o in zip(cost[peer.name], ours, strict=False))
            figures.append(
                Figure(f"over {peer.name}", ratio, peer.ratio_at_least, "x", at_least=True)
            )
    return figures


def _many(folder: Path, console: Console) -> list[Figure]:
    """A million prefixes."""
    console.print(f"{MANY:,} prefixes")
    of = world(MANY)
    figures = [Figure("user space a packet", packet_ns(of), 250, "ns")]
    port, asked = free_port(), queries(of)
    popsteer = PEERS[0]
    command = popsteer.write(of, folder, port)
    with running(command, port, folder):
        await_compiled(folder / "log")  # writes the index, so that the next start is a warm one
    with running(command, port, folder) as (pid, first_s):
        await_compiled(folder / "log")
        drive(("127.0.0.1", port), asked, RUN_S, WINDOW)  # touches all of the table
        taken_s, gap_s = _swap(folder, port, of, asked)
        figures += [
            Figure("first answer", first_s, 2.5, "s"),
            Figure("new table served", taken_s, 1.0, "s"),
            Figure("longest gap", gap_s * 1_000, 100, "ms"),
            Figure("memory of a node", memory_mb([pid], "Rss:"), 300, "MB"),
            Figure("of it its share", memory_mb([pid], "Pss:"), inf, "MB"),
        ]
    return figures


def _swap(folder: Path, port: int, of: World, asked: Queries) -> tuple[float, float]:
    """Seconds from the move of the table file to its first answer, and the longest silence."""
    other = World(of.net, of.plen, ((of.pop + 7) % 200).astype(np.uint16))
    fresh = folder / "next.arrow"
    fresh.write_bytes(encode(table(other, generation=2)))
    moved_s = [0.0]

    def move() -> None:
        moved_s[0] = time.monotonic()
        fresh.rename(folder / "table.arrow")

    timer = threading.Timer(0.5, move)
    timer.start()
    right = {1: asked.right, 2: ((asked.right - 1 + 7) % 200 + 1).astype(np.uint16)}
    taken_s, gap_s = _watch(port, asked, right[2], moved_s)
    timer.join()
    return taken_s, gap_s


def _watch(
    port: int,
    asked: Queries,
    after: np.ndarray[tuple[int], np.dtype[np.uint16]],
    moved: list[float],
) -> tuple[float, float]:
    """Ask one query at a time until new answers have come for a second."""
    import socket

    gap_s, taken_s, number = 0.0, 0.0, 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(1.0)
        probe.connect(("127.0.0.1", port))
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            number = (number + 1) % len(asked)
            length = int(asked.length[number])
            began_s = time.monotonic()
            probe.send(asked.octets[number, :length].tobytes())
            reply = probe.recv(1_500)
            now_s = time.monotonic()
            gap_s = max(gap_s, now_s - began_s)
            octet = reply[12 + 17 + 4 + 15]
            if not taken_s and moved[0] and octet == after[number] != asked.right[number]:
                taken_s = now_s - moved[0]
            if taken_s and now_s - moved[0] - taken_s > 1.0:
                break
    return taken_s or 30.0, gap_s


def _show(console: Console, shots: Sequence[Shot], missing: Sequence[str], sockets: int) -> None:
    page = Page("server", "answers/s (median)", "best", "CPU us/query", "wrong", "stalls")
    for name in dict.fromkeys(shot.peer for shot in shots):
        mine = [shot for shot in shots if shot.peer == name]
        page.add_row(
            name,
            f"{statistics.median(s.run.qps for s in mine):,.0f}",
            f"{max(s.run.qps for s in mine):,.0f}",
            f"{statistics.median(s.cpu_us for s in mine):.2f}",
            str(sum(s.run.wrong for s in mine)),
            str(sum(s.run.stalls for s in mine)),
        )
    console.print(page)
    console.print(
        f"core {SERVER_CORE} serves, core {GENERATOR_CORE} asks from {sockets} sockets, "
        f"{WINDOW} queries outstanding, {SUBNETS:,} subnets"
    )
    if missing:
        console.print(f"not installed or not started, so not compared: {', '.join(missing)}")
