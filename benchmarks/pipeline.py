"""`popsteer bench pipeline`: how fast the loop starts, how fresh and large it is, what it carries.

Everything is measured from outside on a running `popsteer up`: DNS answers over UDP, changes
through the lab, memory from /proc. Bounds stand beside each figure; a missed one is exit code 1.
"""

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console

from benchmarks import cycle, stream
from benchmarks.faults import matrix
from benchmarks.figure import Figure, report
from benchmarks.loop import Asker, Loop, descendants, memory_mb, wait_until
from popsteer.lab import Changes, RttChange
from popsteer.names import Prefix

POPS, PREFIXES = 85, 2_000
RTT_CHANGES = 40
RTT_SPREAD_S = 60.0
ASKED_AGAIN = 10
"""An answer has changed when so many in a row name another POP: one draw of a split row may."""
DOWNS = 15
SEED = 11
SAMPLES_PER_S, STREAM_S = 1_000_000.0, 60.0
FAULT_SAMPLES = matrix.LONG.samples
OUTAGE_S = matrix.LONG.outage_s
CYCLE_PREFIXES, CYCLE_POPS, CYCLE_MEASURED = 1_000_000, 600, 8


def run(
    json_path: Path | None = None,
    world: Path | None = None,
    part: Literal["all", "loop", "stream", "cycle"] = "loop",
    samples_per_s: float = SAMPLES_PER_S,
    seconds: float = STREAM_S,
    prefixes: int = CYCLE_PREFIXES,
    pops: int = CYCLE_POPS,
    measured: int = CYCLE_MEASURED,
    policy: str = "optimum",
    seed: int = SEED,
    faults: bool = False,
    only: str | None = None,
    samples: int = FAULT_SAMPLES,
    outage_s: float = OUTAGE_S,
    times: int = 1,
) -> int:
    """Measure, print a table, write JSON; gives the exit code.

    Args:
        json_path: File for the figures.
        world: World file of the loop; without it a generated one of the same size.
        part: `loop` starts, changes and measures a whole `popsteer up`; `stream` puts samples
            through Kinesis and the KCL as fast as asked for, and counts what comes out; `cycle`
            is the planner alone, from new partials to a published table.
        samples_per_s: Rate of the stream.
        seconds: How long the stream runs.
        prefixes: Of the cycle's world.
        pops: Of the cycle's world.
        measured: POPs measured from each prefix of the cycle's world.
        policy: By which the cycle plans.
        seed: Of the stream's and the cycle's worlds, and of the faults.
        faults: The fault matrix instead: break every part of the stream, count exactly.
        only: Faults whose name contains this text.
        samples: Of each fault, at the least.
        outage_s: How long the faults that last do so.
        times: How many times the matrix is played, each time with another seed.
    """
    screen = Console()
    if faults:
        return matrix.run(screen, json_path, seed, samples, outage_s, only, times)
    figures: list[Figure] = []
    if part in {"all", "cycle"}:
        screen.print("planner's cycle …")
        figures += cycle.figures(prefixes, pops, measured, seed, policy)
    if part in {"all", "stream"}:
        screen.print("stream …")
        with tempfile.TemporaryDirectory(prefix="popsteer-bench-") as folder:
            figures += stream.figures(Path(folder), samples_per_s, seconds, seed)
    if part in {"all", "loop"}:
        figures += _loop(screen, world)
    return report(screen, figures, json_path)


def _loop(screen: Console, world: Path | None) -> list[Figure]:
    figures = [Figure("popsteer --help", _help_s(), 0.3, "s")]
    arguments = ["--pops", str(POPS), "--prefixes", str(PREFIXES)]
    if world is not None:
        arguments = ["--world", str(world), "--prefixes", str(PREFIXES)]
    with (
        tempfile.TemporaryDirectory(prefix="popsteer-bench-") as folder,
        Loop(Path(folder), arguments) as loop,
    ):
        screen.print("cold start …")
        figures.append(Figure("cold start to a steered answer", loop.start(180), 60, "s"))
        screen.print("RTT changes …")
        figures += _freshness(loop)
        screen.print("POPs go down …")
        figures += _failover(loop)
        figures += _memory(loop)
        loop.stop()
        screen.print("warm start …")
        figures.append(Figure("warm start to a steered answer", loop.start(90), 25, "s"))
    return figures


