"""Records out of retention are neither read nor kept; a process may have slept in between."""

from base64 import b64encode
from pathlib import Path

import msgspec
import pytest

from console.localaws.account import Account, Call
from console.localaws.kinesis_api import GetRecords, GetShardIterator, PutRecord, Retention
from console.localaws.kinesis_errors import KinesisError
from console.localaws.record_calls import get_records, get_shard_iterator, put_record
from console.localaws.setting_calls import change_retention

NOON_US = 1_763_715_723_000_000
HOUR_US = 3_600_000_000
SECOND_US = 1_000_000
SHARD = "shardId-000000000000"


def put(account: Account, payload: bytes, now_us: int) -> None:
    """Put one record at a time."""
    data = b64encode(payload).decode()
    request = PutRecord(stream_name="s", data=data, partition_key="key")
    put_record(Call(account, now_us), request)


def fill(account: Account, count: int) -> None:
    """Put so many records of a kilobyte at noon."""
    for _ in range(count):
        put(account, b"x" * 1_000, NOON_US)


def read_to_the_end(account: Account, now_us: int) -> None:
    """As a consumer does: on and on, until the tip has been asked for twice."""
    call = Call(account, now_us)
    start = GetShardIterator(stream_name="s", shard_id=SHARD, shard_iterator_type="TRIM_HORIZON")
    at = str(get_shard_iterator(call, start)["ShardIterator"])
    for _ in range(2):
        at = str(get_records(call, GetRecords(at))["NextShardIterator"])


def readable(account: Account, now_us: int) -> int:
    """How many records TRIM_HORIZON gives at a time."""
    call = Call(account, now_us)
    start = get_shard_iterator(
        call, GetShardIterator(stream_name="s", shard_id=SHARD, shard_iterator_type="TRIM_HORIZON")
    )
    reply = get_records(call, GetRecords(str(start["ShardIterator"])))
    records = reply["Records"]
    assert isinstance(records, msgspec.Raw)
    return len(msgspec.json.decode(records, type=list[object]))


def test_a_day_is_kept_unless_more_is_asked_for(tmp_path: Path) -> None:
    account = Account(tmp_path, 1_000_000, limited=False)
    account.create("s", 1, NOON_US)
    put(account, b"first", NOON_US)
    put(account, b"second", NOON_US + 2 * HOUR_US)

    assert readable(account, NOON_US + 23 * HOUR_US) == 2
    assert readable(account, NOON_US + 25 * HOUR_US) == 1
    longer = Retention(stream_name="s", retention_period_hours=48)
    change_retention(Call(account, NOON_US), longer)
    assert readable(account, NOON_US + 25 * HOUR_US) == 2


def test_files_go_when_all_their_records_are_out(tmp_path: Path) -> None:
    account = Account(tmp_path, 16_000, limited=False)
    account.create("s", 1, NOON_US)
    for hour in range(5):
        # Each fills a segment, a sixteenth of the cap.
        put(account, b"x" * 1000, NOON_US + hour * HOUR_US)

    account.expire(NOON_US + 26 * HOUR_US + 1)

    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
    assert readable(account, NOON_US + 26 * HOUR_US + 1) == 2


def test_unread_records_outlast_the_cap_and_then_throttle_writes(tmp_path: Path) -> None:
    account = Account(tmp_path, 16_000, limited=False)
    account.create("s", 1, NOON_US)
    fill(account, 600)
    # 64 times 16 kB, of records that are 1.5 kB in base64.
    with pytest.raises(KinesisError, match="Rate exceeded"):
        fill(account, 200)

    assert 600 < readable(account, NOON_US + 1_000) < 800


def test_read_records_make_room_but_for_the_last_minute(tmp_path: Path) -> None:
    account = Account(tmp_path, 16_000, limited=False)
    account.create("s", 1, NOON_US)
    for second in range(120):
        put(account, b"x" * 1_000, NOON_US + second * SECOND_US)
    read_to_the_end(account, NOON_US + 120 * SECOND_US)

    put(account, b"one more", NOON_US + 120 * SECOND_US)

    # What a reader that died would begin with again: a minute, in segments of one record.
    assert 60 <= readable(account, NOON_US + 120 * SECOND_US) <= 62


def test_after_a_restart_nothing_counts_as_read(tmp_path: Path) -> None:
    account = Account(tmp_path, 16_000, limited=False)
    account.create("s", 1, NOON_US)
    for second in range(120):
        put(account, b"x" * 1_000, NOON_US + second * SECOND_US)

    again = Account(tmp_path, 16_000, limited=False)
    again.load()

    assert readable(again, NOON_US + 120 * SECOND_US) == 120
