"""RTTs that light could not have made, against great circles worked out one by one."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import settings as consumer_settings
from aggregator.histogram import FIRST_US, LOST, bucket_of
from aggregator.light import Sites, sites
from aggregator.partials import RttPartial
from aggregator.settings import BULK_KINDS
from aggregator.window import Record, Resume, Rules, ShardFold
from popsteer.config import Aggregate, Config, Pop
from popsteer.geo import distance_km
from popsteer.locations import PLACE_ERROR_KM, Locations
from popsteer.names import Prefix, SourceId, prefix_arrays
from popsteer.samples import Header, Method, RttBatch, encode

T0_MS = 1_700_000_000_000
POPS = ("fra1", "nowhere", "syd1")
POP_AT = {"fra1": (50.03, 8.57), "syd1": (-33.94, 151.18)}
PREFIXES = [
    Prefix.parse(text)
    for text in ("192.0.2.0/24", "192.0.2.0/25", "198.51.100.0/24", "2001:db8::/48", "10.0.0.0/8")
]
LIGHT_KM_PER_S = 299_792.458

Sample = tuple[int, int, int, int, int]
"""Prefix, POP, RTT, lost, and ms since T0."""


def record(sequence: int, samples: list[Sample]) -> Record:
    prefix, pop, rtt_us, lost, dt_ms = zip(*samples, strict=True) if samples else [()] * 5
    net, plen = prefix_arrays(PREFIXES[one] for one in prefix)
    batch = RttBatch(
        Header(SourceId(f"fra1.{sequence}"), 0, T0_MS, POPS),
        np.array(dt_ms, np.uint32),
        net,
        plen,
        np.array(pop, np.uint16),
        np.array(rtt_us, np.uint32),
        np.full(len(samples), Method.ICMP, np.uint8),
        np.array(lost, np.uint8),
    )
    return Record(sequence, T0_MS + 1_000, encode(batch))


def known(at: dict[int, tuple[float, float]]) -> Sites:
    net, plen = prefix_arrays(PREFIXES[one] for one in at)
    degrees = np.array(list(at.values()), np.float64).reshape(-1, 2)
    return sites(Locations(net, plen, degrees), POP_AT)


def folded(where: Sites | None, records: list[Record]) -> tuple[ShardFold, RttPartial]:
    rules = Rules("popsteer-bulk", "s", BULK_KINDS, 10_000, 500, frozenset(POPS), where)
    fold = ShardFold(rules, Resume())
    assert not [cut for one in records for cut in fold.take(one)]
    (cut,) = fold.finish()
    partial = cut.partials[-1]
    assert isinstance(partial, RttPartial)
    return fold, partial


def counted(partial: RttPartial) -> Counter[tuple[str, str, int]]:
    counts: Counter[tuple[str, str, int]] = Counter()
    columns = (partial.net, partial.plen, partial.pop, partial.bucket, partial.count)
    for net, plen, pop, bucket, count in zip(*(c.tolist() for c in columns), strict=True):
        counts[str(Prefix(net, plen)), partial.pops[pop], bucket] += count
    return counts


def slow(sample: Sample, at: dict[int, tuple[float, float]]) -> tuple[bool, int]:
    """Whether light could, and the bucket."""
    prefix, pop, rtt_us, lost, _ = sample
    bucket = LOST if lost else int(bucket_of(np.array([rtt_us], np.uint32))[0])
    if lost or prefix not in at or POPS[pop] not in POP_AT:
        return True, bucket
    highest_us = int(FIRST_US[bucket - LOST + 1]) - 1
    reach_km = LIGHT_KM_PER_S * highest_us / 1e6 / 2 + PLACE_ERROR_KM
    (lat, lon), (pop_lat, pop_lon) = at[prefix], POP_AT[POPS[pop]]
    ends = (np.array([degrees]) for degrees in (lat, lon, pop_lat, pop_lon))
    return reach_km >= float(distance_km(*ends)[0, 0]), bucket


degrees = st.tuples(st.integers(-90, 90), st.integers(-180, 180))
rtts_us = st.one_of(st.integers(0, 140_000), st.integers(0, 60_000_000))
samples_given = st.lists(
    st.tuples(
        st.integers(0, len(PREFIXES) - 1),
        st.integers(0, len(POPS) - 1),
        rtts_us,
        st.integers(0, 1),
        st.sampled_from([0, 1, 12_000]),
    ),
    max_size=30,
)


@given(
    st.dictionaries(st.integers(0, len(PREFIXES) - 1), degrees),
    st.lists(samples_given, min_size=1, max_size=3),
)
def test_what_is_refused_is_what_light_could_not(
    at: dict[int, tuple[float, float]], records: list[list[Sample]]
) -> None:
    fold, partial = folded(known(at), [record(n, one) for n, one in enumerate(records)])

    samples = [sample for one in records for sample in one]
    judged = [(sample, *slow(sample, at)) for sample in samples]
    good = Counter((str(PREFIXES[s[0]]), POPS[s[1]], b) for s, could, b in judged if could)
    bad = sum(not could for _, could, _ in judged)
    assert counted(partial) == good
    assert partial.origin.samples == len(samples)
    assert partial.origin.quarantined == ({"light": bad} if bad else {})
    assert {r.source for r in fold.refusals} == {POPS[s[1]] for s, could, _ in judged if not could}


@pytest.mark.parametrize(("rtt_us", "refused"), [(100_000, True), (115_000, False), (1, True)])
def test_frankfurt_to_sydney(rtt_us: int, refused: bool) -> None:
    """16,500 km: 110 ms there and back at the speed of light, 109 ms with the places' doubt."""
    fold, partial = folded(known({0: (-33.9, 151.2)}), [record(0, [(0, 0, rtt_us, 0, 0)])])

    assert bool(partial.origin.quarantined) is refused
    assert [r.detail for r in fold.refusals] == (
        [f"192.0.2.0/24 within {rtt_us} us of fra1: faster than light"] if refused else []
    )