def _help_s() -> float:
    """Median of five; the command as installed beside this interpreter."""
    command = [str(Path(sys.executable).parent / "popsteer"), "--help"]
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _freshness(loop: Loop) -> list[Figure]:
    """Make the POP of many prefixes slow, at random times, and wait for other answers."""
    rng, asker = random.Random(SEED), loop.asker()
    prefixes = [p for p in loop.world.prefixes() if not p.is_ipv6]
    wait_until(lambda: bool(loop.overview().table_generation >= 2), 120, 1)
    planned = [
        (rng.uniform(0, RTT_SPREAD_S), prefix) for prefix in rng.sample(prefixes, RTT_CHANGES)
    ]
    took_s = _change_and_wait(loop, asker, sorted(planned, key=lambda plan: plan[0]))
    loop.change(lambda _: Changes())
    return _summary("RTT change to changed answer", took_s, 90)


def _change_and_wait(
    loop: Loop, asker: Asker, planned: Sequence[tuple[float, Prefix]]
) -> list[float]:
    begun = time.monotonic()
    todo = list(planned)
    waiting: dict[Prefix, tuple[str, float]] = {}
    left: dict[Prefix, list[float]] = {}
    took: list[float] = []
    while todo or waiting:
        now = time.monotonic() - begun
        while todo and todo[0][0] <= now:
            _, prefix = todo.pop(0)
            if (pop := asker.ask(prefix)) is not None:
                _slow_down(loop, prefix, pop)
                waiting[prefix] = (pop, now)
        for prefix, (pop, since) in list(waiting.items()):
            if asker.ask(prefix) in {pop, None}:
                left.pop(prefix, None)
                continue
            left.setdefault(prefix, []).append(time.monotonic() - begun - since)
            if len(left[prefix]) >= ASKED_AGAIN:
                took.append(left[prefix][0])
                del waiting[prefix]
        if now > RTT_SPREAD_S + 180:
            took += [float("inf")] * len(waiting)
            break
        time.sleep(0.2)
    return took


def _slow_down(loop: Loop, prefix: Prefix, pop: str) -> None:
    slow = RttChange(prefix=str(prefix), pop=pop, add_ms=500)
    loop.change(lambda old: msgspec.structs.replace(old, rtt=(*old.rtt, slow)))


def _failover(loop: Loop) -> list[Figure]:
    """Close the listeners of POPs one after another and wait until no answer names them."""
    rng, asker, world = random.Random(SEED), loop.asker(), loop.world
    answers = {prefix: asker.ask(prefix) for prefix in world.prefixes()}
    used = sorted({pop for pop in answers.values() if pop})
    took = []
    for pop in rng.sample(used, min(DOWNS, len(used))):
        time.sleep(rng.uniform(0, 1))
        took.append(_fail_over(loop, asker, pop, [p for p in answers if answers[p] == pop][:30]))
    return _summary("POP down to no answer naming it", took, 5)


def _fail_over(loop: Loop, asker: Asker, pop: str, prefixes: list[Prefix]) -> float:
    """Seconds until no answer names a closed POP; it is open and named again afterwards."""

    def named() -> bool:
        return any(asker.ask(prefix) == pop for prefix in prefixes)

    loop.change(lambda old: msgspec.structs.replace(old, down=(pop,)))
    took_s = wait_until(lambda: not named(), 30, 0.02)
    loop.change(lambda _: Changes())
    wait_until(named, 60)
    return took_s


def _summary(name: str, took_s: Sequence[float], bound_s: float) -> list[Figure]:
    """Median and p99; of fewer than a hundred trials the p99 is the worst."""
    ordered = sorted(took_s)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return [
        Figure(f"{name}, p50 of {len(ordered)}", statistics.median(ordered), bound_s, "s"),
        Figure(f"{name}, p99 of {len(ordered)}", p99, bound_s, "s"),
    ]


def _memory(loop: Loop) -> list[Figure]:
    """Memory of all processes: shared pages counted once (PSS), and the plain sum (RSS)."""
    pids = [loop.pid, *descendants(loop.pid)]
    pss, rss = memory_mb(pids, "Pss:"), memory_mb(pids, "Rss:")
    return [
        Figure(f"memory of all {len(pids)} processes (PSS)", pss, 1_500, "MB"),
        Figure("the same, shared pages counted in each (RSS)", rss, float("inf"), "MB"),
    ]
