"""The replay of small worlds: deterministic, faithful to the measured RTTs, changed by the lab."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from popsteer import lab, world
from popsteer.lab import Changes, RttChange
from popsteer.samples import Batch, Method, RttBatch, rows
from popsteer.world import World
from probes.replay import Replay, Residuals

START_MS = 1_700_000_000_000
POPS, PREFIXES = 3, 200


@pytest.fixture(scope="module")
def small() -> World:
    return world.generate(POPS, PREFIXES, seed=4)


def make(own: World, events: Path | None = None, seed: int = 1, speed: float = 1.0) -> Replay:
    return Replay(
        own,
        lambda _: True,
        interval_s=10.0,
        timeout_s=10.0,
        speed=speed,
        method=Method.TCP,
        events=events,
        seed=seed,
    )


def calm(own: World) -> World:
    """The same world without noise, residuals and losses."""
    return dataclasses.replace(
        own, mdev_ms=np.zeros_like(own.mdev_ms), residual=np.zeros_like(own.residual)
    )


def measure(replay: Replay, pop: int, upto_s: float, step_s: float = 1.0) -> list[RttBatch]:
    found: list[Batch] = []
    for step in range(1, round(upto_s / step_s) + 1):
        found += replay.measure(pop, step * step_s, START_MS)
    assert all(isinstance(batch, RttBatch) for batch in found)
    return [batch for batch in found if isinstance(batch, RttBatch)]


def column(batches: list[RttBatch], name: str) -> np.ndarray:
    return np.concatenate([getattr(batch, name) for batch in batches])


def test_each_pop_measures_every_prefix_once_an_interval(small: World) -> None:
    for pop in range(POPS):
        batches = measure(make(small), pop, 10.0)
        assert {batch.header.source for batch in batches} == {f"{small.pops[pop]}.rtt"}
        assert {batch.header.subjects for batch in batches} == {(small.pops[pop],)}
        pairs = list(zip(column(batches, "net"), column(batches, "plen"), strict=True))
        assert sorted(pairs) == sorted(zip(small.net, small.plen, strict=True))
        assert [rows(batch) for batch in batches] == [20] * 10


def test_probes_are_spread_over_the_second(small: World) -> None:
    for batch in measure(make(small), 0, 5.0):
        assert np.diff(batch.dt_ms).max() <= 51
        assert batch.dt_ms.max() >= 900


def test_the_same_seed_gives_the_same_samples(small: World) -> None:
    one, same = (column(measure(make(small), 1, 5.0), "rtt_us") for _ in range(2))
    other = column(measure(make(small, seed=2), 1, 5.0), "rtt_us")
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_without_noise_the_rtt_is_the_world_s(small: World) -> None:
    batches = measure(make(calm(small)), 2, 10.0)
    expected = dict(zip(small.net.tolist(), small.rtt_ms[small.metro, 2], strict=True))
    got = zip(column(batches, "net").tolist(), column(batches, "rtt_us"), strict=True)
    for net, rtt_us in got:
        assert rtt_us == pytest.approx(expected[net] * 1_000, abs=1.0)


def test_noise_keeps_the_mean_and_has_the_measured_deviation(small: World) -> None:
    own = dataclasses.replace(
        small, mdev_ms=0.1 * small.rtt_ms, residual=np.zeros_like(small.residual)
    )
    batches = measure(make(own), 0, 2_000.0, step_s=10.0)
    base = dict(zip(own.net.tolist(), own.rtt_ms[own.metro, 0], strict=True))
    ratio = column(batches, "rtt_us") / 1_000
    ratio /= np.array([base[net] for net in column(batches, "net").tolist()])
    assert ratio.mean() == pytest.approx(1.0, abs=0.005)
    assert np.abs(ratio - 1).mean() == pytest.approx(0.1, rel=0.05)
    assert ratio.min() > 0


def test_a_lost_probe_of_the_bank_is_a_loss_with_the_time_waited(small: World) -> None:
    own = dataclasses.replace(calm(small), residual=np.full((2, 50), np.nan))
    batches = measure(make(own), 0, 3.0)
    assert column(batches, "lost").all()
    assert set(column(batches, "rtt_us").tolist()) == {10_000_000}


def test_a_single_lost_probe_is_a_fifth_of_the_five_steps_around(small: World) -> None:
    bank = np.zeros((1, 100))
    bank[0, 50] = np.nan
    residuals = Residuals(dataclasses.replace(small, residual=bank))
    pair = [residuals.at(step * small.residual_step_s)[1][0, 0] for step in range(100)]
    assert sum(pair) == pytest.approx(1.0)
    assert max(pair) == pytest.approx(0.2)


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_residuals_are_a_ratio_and_run_faster_with_speed(small: World, speed: float) -> None:
    own = dataclasses.replace(calm(small), residual=np.arange(40)[None, :] / 100.0)
    index = {net: i for i, net in enumerate(own.net.tolist())}
    replay = make(own, speed=speed)
    for step in range(3):
        elapsed_s = (step + 0.5) * own.residual_step_s / speed
        (batch, *_) = [b for b in replay.measure(0, elapsed_s, START_MS) if isinstance(b, RttBatch)]
        metro = own.metro[[index[net] for net in batch.net.tolist()]]
        start = np.array([Residuals(own).at(0.0)[0][m, 0] for m in metro]) * 100
        ratio = (np.round(start).astype(int) + step) % 40 / 100
        assert batch.rtt_us == pytest.approx(own.rtt_ms[metro, 0] * (1 + ratio) * 1_000, abs=2)


def test_a_slow_reader_is_not_flooded_after_a_pause(small: World) -> None:
    replay = make(small)
    replay.measure(0, 1.0, START_MS)
    late = replay.measure(0, 100.0, START_MS)
    assert sum(rows(batch) for batch in late) == PREFIXES
    last = late[-1]
    assert last.header.t0_ms + int(last.dt_ms[-1]) <= START_MS + 100_000


def test_the_lab_changes_rtt_and_loss_of_a_prefix_and_all_within_it(
    small: World, tmp_path: Path
) -> None:
    own = calm(small)
    file = tmp_path / "lab.json"
    replay = make(own, events=file)
    inside = (own.plen == 24) & (own.net >> np.uint64(45) == own.net[0] >> np.uint64(45))
    assert 0 < inside.sum() < PREFIXES
    before = measure(replay, 0, 10.0)
    lab.save(
        file,
        Changes(
            rtt=(
                RttChange(prefix="10.0.0.0/19", pop=own.pops[0], factor=2.0, add_ms=5.0),
                RttChange(prefix="2001:db8::/32", pop="*", loss=1.0),
                RttChange(prefix="10.0.0.0/8", pop="nowhere", factor=9.0),
            )
        ),
    )
    replay.poll_events()
    after = [b for b in replay.measure(0, 20.0, START_MS) if isinstance(b, RttBatch)]
    old = dict(zip(column(before, "net").tolist(), column(before, "rtt_us").tolist(), strict=True))
    hit = set(own.net[inside].tolist())
    for net, plen, rtt_us, lost in zip(
        *(column(after, name).tolist() for name in ("net", "plen", "rtt_us", "lost")), strict=True
    ):
        assert lost == (plen > 32)
        if not lost:
            expected = 2 * old[net] + 5_000 if net in hit else old[net]
            assert rtt_us == pytest.approx(expected, abs=3)


def test_a_broken_lab_file_keeps_the_changes_in_force(small: World, tmp_path: Path) -> None:
    file = tmp_path / "lab.json"
    lab.save(file, Changes(rtt=(RttChange(prefix="::/0", pop="*", factor=3.0),)))
    replay = make(calm(small), events=file)
    replay.poll_events()
    file.write_text("{")
    replay.poll_events()
    (batch, *_) = [b for b in replay.measure(0, 10.0, START_MS) if isinstance(b, RttBatch)]
    index = {net: i for i, net in enumerate(small.net.tolist())}
    six = batch.plen > 32
    base = small.rtt_ms[small.metro[[index[n] for n in batch.net[six].tolist()]], 0]
    assert batch.rtt_us[six] == pytest.approx(base * 3_000, abs=2)
