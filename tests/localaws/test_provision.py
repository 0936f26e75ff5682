"""What popsteer finds at first start, and that provisioning twice changes nothing."""

from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ReadTimeoutError

from console.localaws.leases import OWNER_INDEX, seed_leases
from console.localaws.provision import BULK_STREAM, URGENT_STREAM, provision, with_patience

if TYPE_CHECKING:
    from tests.localaws.conftest import LocalAws


def test_streams_leases_and_bucket_are_there(shared: "LocalAws") -> None:
    counts = {
        name: len(shared.kinesis.list_shards(StreamName=name)["Shards"])
        for name in (BULK_STREAM, URGENT_STREAM)
    }
    assert counts == {BULK_STREAM: 2, URGENT_STREAM: 1}
    shared.s3.head_bucket(Bucket="popsteer")
    leases = shared.dynamodb.scan(TableName=BULK_STREAM)["Items"]
    assert {lease["leaseKey"]["S"] for lease in leases} == {
        "shardId-000000000000",
        "shardId-000000000001",
    }
    assert all(lease["checkpoint"] == {"S": "TRIM_HORIZON"} for lease in leases)
    table = shared.dynamodb.describe_table(TableName=URGENT_STREAM)["Table"]
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == [OWNER_INDEX]


def test_a_second_time_changes_nothing(shared: "LocalAws") -> None:
    """A lease that the KCL has deleted must not come back: its shard would be read again."""
    lease = {"leaseKey": {"S": "shardId-000000000000"}}
    shared.dynamodb.delete_item(TableName=URGENT_STREAM, Key=lease)
    before = shared.kinesis.list_shards(StreamName=BULK_STREAM)["Shards"]

    provision(
        shared.kinesis,
        shared.dynamodb,
        shared.s3,
        shard_counts={BULK_STREAM: 7, URGENT_STREAM: 7},
        bucket="popsteer",
    )

    assert shared.kinesis.list_shards(StreamName=BULK_STREAM)["Shards"] == before
    assert shared.dynamodb.scan(TableName=URGENT_STREAM)["Count"] == 0


def test_leases_are_for_first_shards_only(shared: "LocalAws") -> None:
    """Children get theirs from the KCL, once their parents are read."""
    shared.kinesis.create_stream(StreamName="resharded", ShardCount=1)
    shared.kinesis.update_shard_count(
        StreamName="resharded", TargetShardCount=2, ScalingType="UNIFORM_SCALING"
    )

    assert seed_leases(shared.kinesis, shared.dynamodb, "resharded", "application")
    assert not seed_leases(shared.kinesis, shared.dynamodb, "resharded", "application")

    leases = shared.dynamodb.scan(TableName="application")["Items"]
    assert [lease["leaseKey"]["S"] for lease in leases] == ["shardId-000000000000"]
    shared.kinesis.delete_stream(StreamName="resharded")
    shared.dynamodb.delete_table(TableName="application")


def test_a_slow_answer_is_waited_for_again() -> None:
    calls: list[int] = []

    def slow_at_first() -> None:
        calls.append(1)
        if len(calls) < 3:
            raise ReadTimeoutError(endpoint_url="http://127.0.0.1")

    with_patience(slow_at_first)

    assert len(calls) == 3


def test_patience_has_an_end() -> None:
    def never() -> None:
        raise ReadTimeoutError(endpoint_url="http://127.0.0.1")

    with pytest.raises(ReadTimeoutError):
        with_patience(never, patience_s=0.0)
