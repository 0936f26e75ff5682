import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.histogram import (
    BUCKET_MAX,
    GAMMA,
    LOST,
    RELATIVE_ERROR,
    bucket_of,
    bucket_value_us,
    quantiles_us,
)
from popsteer.samples import RTT_US_MAX

rtts_us = st.integers(1, RTT_US_MAX)


@given(rtts_us)
def test_the_value_of_a_bucket_is_within_the_promised_error(rtt_us: int) -> None:
    value_us = float(bucket_value_us(bucket_of(np.array([rtt_us], np.uint32)))[0])

    assert abs(value_us - rtt_us) <= RELATIVE_ERROR * rtt_us * (1 + 1e-9)


@given(rtts_us)
def test_buckets_are_those_of_exact_arithmetic(rtt_us: int) -> None:
    bucket = int(bucket_of(np.array([rtt_us], np.uint32))[0])

    gamma = Fraction(101, 99)
    assert gamma**bucket >= rtt_us
    assert bucket == 0 or gamma ** (bucket - 1) < rtt_us


def test_no_whole_rtt_is_so_close_to_an_edge_that_rounding_could_decide() -> None:
    edge, gaps = Fraction(1), []
    for _ in range(BUCKET_MAX):
        edge *= Fraction(101, 99)
        gaps.append(abs(float((edge - round(edge)) / edge)))

    assert min(gaps) > 1e-10


def test_edges() -> None:
    buckets = bucket_of(np.array([0, 1, 2, RTT_US_MAX], np.uint32))

    assert buckets.tolist() == [0, 0, math.ceil(math.log(2) / math.log(GAMMA)), BUCKET_MAX]
    assert np.isnan(bucket_value_us(np.array([LOST], np.int16))[0])


@given(
    st.lists(st.tuples(st.integers(0, 3), st.one_of(st.just(0), rtts_us)), max_size=60),
    st.floats(0, 1),
)
def test_quantiles_are_within_the_error_of_the_sorted_samples(
    samples: list[tuple[int, int]], q: float
) -> None:
    """An RTT of 0 stands for a lost probe here."""
    group = np.array([g for g, _ in samples], np.int64)
    rtt_us = np.array([r for _, r in samples], np.uint32)
    bucket = np.where(rtt_us == 0, np.int16(LOST), bucket_of(rtt_us))

    got = quantiles_us(group, bucket, np.ones(len(samples), np.uint32), 4, q)

    for one in range(4):
        answered = sorted(r for g, r in samples if g == one and r)
        if not answered:
            assert np.isnan(got[one])
            continue
        rank = max(1, math.ceil(q * len(answered) * (1 - 1e-9)))
        assert got[one] == pytest.approx(answered[rank - 1], rel=RELATIVE_ERROR * 1.0001)


def test_quantiles_weigh_counts_below_one() -> None:
    got = quantiles_us(
        np.array([0, 0, 0]),
        np.array([10, 20, 30], np.int16),
        np.array([0.1, 0.2, 0.1]),
        1,
        0.5,
    )

    assert got[0] == bucket_value_us(np.array([20], np.int16))[0]
