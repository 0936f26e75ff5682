"""The services that `popsteer up` steers, and the caches that ask for them."""

import re
from pathlib import Path

import numpy as np
import pytest

from console.lab.clients import caches_of, parts_of
from console.lab.egress import LINKS, link_of
from console.up.folder import Addresses, prepare
from console.up.ports import Address
from console.up.services import services_of
from popsteer import world
from popsteer.config import Service
from popsteer.config_file import load
from popsteer.errors import ConfigError

TWO = """\
[[service]]
name = "www.cdn.example."
query_bits = 3e9

[[service]]
name = "video.cdn.example."
policy = "weighted"
pops = ["{pop}", "{other}"]
weight = {{ {pop} = 2.5 }}
ttl_s = 10
query_bits = 1e9
"""


@pytest.fixture(scope="module")
def own() -> world.World:
    return world.generate(5, 300, 3)


def file_of(folder: Path, text: str) -> Path:
    path = folder / "services.toml"
    path.write_text(text)
    return path


def written(folder: Path, own: world.World, services: tuple[Service, ...]) -> tuple[Service, ...]:
    """What the processes read of them."""
    at = Address("127.0.0.1", 1)
    return load(prepare(folder, own, services, Addresses(at, at, at, 1), 12.0)).service


def test_services_of_a_file_reach_the_configuration(tmp_path: Path, own: world.World) -> None:
    text = TWO.format(pop=own.pops[0], other=own.pops[3])

    www, video = written(tmp_path, own, services_of(file_of(tmp_path, text), own))

    assert (www.name, www.policy, www.pops) == ("www.cdn.example.", "optimum", ("*",))
    assert (video.policy, video.pops) == ("weighted", (own.pops[0], own.pops[3]))
    assert (video.ttl_s, video.weight) == (10, {own.pops[0]: 2.5})
    assert www.query_bits / video.query_bits == pytest.approx(3)


def test_reports_of_the_caches_tell_the_worlds_demand(own: world.World, tmp_path: Path) -> None:
    text = TWO.format(pop=own.pops[0], other=own.pops[3])
    for path in (None, file_of(tmp_path, text)):
        services = services_of(path, own)
        caches = 3 * len(own.net)
        bps = sum(caches * one.query_bits / one.ttl_s for one in services)
        assert bps == pytest.approx(own.demand_bps.mean(axis=0).sum())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [[service]] in it"),
        ("[dns]\n", "dns is not for this file; it has [[service]] sections alone"),
        ("[[service]\n", "not valid TOML"),
        ('[[service]]\nname = "a."\npops = ["atlantis"]\n', "pops names 'atlantis'"),
        ('[[service]]\nname = "a."\npolicy = "best"\n', "policy = 'best' is none"),
        ('[[service]]\nname = "a."\ntll_s = 3\n', "did you mean ttl_s?"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(
    tmp_path: Path, own: world.World, text: str, says: str
) -> None:
    path = file_of(tmp_path, text)

    with pytest.raises(ConfigError, match=f"{re.escape(str(path))}.*{re.escape(says)}"):
        services_of(path, own)


def test_each_service_brings_its_part_of_the_demand(own: world.World) -> None:
    services = (
        Service(name="a.", ttl_s=20, query_bits=42.0),
        Service(name="b.", ttl_s=9, query_bits=10.0),
    )
    part, demand = parts_of(services), own.prefix_demand_bps(12.0)
    caches = caches_of(own, 12.0, part, np.random.default_rng(1))
    for cache, service in enumerate(caches.service.tolist()):
        caches.answered(cache, service, 20.0, 0.0)

    load = caches.link_bps(demand, 5, link_of(own), len(LINKS)).sum(axis=1)

    # One of a brings 2 bits/s for 21 s, one of b 1 bit/s for 10 s.
    assert load == pytest.approx(np.array([2 / 3, 1 / 3, 0, 0, 0]) * demand.sum())
