"""Worlds: the same seed is the same world, and all of it fits together."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from popsteer import world as worlds
from popsteer.cities import CITIES
from popsteer.errors import ConfigError
from popsteer.geo import distance_km, floor_rtt_ms
from popsteer.intervals import last_of
from popsteer.world import HEADROOM, World


@pytest.fixture(scope="module")
def world() -> World:
    return worlds.generate(pops=12, prefixes=400, seed=5)


def _same(a: World, b: World) -> bool:
    return all(
        np.array_equal(
            np.asarray(getattr(a, f.name)), np.asarray(getattr(b, f.name)), **_nan(f.name)
        )
        for f in fields(World)
    )


def _nan(name: str) -> dict[str, bool]:
    return {"equal_nan": True} if name == "residual" else {}


def test_a_seed_is_a_world(world: World) -> None:
    assert _same(world, worlds.generate(12, 400, 5))
    assert not np.array_equal(world.rtt_ms, worlds.generate(12, 400, 6).rtt_ms)


def test_shapes(world: World) -> None:
    pops, metros, prefixes = 12, len(CITIES), 400
    assert len(world.pops) == len(set(world.pops)) == pops
    assert len(world.metros) == metros
    assert world.rtt_ms.shape == world.mdev_ms.shape == (metros, pops)
    assert world.demand_bps.shape == (24, metros)
    assert len(world.prefixes()) == len(set(world.prefixes())) == prefixes
    for column in (world.net, world.plen, world.metro, world.share):
        assert len(column) == prefixes


def test_capacity_is_the_peak_with_headroom(world: World) -> None:
    peak = world.demand_bps.sum(axis=1).max()
    assert world.capacity_bps.sum() == pytest.approx(peak * HEADROOM)
    assert (world.capacity_bps > 0).all()


def test_shares_of_a_metro_are_its_whole(world: World) -> None:
    np.testing.assert_allclose(np.bincount(world.metro, world.share), 1.0)


@pytest.mark.parametrize("hour", [0.0, 7.5, 23.75])
def test_demand_of_prefixes_adds_up(world: World, hour: float) -> None:
    early, late, part = int(hour), (int(hour) + 1) % 24, hour % 1
    expected = (1 - part) * world.demand_bps[early].sum() + part * world.demand_bps[late].sum()
    assert world.prefix_demand_bps(hour).sum() == pytest.approx(expected)


def test_nothing_is_faster_than_light(world: World) -> None:
    km = distance_km(world.metro_lat, world.metro_lon, world.pop_lat, world.pop_lon)
    assert (world.rtt_ms > floor_rtt_ms(km)).all()


def test_prefixes_are_private_and_do_not_overlap(world: World) -> None:
    order = np.lexsort((world.net, world.plen & np.uint8(0x80)))
    net, plen = world.net[order], world.plen[order]
    for family, start in ((0, 10), (0x80, 0x20)):
        rows = (plen & np.uint8(0x80)) == family
        assert rows.any()
        assert (net[rows] >> np.uint64(56) == start).all()
        assert (net[rows][1:] > last_of(net[rows], plen[rows])[:-1]).all()


def test_residuals_are_small_and_some_are_lost(world: World) -> None:
    lost = np.isnan(world.residual).mean()
    assert 0 < lost < 0.01
    assert abs(np.nanmean(world.residual)) < 0.01


def test_saved_and_read_is_the_same(world: World, tmp_path: Path) -> None:
    path = tmp_path / "world.npz"
    worlds.save(path, world)
    assert _same(worlds.read(path), world)


@pytest.mark.parametrize(
    ("pops", "prefixes", "says"),
    [
        (1, 400, "--pops 1"),
        (len(CITIES) + 1, 400, f"2 to {len(CITIES)}"),
        (5, len(CITIES) - 1, "at least one prefix each"),
        (5, 60_001, "at most 60000"),
    ],
)
def test_impossible_worlds_are_refused(pops: int, prefixes: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        worlds.generate(pops, prefixes, 0)


def _measured(path: Path, **changed: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Path:
    """A world file of two POPs and three metros, one of them without users."""
    arrays = {
        "pop_code": np.array(["FRA", "NYC"]),
        "pop_index": np.array([0, 2]),
        "pop_capacity_share": np.array([3.0, 1.0]),
        "metro": np.array(["Frankfurt", "Nowhere", "New York"]),
        "metro_lat": np.array([50.1, 0.0, 40.7]),
        "metro_lon": np.array([8.7, 0.0, -74.0]),
        "rtt_ms": np.array([[2.0, 80.0], [9.0, 9.0], [80.0, 2.0]]),
        "rtt_mdev_ms": np.full((3, 2), 0.5),
        "demand_by_utc_hour": np.tile([10.0, 0.0, 30.0], (24, 1)),
    } | changed
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def test_a_measured_world_is_laid_out(tmp_path: Path) -> None:
    world = worlds.load(_measured(tmp_path / "w.npz"), prefixes=8)
    assert world.pops == ("fra", "nyc")
    assert world.pop_lat.tolist() == [50.1, 40.7]
    assert np.bincount(world.metro, minlength=3).tolist() == [3, 0, 5]
    assert world.capacity_bps[0] / world.capacity_bps[1] == pytest.approx(3)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    absent, text = tmp_path / "absent.npz", tmp_path / "text.npz"
    text.write_text("not a world")
    with pytest.raises(ConfigError, match="leave --world out"):
        worlds.load(absent, 10)
    with pytest.raises(ConfigError, match=r"text\.npz: not a world file"):
        worlds.load(text, 10)
    with pytest.raises(ConfigError, match=r"text\.npz: not a saved world"):
        worlds.read(text)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = _measured(tmp_path / "w.npz")
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r"w\.npz"):
            worlds.load(path, 10)


def test_a_saved_world_that_is_cut_is_named(world: World, tmp_path: Path) -> None:
    path = tmp_path / "saved.npz"
    worlds.save(path, world)
    whole = path.read_bytes()
    for cut in range(0, len(whole), len(whole) // 50):
        path.write_bytes(whole[:cut])
        with pytest.raises(ConfigError, match=r"saved\.npz: not a saved world"):
            worlds.read(path)


def test_a_single_array_is_no_world(tmp_path: Path) -> None:
    path = tmp_path / "one.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(ConfigError, match=r"one\.npy: not a world file"):
        worlds.load(path, 10)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    path = _measured(tmp_path / "w.npz", rtt_ms=np.full((3, 2), value))
    with pytest.raises(ConfigError, match="rtt_ms has a value that is no number"):
        worlds.load(path, 10)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with path.open("wb") as file:
        np.savez(file, metro=np.array(["Frankfurt"]))
    with pytest.raises(ConfigError, match=r"w\.npz: array '\w+' is missing"):
        worlds.load(path, 10)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rtt_ms", (3, 3)),
        ("rtt_mdev_ms", (2, 2)),
        ("demand_by_utc_hour", (24, 2)),
        ("demand_by_utc_hour", (23, 3)),
        ("pop_capacity_share", (3,)),
        ("metro_lat", (2,)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    path = _measured(tmp_path / "w.npz", **{name: np.ones(shape)})
    with pytest.raises(ConfigError, match=r"w\.npz: arrays do not fit"):
        worlds.load(path, 10)


def test_an_index_without_a_metro_is_refused(tmp_path: Path) -> None:
    path = _measured(tmp_path / "w.npz", pop_index=np.array([0, 3]))
    with pytest.raises(ConfigError, match=r"w\.npz: arrays do not fit"):
        worlds.load(path, 10)
