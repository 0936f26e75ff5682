"""A shard's limits: one second's worth at once, then as fast as it refills."""

from console.localaws.limits import (
    READ_BYTES_PER_S,
    READS_PER_S,
    WRITE_BYTES_PER_S,
    WRITE_RECORDS_PER_S,
    ShardLimits,
)


def test_a_thousand_small_records_a_second() -> None:
    limits = ShardLimits()

    first = sum(limits.admit_write(100, now_s=10.0) for _ in range(1500))
    half_a_second_later = sum(limits.admit_write(100, now_s=10.5) for _ in range(1500))

    assert first == WRITE_RECORDS_PER_S
    assert half_a_second_later == WRITE_RECORDS_PER_S // 2


def test_a_mebibyte_a_second_and_a_refused_record_costs_nothing() -> None:
    limits = ShardLimits()

    assert limits.admit_write(WRITE_BYTES_PER_S - 10, now_s=1.0)
    assert not limits.admit_write(11, now_s=1.0)
    assert limits.admit_write(10, now_s=1.0)


def test_five_reads_a_second() -> None:
    limits = ShardLimits()

    admitted = [limits.admit_read(now_s=3.0) for _ in range(READS_PER_S + 1)]

    assert admitted == [True] * READS_PER_S + [False]
    assert limits.admit_read(now_s=3.2)


def test_after_a_read_of_10_mb_a_shard_rests() -> None:
    limits = ShardLimits()
    assert limits.admit_read(now_s=0.0)
    limits.charge_read(5 * READ_BYTES_PER_S)

    assert not limits.admit_read(now_s=3.9)
    assert limits.admit_read(now_s=4.1)
