"""RTTs of pairs that nobody measured."""

import numpy as np
from numpy.typing import NDArray

from aggregator.estimate import Estimates
from aggregator.inference import US_PER_KM_MIN, Known, Surroundings, inferred
from aggregator.prefixes import UNKNOWN, Prefixes
from popsteer.evidence import Source
from popsteer.names import Prefix, prefix_arrays

POPS = 6
POP_PLACE = np.array([[0.0, 10.0 * p] for p in range(POPS)])
KM_PER_DEGREE = 111.19
US_PER_KM = 15.0
BASE_US = 3_000.0


def world(prefixes: int) -> tuple[Prefixes, NDArray[np.float64], NDArray[np.float64]]:
    """Prefixes along the equator, with the RTT of every pair."""
    known = Prefixes()
    known.add(*prefix_arrays([Prefix.parse(f"10.0.{i}.0/24") for i in range(prefixes)]))
    place = np.stack([np.zeros(prefixes), np.linspace(0, 50, prefixes)], axis=1)
    km = np.abs(place[:, 1, None] - POP_PLACE[None, :, 1]) * KM_PER_DEGREE
    # In numbers that float32 holds, as the estimates are kept.
    return known, place, np.rint(BASE_US + US_PER_KM * km)


def measured(rtt_us: NDArray[np.float64], seen: NDArray[np.bool_]) -> Estimates:
    key = np.flatnonzero(seen.ravel())
    n = len(key)
    return Estimates(
        key, rtt_us.ravel()[key], np.full(n, 500.0), np.full(n, 9.0), np.zeros(n), np.zeros(n)
    )


def pairs_of(known: Known, row: int) -> dict[int, tuple[float, float, int]]:
    here = np.flatnonzero(known.estimates.key // POPS == row)
    return {
        int(known.estimates.key[i] % POPS): (
            float(known.estimates.rtt_us[i]),
            float(known.estimates.spread_us[i]),
            int(known.source[i]),
        )
        for i in here
    }


def test_what_was_measured_stays_as_it_is() -> None:
    prefixes, place, rtt_us = world(40)
    everything = measured(rtt_us, np.ones(rtt_us.shape, bool))

    known = inferred(
        everything, prefixes, POPS, Surroundings(place, np.zeros(40, np.int64), POP_PLACE)
    )

    assert known.estimates.rtt_us.tolist() == everything.rtt_us.tolist()
    assert (known.source == Source.MEASURED).all()


def test_a_network_speaks_for_its_prefixes_by_the_median() -> None:
    prefixes, _, rtt_us = world(40)
    seen = np.ones(rtt_us.shape, bool)
    seen[[3, 20]] = False
    seen[20, 1] = True
    network = np.where(np.arange(40) < 12, 64_500, 64_501)
    network[25] = UNKNOWN

    known = inferred(measured(rtt_us, seen), prefixes, POPS, Surroundings(network=network))

    mates = [i for i in range(12) if i != 3]
    for pop, (rtt, spread, source) in pairs_of(known, 3).items():
        assert rtt == np.sort(rtt_us[mates, pop])[(len(mates) - 1) // 2]
        assert source == Source.NETWORK
        assert spread >= 0.5 * rtt
        assert abs(rtt - rtt_us[3, pop]) < spread
    assert pairs_of(known, 20)[1] == (rtt_us[20, 1], 500.0, Source.MEASURED)
    assert pairs_of(known, 20)[2][2] == Source.NETWORK
    assert len(pairs_of(known, 20)) == POPS


def test_the_map_places_what_nothing_else_tells() -> None:
    prefixes, place, rtt_us = world(40)
    seen = np.ones(rtt_us.shape, bool)
    seen[[7, 30]] = False
    place[30] = np.nan

    known = inferred(measured(rtt_us, seen), prefixes, POPS, Surroundings(place, None, POP_PLACE))

    told = pairs_of(known, 7)
    assert min(told, key=lambda pop: told[pop][0]) == int(rtt_us[7].argmin())
    for pop, (rtt, spread, source) in told.items():
        assert source == Source.PLACE
        assert abs(rtt - rtt_us[7, pop]) < spread
        assert spread >= 0.5 * rtt
    assert pairs_of(known, 30) == {}


def test_few_measurements_draw_no_map() -> None:
    prefixes, place, rtt_us = world(40)
    seen = np.zeros(rtt_us.shape, bool)
    seen[0] = True

    known = inferred(measured(rtt_us, seen), prefixes, POPS, Surroundings(place, None, POP_PLACE))

    assert set(known.source.tolist()) == {Source.MEASURED}


def test_nearer_knowledge_wins_and_doubt_grows_from_step_to_step() -> None:
    prefixes, place, rtt_us = world(40)
    prefixes.add(*prefix_arrays([Prefix.parse("10.0.0.0/28")]))
    place = np.append(place, place[:1], axis=0)
    seen = np.ones(rtt_us.shape, bool)
    seen[[7, 9]] = False
    network = np.append(np.full(40, UNKNOWN), UNKNOWN)
    network[[6, 7]] = 64_500

    known = inferred(
        measured(rtt_us, seen), prefixes, POPS, Surroundings(place, network, POP_PLACE)
    )

    steps = [pairs_of(known, row)[0] for row in (0, 40, 7, 9)]
    assert [source for _, _, source in steps] == list(Source)
    doubt = [spread / rtt for rtt, spread, _ in steps]
    assert doubt[0] < doubt[1]
    assert doubt[1] <= doubt[3]
    assert doubt[2] <= doubt[3]


def placed(rtt_us: NDArray[np.float64]) -> tuple[Known, NDArray[np.float64]]:
    """The last prefix of 40 is known by its place alone; and its distance to each POP."""
    prefixes, place, _ = world(40)
    seen = np.ones(rtt_us.shape, bool)
    seen[-1] = False
    known = inferred(measured(rtt_us, seen), prefixes, POPS, Surroundings(place, None, POP_PLACE))
    return known, np.abs(place[-1, 1] - POP_PLACE[:, 1]) * KM_PER_DEGREE


def test_nothing_is_placed_nearer_than_light_has_it() -> None:
    known, km = placed(np.full((40, POPS), 3_000.0))

    told = pairs_of(known, 39)

    assert len(told) == POPS
    for pop, (rtt, _, _) in told.items():
        assert rtt >= US_PER_KM_MIN * km[pop] - 1


def test_a_map_that_is_wrong_by_much_says_so() -> None:
    rng = np.random.default_rng(3)
    _, _, truth = world(40)
    known, _ = placed(np.rint(truth + rng.choice([0.0, 80_000.0], truth.shape, p=[0.8, 0.2])))

    told = pairs_of(known, 39)

    assert min(spread for _, spread, _ in told.values()) > 30_000
