"""The whole loop from outside, through the real MultiLangDaemon: change the world, ask DNS."""

import datetime as dt
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.loop import Asker, Loop, descendants, wait_until
from popsteer.heartbeat import bounds_s
from popsteer.lab import Changes, RttChange
from popsteer.names import Prefix
from popsteer.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

FRESH_S = 90
"""RTT change at the source -> changed answer."""
START_S = 180
"""Patience for a busy machine; how fast it starts is a benchmark."""
ROOM = 0.6
"""A POP below this utilisation has room, whatever noise there is."""
DRAWS = 3
DRAIN_S = 20
SEEN_S = 10
"""Until the planner's word is on the page."""
DOWN_S = 5
"""POP down, or drained -> no answer names it; it is the promise for p99."""


@pytest.fixture(autouse=True)
def unchanged_world(loop: Loop) -> Iterator[None]:
    yield
    loop.change(lambda _: Changes())


def hour_utc() -> float:
    now = dt.datetime.now(dt.UTC)
    return now.hour + now.minute / 60


def best_served(loop: Loop, asker: Asker) -> tuple[Prefix, str]:
    """A prefix that is answered with its nearest POP, and that POP."""
    world = loop.world
    for prefix, metro in zip(world.prefixes(), world.metro.tolist(), strict=True):
        nearest = world.pops[int(world.rtt_ms[metro].argmin())]
        if not prefix.is_ipv6 and asker.ask(prefix) == nearest:
            return prefix, nearest
    raise AssertionError("no prefix is answered with its nearest POP")


def order(loop: Loop, *words: str) -> None:
    """Give an order as an operator does."""
    config = str(loop.data / "popsteer.toml")
    command = [sys.executable, "-m", "console.cli", *words, "--config", config]
    subprocess.run(command, check=True, capture_output=True)


def held_by(asker: Asker, world: World, pop: str) -> list[Prefix]:
    return [prefix for prefix in world.prefixes() if asker.ask(prefix) == pop]


def loads_bps(asker: Asker, world: World) -> tuple[list[str], NDArray[np.float64]]:
    """Every prefix's answer, and the load that such answers bring to each POP.

    Answers of split and shedding rows differ from draw to draw, so the load is a mean.
    """
    demand, load = world.prefix_demand_bps(hour_utc()), np.zeros(len(world.pops))
    for _ in range(DRAWS):
        answers = [asker.ask(prefix) or "" for prefix in world.prefixes()]
        index = [world.pops.index(pop) for pop in answers]
        load += np.bincount(index, demand, len(world.pops)) / DRAWS
    return answers, load


def sent_past_room(world: World, asker: Asker, chosen: list[int]) -> list[str]:
    """Prefixes sent past a POP that is clearly nearer and has room, by the world file alone."""
    answers, load_bps = loads_bps(asker, world)
    used = load_bps / world.capacity_bps
    found = []
    for i in chosen:
        rtt = world.rtt_ms[world.metro[i]]
        own = float(rtt[world.pops.index(answers[i])])
        nearer = np.flatnonzero(rtt < own - max(4.0, 0.1 * own))
        empty = [f"{world.pops[p]} {used[p]:.2f}" for p in nearer if used[p] < ROOM]
        if empty:
            found.append(f"{world.prefixes()[i]} is sent to {answers[i]} past {empty}")
    return found


def test_answers_name_the_nearest_pop_with_capacity(loop: Loop) -> None:
    world, asker = loop.world, loop.asker()
    chosen = list(range(0, len(world.net), 20))
    # The first minute has the users' arrival in it, and its sheds.
    assert wait_until(lambda: not sent_past_room(world, asker, chosen), 180, 5) < 180


def test_an_answer_follows_a_change_of_rtt(loop: Loop) -> None:
    asker = loop.asker()
    prefix, nearest = best_served(loop, asker)
    slow = RttChange(prefix=str(prefix), pop=nearest, add_ms=400)

    loop.change(lambda old: msgspec.structs.replace(old, rtt=(slow,)))

    assert wait_until(lambda: asker.ask(prefix) not in {nearest, None}, FRESH_S) < FRESH_S


def test_a_stream_that_stands_still_rings_until_it_goes_on(loop: Loop) -> None:
    stream = loop.config.aws.bulk_stream
    bound_s = bounds_s(loop.config)[stream]
    processors = [pid for pid in descendants(loop.pid) if _reads(pid, stream)]
    assert processors
    assert wait_until(lambda: not _rings(loop, stream), 60, 1) < 60

    for pid in processors:
        os.kill(pid, signal.SIGSTOP)
    try:
        rang_s = wait_until(lambda: _rings(loop, stream), 3 * bound_s, 0.5)
    finally:
        for pid in processors:
            os.kill(pid, signal.SIGCONT)

    assert rang_s < bound_s + SEEN_S
    assert wait_until(lambda: not _rings(loop, stream), 60, 1) < 60


