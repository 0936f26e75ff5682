"""The limits of one Kinesis shard, as token buckets.

1 MB/s and 1,000 records/s in, 5 reads/s
and 2 MB/s out (Amazon Kinesis Data Streams Developer Guide, "Quotas and limits").

Time comes in as an argument. Without `--limits` nobody asks here.
"""

from dataclasses import dataclass, field

WRITE_BYTES_PER_S = 1_048_576
WRITE_RECORDS_PER_S = 1_000
READS_PER_S = 5
READ_BYTES_PER_S = 2_097_152


@dataclass(slots=True)
class Bucket:
    """Tokens that refill at `rate` a second up to one second's worth; a debt blocks."""

    rate: float
    level: float
    at_s: float = 0.0

    def refill(self, now_s: float) -> float:
        """The level at `now_s`."""
        self.level = min(self.rate, self.level + (now_s - self.at_s) * self.rate)
        self.at_s = now_s
        return self.level


def _full(rate: float) -> Bucket:
    return Bucket(rate, rate)


@dataclass(slots=True)
class ShardLimits:
    """What one shard may still take and give."""

    write_bytes: Bucket = field(default_factory=lambda: _full(WRITE_BYTES_PER_S))
    write_records: Bucket = field(default_factory=lambda: _full(WRITE_RECORDS_PER_S))
    reads: Bucket = field(default_factory=lambda: _full(READS_PER_S))
    read_bytes: Bucket = field(default_factory=lambda: _full(READ_BYTES_PER_S))

    def admit_write(self, size_bytes: int, now_s: float) -> bool:
        """Take one record of this size, or refuse it and take nothing."""
        if self.write_bytes.refill(now_s) < size_bytes or self.write_records.refill(now_s) < 1:
            return False
        self.write_bytes.level -= size_bytes
        self.write_records.level -= 1
        return True

    def admit_read(self, now_s: float) -> bool:
        """Begin one GetRecords call, or refuse it while the shard still owes bytes."""
        if self.read_bytes.refill(now_s) <= 0 or self.reads.refill(now_s) < 1:
            return False
        self.reads.level -= 1
        return True

    def charge_read(self, size_bytes: int) -> None:
        """Count what a read gave: one call may give 10 MB, then the shard rests for 5 s."""
        self.read_bytes.level -= size_bytes
