"""Two services in one running loop: each by its own policy and POPs, from one account of loads."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.loop import Asker, Loop, wait_until
from popsteer import world as worlds
from popsteer.names import Prefix
from popsteer.world import World

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

POPS, PREFIXES = 6, 150
WWW, VIDEO = "www.cdn.example.", "video.cdn.example."
FEW = (1, 4)
"""The POPs that serve the second one."""
START_S, DOWN_S, NEAREST_S = 180, 5, 90
SHARE = 0.1
"""Of all demand, what the second one has; answers of both live for 20 s."""


@pytest.fixture(scope="module")
def few() -> tuple[str, ...]:
    pops = worlds.generate(POPS, PREFIXES, 1).pops
    return tuple(pops[p] for p in FEW)


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory, few: tuple[str, ...]) -> Iterator[Loop]:
    folder = tmp_path_factory.mktemp("services")
    file = folder / "services.toml"
    file.write_text(
        f'[[service]]\nname = "{WWW}"\nquery_bits = 9.0\n\n'
        f'[[service]]\nname = "{VIDEO}"\npolicy = "nearest"\npops = {json.dumps(few)}\n'
        "query_bits = 1.0\n"
    )
    size = ["--pops", str(POPS), "--prefixes", str(PREFIXES)]
    with Loop(folder / "up", [*size, "--services", str(file)]) as running:
        running.start(START_S)
        yield running


def told(loop: Loop, *words: str) -> Any:
    """What a command says, as JSON."""
    config = str(loop.data / "popsteer.toml")
    command = [sys.executable, "-m", "console.cli", *words, "--config", config]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if "--json" in words else done.stdout


def some(world: World) -> list[tuple[Prefix, int]]:
    """Prefixes of all metros."""
    return list(zip(world.prefixes(), world.metro.tolist(), strict=True))[::5]


def astray(asker: Asker, world: World, few: tuple[str, ...]) -> list[Prefix]:
    """Prefixes whose users of the second service are not at the nearest of its POPs."""
    column = [world.pops.index(pop) for pop in few]
    return [
        prefix
        for prefix, metro in some(world)
        if asker.ask(prefix) != few[int(world.rtt_ms[metro, column].argmin())]
    ]


def test_each_service_is_answered_by_its_own_policy(loop: Loop, few: tuple[str, ...]) -> None:
    www, video, world = loop.asker(), loop.asker(VIDEO), loop.world

    # Some stay where they are for a few ms.
    assert wait_until(lambda: len(astray(video, world, few)) <= 2, NEAREST_S, 2) < NEAREST_S
    assert len({www.ask(prefix) for prefix, _ in some(world)}) > len(few)


def test_demand_is_known_by_service(loop: Loop) -> None:
    def share() -> float:
        services = loop.overview().services
        return services[VIDEO].demand_bps / sum(one.demand_bps for one in services.values())

    assert wait_until(lambda: abs(share() - SHARE) < 0.04, 90, 1) < 90
    views = loop.overview().services
    assert (views[WWW].pops, views[VIDEO].pops) == (POPS, len(FEW))
    assert (views[WWW].policy, views[VIDEO].policy) == ("optimum", "nearest")


def test_explain_and_table_tell_them_apart(loop: Loop, few: tuple[str, ...]) -> None:
    prefix = str(loop.world.prefixes()[0])

    for name, policy in ((WWW, "optimum"), (VIDEO, "nearest")):
        account = told(loop, "explain", prefix, "--name", name, "--json")
        assert account["name"] == name
        assert policy in account["policy"]
        listed = {one["pop"] for one in account["candidates"]}
        assert listed == (set(few) if name == VIDEO else set(loop.world.pops))
        shown = told(loop, "table", "show", "current", "--name", name, "--json")
        assert policy in shown["meta"]["policy"]


def test_what_if_and_the_page_speak_of_both(loop: Loop, few: tuple[str, ...]) -> None:
    first, second = few

    lost = told(loop, "whatif", "--down", first, "--json")
    none_left = told(loop, "whatif", "--down", first, "--down", second, "--json")

    assert second in {move["target"] for move in lost["at_once"]["moves"]}
    assert lost["at_once"]["unserved_share"] == 0
    assert abs(none_left["at_once"]["unserved_share"] - SHARE) < 0.05
    page = loop.get("/api/overview")["overview"]
    assert set(page["services"]) == {WWW, VIDEO}
    assert page["pops"][first]["load_bps"] > 0


def test_a_drain_empties_the_pop_for_both_and_spares_the_last(
    loop: Loop, few: tuple[str, ...]
) -> None:
    first, second = few
    askers, prefixes = (loop.asker(), loop.asker(VIDEO)), [one for one, _ in some(loop.world)]

    told(loop, "drain", first, "--for", "60s", "--why", "the test empties it")

    def emptied() -> bool:
        return all(asker.ask(prefix) != first for asker in askers for prefix in prefixes)

    assert wait_until(emptied, 2 * DOWN_S) < DOWN_S
    assert {askers[1].ask(prefix) for prefix in prefixes} == {second}
    with pytest.raises(subprocess.CalledProcessError) as refused:
        told(loop, "drain", second)
    assert f"nobody would be left for {VIDEO}" in refused.value.stderr
    told(loop, "undrain", first)
    assert wait_until(lambda: any(askers[1].ask(p) == first for p in prefixes), 60) < 60


def test_a_dead_pop_is_named_to_nobody(loop: Loop, few: tuple[str, ...]) -> None:
    askers, prefixes = (loop.asker(), loop.asker(VIDEO)), [one for one, _ in some(loop.world)]
    config = str(loop.data / "popsteer.toml")

    subprocess.run(
        [sys.executable, "-m", "console.cli", "lab", "down", few[0], "--config", config], check=True
    )

    def gone() -> bool:
        return all(asker.ask(prefix) != few[0] for asker in askers for prefix in prefixes)

    assert wait_until(gone, 2 * DOWN_S) < DOWN_S