def _reads(pid: int, stream: str) -> bool:
    """Whether it is a record processor of a stream."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes()
    return (
        b"aggregator.child" in words
        and stream.encode() in Path(f"/proc/{pid}/environ").read_bytes()
    )


def _rings(loop: Loop, stream: str) -> bool:
    """Whether the page says that a stream brings nothing."""
    problems = loop.get("/api/overview")["status"]["problems"]
    return any(stream in problem and "no heartbeat" in problem for problem in problems)


def test_no_answer_names_a_pop_that_is_down(loop: Loop) -> None:
    asker, world = loop.asker(), loop.world
    _, pop = best_served(loop, asker)
    prefixes = held_by(asker, world, pop)[:20]

    loop.change(lambda old: msgspec.structs.replace(old, down=(pop,)))

    left = wait_until(lambda: all(asker.ask(p) != pop for p in prefixes), 2 * DOWN_S)
    assert left < DOWN_S
    loop.change(lambda _: Changes())
    back = wait_until(lambda: any(asker.ask(p) == pop for p in prefixes), 60)
    assert back < 60


def test_a_drain_empties_a_pop_at_once_and_ends_by_itself(loop: Loop) -> None:
    asker, world = loop.asker(), loop.world
    _, pop = best_served(loop, asker)
    prefixes = held_by(asker, world, pop)
    ordered_s = time.monotonic()

    order(loop, "drain", pop, "--for", f"{DRAIN_S}s", "--why", "the test empties it")

    left = wait_until(lambda: all(asker.ask(p) != pop for p in prefixes), 2 * DOWN_S)
    assert left < DOWN_S
    assert wait_until(lambda: any(asker.ask(p) == pop for p in prefixes), 90) < 90
    assert time.monotonic() - ordered_s >= DRAIN_S


def test_a_drain_and_its_end_wait_for_no_table(loop: Loop) -> None:
    asker, world = loop.asker(), loop.world
    _, pop = best_served(loop, asker)
    prefixes = held_by(asker, world, pop)[:20]
    order(loop, "freeze", "--for", "30s", "--why", "no table may help the drain")

    order(loop, "drain", pop, "--for", "10m", "--why", "the test empties it")
    left = wait_until(lambda: all(asker.ask(p) != pop for p in prefixes), 2 * DOWN_S)
    order(loop, "undrain", pop, "--why", "the test is over")
    back = wait_until(lambda: any(asker.ask(p) == pop for p in prefixes), 2 * DOWN_S)

    assert left < DOWN_S
    assert back < DOWN_S


def test_an_overloaded_pop_sheds(loop: Loop) -> None:
    asker, world = loop.asker(), loop.world
    _, pop = best_served(loop, asker)
    prefixes = held_by(asker, world, pop)
    more_bps = float(world.capacity_bps[world.pops.index(pop)]) * 2

    loop.change(lambda old: msgspec.structs.replace(old, load_bps={pop: more_bps}))

    def few_are_left() -> bool:
        answered = [asker.ask(p) for p in prefixes]
        return answered.count(pop) <= 0.5 * len(answered)

    assert wait_until(few_are_left, 60, every_s=1) < 60


class Watcher:
    """Asks all the time in a thread, and counts what was not answered."""

    def __init__(self, asker: Asker, prefix: Prefix) -> None:
        self.asked = self.silent = 0
        self._asker, self._prefix = asker, prefix
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self.asked += 1
            self.silent += self._asker.ask(self._prefix) is None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


@pytest.mark.parametrize("process", ["aggregate", "plan", "aws"])
def test_dns_answers_and_the_loop_recovers_after_kill_9(loop: Loop, process: str) -> None:
    asker = loop.asker()
    prefix, _ = best_served(loop, asker)
    before = loop.overview().window_last_ms

    with Watcher(asker, prefix) as watcher:
        loop.kill(process)
        killed_ms = time.time() * 1_000

        def measures_again() -> bool:
            return bool(loop.overview().window_last_ms > max(killed_ms, before))

        assert wait_until(measures_again, 120, every_s=0.5) < 120
    assert watcher.asked > 20
    assert watcher.silent == 0


def test_ctrl_c_leaves_no_process_and_the_next_start_goes_on(tmp_path: Path) -> None:
    loop = Loop(tmp_path / "up", ["--pops", "4", "--prefixes", "150"])
    with loop:
        loop.start(START_S)
        generation = loop.overview().table_generation
        session_pids = descendants(loop.pid)
        assert len(session_pids) >= 7
        assert loop.stop() == 0
    assert wait_until(lambda: not [p for p in session_pids if _alive(p)], 5) < 5
    with loop:
        loop.start(START_S)
        wait_until(lambda: bool(loop.overview().table_generation), 30)
        assert loop.overview().table_generation >= generation
        assert loop.stop() == 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_real_world_is_steered_to_the_nearest_pop_with_capacity(
    tmp_path: Path, shared_data: Path
) -> None:
    world_file = shared_data / "world_v1.npz"
    with Loop(tmp_path / "up", ["--world", str(world_file)]) as loop:
        loop.start(START_S)
        world = loop.world
        with np.load(world_file) as file:
            assert np.array_equal(world.rtt_ms, file["rtt_ms"].astype(np.float64))
        chosen = np.random.default_rng(5).choice(len(world.net), 20, replace=False).tolist()
        asker = loop.asker()
        assert wait_until(lambda: not sent_past_room(world, asker, chosen), 180, 5) < 180
