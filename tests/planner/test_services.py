"""Services with policies of their own: one table, one account of capacities."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator import candidates
from aggregator.planner import Planner
from aggregator.services import sets_of
from aggregator.settings import bulk
from benchmarks.scene import WINDOW_MS, Scene, demand_partial, make_scene
from popsteer import evidence
from popsteer.config import Config, Pop, Service
from popsteer.errors import ConfigError
from popsteer.samples import Kind
from popsteer.table import NO_POP, SETS_MAX
from popsteer.targets import Targets

WWW, VIDEO = "www.cdn.example.", "video.cdn.example."


def scene_of(*services: Service, **options: Any) -> Scene:
    """A scene whose planner serves these."""
    scene = make_scene(**options)
    scene.config = msgspec.structs.replace(scene.config, service=services)
    targets = Targets(scene.net, scene.plen, ("",) * len(scene.net), scene.demand_bps)
    scene.planner = Planner(
        scene.config, scene.store, scene.planner.publisher._signer, scene.trusted, targets
    )
    return scene


def shares(scene: Scene, service: str) -> np.ndarray:
    """[n, p], what the table in force answers for a service."""
    own = scene.table().answers_of(service)
    found = np.zeros((len(scene.net), len(scene.pops)))
    for i, prefix in enumerate(scene.prefixes()):
        row, _ = own.find(prefix)
        for pop, share in zip(own.pop[row].tolist(), own.share[row].tolist(), strict=True):
            if share:
                found[i, pop] += share / 255
    return found


def config(*services: Service) -> Config:
    return Config(pop=(Pop(id="a"), Pop(id="b")), service=services)


def test_services_that_ask_for_the_same_are_one_set() -> None:
    www = Service(name="www.example.")
    alike = Service(name="img.example.", band_ms=50, weight={"a": 3}, pops=("a", "b"))
    other = Service(name="video.example.", policy="nearest")
    few = Service(name="few.example.", pops=("b",))

    one, two, three = sets_of(config(www, other, alike, few))

    assert one.services == ("www.example.", "img.example.")
    assert (two.services, two.policy) == (("video.example.",), "nearest")
    assert three.serves.tolist() == [False, True]
    assert one.expected + two.expected + three.expected == pytest.approx(1)


def test_what_a_policy_looks_at_tells_services_apart() -> None:
    first = Service(name="a.example.", policy="weighted")
    second = Service(name="b.example.", policy="weighted", weight={"a": 3})

    one, two = sets_of(config(first, second))

    assert one.terms.weight.tolist() == [1, 1]
    assert two.terms.weight.tolist() == [3, 1]


def test_more_sets_than_a_table_holds_are_an_error_that_names_the_service() -> None:
    services = [
        Service(name=f"s{i}.example.", policy="latency-band", band_ms=float(i))
        for i in range(SETS_MAX + 1)
    ]
    with pytest.raises(ConfigError, match=r"service s8\.example\.: .* 9 sets .* holds 8"):
        sets_of(config(*services))


def test_each_service_is_answered_by_its_policy() -> None:
    scene = scene_of(
        Service(name=WWW), Service(name=VIDEO, policy="failover", pops=("p3", "p1")), headroom=20
    )

    scene.run(12)

    by_rtt, by_order = shares(scene, WWW), shares(scene, VIDEO)
    assert (by_rtt.argmax(axis=1) == scene.rtt_us.argmin(axis=1)).mean() > 0.9
    assert by_order[:, 1] == pytest.approx(1)
    table = scene.table()
    assert [one.services for one in table.meta.further] == [(VIDEO,)]
    assert table.answers_of(VIDEO).meta.policy == "first POP that is up"
    assert table.answers_of(VIDEO).meta.default[0] in {"p1", "p3"}
    assert table.answers_of("anything.else.") is table


def test_a_service_of_few_pops_is_steered_among_them_however_far_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # With so many POPs a row keeps its nearest alone; none of those may serve.
    monkeypatch.setattr(candidates, "WIDTH_MIN", 3)
    monkeypatch.setattr(candidates, "CELLS_MAX", 3)
    scene = scene_of(
        Service(name=WWW),
        Service(name=VIDEO, policy="nearest", pops=("p0", "p5", "p7")),
        pops=8,
        prefixes=60,
        headroom=20,
    )

    scene.run(12)

    few = [0, 5, 7]
    nearest = np.array(few)[scene.rtt_us[:, few].argmin(axis=1)]
    assert (shares(scene, VIDEO).argmax(axis=1) == nearest).mean() > 0.9
    own = scene.table().answers_of(VIDEO)
    assert set(np.unique(own.pop).tolist()) <= {*few, NO_POP}


def test_no_service_fills_what_another_uses() -> None:
    # The careless one takes half of all demand to one POP; the other has to leave it alone.
    scene = scene_of(
        Service(name=WWW),
        Service(name=VIDEO, policy="failover", query_bits=40e6),
        prefixes=80,
        headroom=2.6,
    )

    scene.run(12)

    half = scene.demand_bps / 2
    careless = (shares(scene, VIDEO) * half[:, None]).sum(axis=0)
    careful = (shares(scene, WWW) * half[:, None]).sum(axis=0)
    capacity = scene.planner.fleet.capacity_bps
    assert careless[0] > 0.9 * capacity[0]
    assert careful[0] < 0.05 * capacity[0]
    assert (careful[1:] < 0.85 * capacity[1:]).all()


def test_reports_by_set_tell_whose_demand_it_is() -> None:
    scene = scene_of(Service(name=WWW), Service(name=VIDEO, policy="nearest"))
    scene.report_demand = False
    names = tuple(f"{pop}{end}" for end in ("", "/1") for pop in scene.pops)
    nearest = scene.rtt_us.argmin(axis=1)

    def report(now: Scene) -> None:
        if now.now_ms % WINDOW_MS == 0:
            for number, part in ((0, 0.8), (1, 0.2)):
                bits = part * now.demand_bps * 10
                partial = demand_partial(
                    now.now_ms - WINDOW_MS,
                    now.net,
                    now.plen,
                    names,
                    nearest + number * len(now.pops),
                    bits,
                    queries=100,
                )
                shard = replace(partial.origin, shard=f"shard-{number}")
                now.write(Kind.DEMAND, replace(partial, origin=shard))

    scene.run(100, report)

    whole = scene.planner.known.demand_bps(scene.load_bps())
    first, second = scene.planner.known.demand_by_set(scene.load_bps())
    assert first + second == pytest.approx(whole)
    assert second.sum() / whole.sum() == pytest.approx(0.2, abs=0.05)


def test_a_refusal_names_the_service() -> None:
    scene = scene_of(Service(name=WWW), Service(name=VIDEO, policy="nearest"))
    scene.run(60)

    scene.rtt_us *= 0.05
    scene.run(130)

    assert scene.overview().refused.startswith("poisoned:")
    assert WWW in scene.overview().refused


def test_each_set_has_its_evidence() -> None:
    scene = scene_of(Service(name=WWW), Service(name=VIDEO, policy="failover"))
    scene.run(12)

    stored = scene.store.read(evidence.key(scene.table().meta.generation, 1))

    assert stored is not None
    chosen = evidence.decode(stored.body)
    assert set(chosen.pop[chosen.reason == evidence.Reason.CHOSEN].tolist()) == {0}


def test_the_fold_knows_what_demand_of_a_further_set_is_about() -> None:
    one, two = Service(name="a.example."), Service(name="b.example.", policy="nearest")

    assert bulk(config(one)).subjects == ("a", "b")
    assert {"a", "b", "a/1", f"b/{SETS_MAX - 1}"} <= set(bulk(config(one, two)).subjects)
