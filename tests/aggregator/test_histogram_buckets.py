import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aggregator.histogram import (
    BUCKET_MAX,
    GAMMA,
    LOST,
    RELATIVE_ERROR,
    bucket_of,
    bucket_value_us,
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