def test_the_other_end_of_the_earth_is_in_reach_of_a_slow_answer() -> None:
    lat, lon = POP_AT["fra1"]
    _, partial = folded(known({0: (-lat, lon - 180)}), [record(0, [(0, 0, 140_000, 0, 0)])])

    assert not partial.origin.quarantined


def test_the_split_over_cuts_decides_nothing() -> None:
    """A sample beside a slower one of the same bucket is judged as it is alone."""
    at = {0: (47.0, 8.57)}
    km = float(distance_km(*(np.array([d]) for d in (*at[0], *POP_AT["fra1"])))[0, 0])
    edge_us = math.floor((km - PLACE_ERROR_KM) * 2 / LIGHT_KM_PER_S * 1e6)
    samples: list[Sample] = [(0, 0, edge_us + more, 0, 0) for more in range(-20, 20)]

    _, together = folded(known(at), [record(0, samples)])

    alone = [folded(known(at), [record(0, [sample])])[1] for sample in samples]
    assert counted(together) == sum((counted(one) for one in alone), Counter())
    assert 0 < together.count.sum() < len(samples)


def test_a_processor_judges_by_what_the_configuration_names(tmp_path: Path) -> None:
    """From the file of the configuration through the file of its settings."""
    (tmp_path / "places.csv").write_text("prefix,latitude,longitude\n192.0.2.0/24,-33.9,151.2\n")
    config = Config(
        pop=(Pop(id="fra1", location=POP_AT["fra1"]), Pop(id="nowhere"), Pop(id="syd1")),
        aggregate=Aggregate(locations="places.csv"),
        folder=str(tmp_path),
    )
    consumer_settings.save(consumer_settings.bulk(config), tmp_path / "settings.json")
    loaded = consumer_settings.load({consumer_settings.VARIABLE: str(tmp_path / "settings.json")})
    fold = ShardFold(consumer_settings.rules(loaded, "s"), Resume())

    fold.take(record(0, [(0, pop, 1_000, 0, 0) for pop in (0, 0, 1, 2)]))

    (cut,) = fold.finish()
    assert cut.origin.quarantined == {"light": 2}
    assert consumer_settings.rules(consumer_settings.urgent(config), "s").sites is None
