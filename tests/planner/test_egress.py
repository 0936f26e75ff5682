"""Links whose routes are known are planned with like POPs."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from aggregator.egress import Egress
from aggregator.planner import Planner
from benchmarks.scene import Scene, make_scene, signal_partial
from popsteer import routes
from popsteer.config import Link, Service
from popsteer.samples import Signal
from popsteer.targets import Targets

EVEN, ODD = 0, 1
LINKS = ("even", "odd")


def links_of(scene: Scene) -> np.ndarray:
    """[n], the link that every POP reaches a prefix by."""
    return np.arange(len(scene.net)) % 2


def near_p0(scene: Scene) -> np.ndarray:
    """[n], two thirds of the prefixes."""
    return np.arange(len(scene.net)) < 40


def demand_by(link: int) -> float:
    """Of the prefixes near p0 that it reaches by a link."""
    scene = make_scene(pops=3, prefixes=60, headroom=12)
    return float(scene.demand_bps[near_p0(scene) & (links_of(scene) == link)].sum())


def scene_with_links(narrow_bps: float, policy: str = "optimum") -> Scene:
    """POPs with room for everybody; one link of p0 is narrow."""
    scene = make_scene(pops=3, prefixes=60, headroom=12)
    scene.rtt_us[:, 1:] += 15_000
    scene.rtt_us[:, 0] = np.where(near_p0(scene), 10_000, 90_000)
    scene.rtt_us[~near_p0(scene), 1] = 8_000
    pops = tuple(
        msgspec.structs.replace(
            pop,
            link=tuple(
                Link(id=name, capacity_bps=narrow_bps if (pop.id, name) == ("p0", "even") else 1e15)
                for name in LINKS
            ),
        )
        for pop in scene.config.pop
    )
    service = (Service(name="www.cdn.example.", ttl_s=20, policy=policy),)
    scene.config = msgspec.structs.replace(scene.config, pop=pops, service=service)
    targets = Targets(scene.net, scene.plen, ("",) * len(scene.net), scene.demand_bps)
    scene.planner = Planner(
        scene.config, scene.store, scene.planner.publisher._signer, scene.trusted, targets
    )
    return scene


def write_routes(scene: Scene, pop: str) -> None:
    lines = [
        f"{prefix},{LINKS[link]}"
        for prefix, link in zip(scene.prefixes(), links_of(scene).tolist(), strict=True)
    ]
    stored = scene.store.read(routes.key(pop))
    body = "\n".join(("to,link", *lines)).encode()
    scene.store.swap(routes.key(pop), body, stored.etag if stored else "")


def link_bps(scene: Scene) -> np.ndarray:
    """[2], what p0 sends by each link."""
    if not scene.held.size:
        return np.zeros(2)
    own = scene.held[:, 0] * scene.demand_bps
    return np.bincount(links_of(scene), own, 2)


def report(scene: Scene, factor: float = 1.0) -> None:
    values = {
        (f"p0/{name}", Signal.TX_BPS): factor * float(bps)
        for name, bps in zip(LINKS, link_bps(scene), strict=True)
    }
    partial = signal_partial(scene.now_ms - 1_000, values)
    scene.write_link(replace(partial))


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_a_full_link_sheds_its_own_prefixes_and_leaves_the_others(factor: float) -> None:
    narrow_bps = demand_by(EVEN) / 2
    scene = scene_with_links(narrow_bps)
    write_routes(scene, "p0")

    scene.run(240, lambda now: report(now, factor))

    # What the counters say is right, also where routes and demand say less.
    used = factor * link_bps(scene) / narrow_bps
    assert 0.5 < used[EVEN] < 0.92
    odd = near_p0(scene) & (links_of(scene) == ODD)
    assert scene.held[odd, 0] == pytest.approx(1, abs=0.05)
    assert scene.planner.loop.shed[0] == 0


def test_without_routes_the_link_bounds_its_pop_as_a_whole() -> None:
    scene = scene_with_links(demand_by(EVEN) / 2)

    scene.run(240, report)

    odd = near_p0(scene) & (links_of(scene) == ODD)
    moved = 1 - float((scene.held[odd, 0] * scene.demand_bps[odd]).sum()) / float(
        scene.demand_bps[odd].sum()
    )
    assert moved > 0.2
    assert "link even bounds it" in scene.state().pops["p0"].reason


def test_broken_routes_leave_the_last_good_ones(capsys: pytest.CaptureFixture[str]) -> None:
    scene = scene_with_links(1e15)
    write_routes(scene, "p0")
    egress = Egress(scene.store, scene.planner.fleet)
    egress.read()

    stored = scene.store.read(routes.key("p0"))
    assert stored is not None
    scene.store.swap(routes.key("p0"), b"to,link\n10.0.0.0/24,evn\n", stored.etag)
    egress.read()

    assert egress.known.tolist() == [True, False, False]
    assert "routes/p0.csv:2: link 'evn' is no [[pop.link]] of p0" in capsys.readouterr().err
    scene.store.delete(routes.key("p0"))
    egress.read()
    assert not egress.known.any()


def test_only_the_optimum_looks_at_links() -> None:
    scene = scene_with_links(1e15, policy="nearest")
    write_routes(scene, "p0")

    scene.run(12)

    assert scene.table().meta.generation >= 1
