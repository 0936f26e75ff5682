"""What a client finds after the embedded AWS was killed and came back."""

import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from tests.localaws.conftest import LocalAws

BUCKET = "popsteer"
STREAM = "popsteer-bulk"
ODD_KEYS = ["odd/a b+c=d%2Fe", "odd/é", "odd/x", "odd/x/y", ".new", "x+new", "odd/" + "n" * 900]
FIRST = "shardId-000000000000"


def payloads(server: "LocalAws", iterator: str) -> list[bytes]:
    """What one read gives."""
    return [r["Data"] for r in server.kinesis.get_records(ShardIterator=iterator)["Records"]]


def test_records_shards_and_iterators_survive(mortal: "LocalAws") -> None:
    kinesis = mortal.kinesis
    stream = "to-split"
    kinesis.create_stream(StreamName=stream, ShardCount=1)
    before = kinesis.put_record(StreamName=stream, Data=b"before", PartitionKey="k")
    start = kinesis.get_shard_iterator(
        StreamName=stream, ShardId=FIRST, ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    kinesis.split_shard(StreamName=stream, ShardToSplit=FIRST, NewStartingHashKey=str(2**127))
    kinesis.put_record(StreamName=stream, Data=b"child", PartitionKey="k", ExplicitHashKey="0")
    structure = kinesis.list_shards(StreamName=stream)["Shards"]

    mortal.restart_after_kill()

    assert kinesis.list_shards(StreamName=stream)["Shards"] == structure
    drained = kinesis.get_records(ShardIterator=start)
    assert [r["Data"] for r in drained["Records"]] == [b"before"]
    assert "NextShardIterator" not in set(drained)
    child = kinesis.get_shard_iterator(
        StreamName=stream, ShardId="shardId-000000000001", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    assert payloads(mortal, child) == [b"child"]
    after = kinesis.put_record(
        StreamName=stream, Data=b"after", PartitionKey="k", ExplicitHashKey="0"
    )
    assert int(after["SequenceNumber"]) > int(before["SequenceNumber"])
    assert payloads(mortal, child) == [b"child", b"after"]


def test_nothing_acknowledged_is_lost_by_a_kill_amid_writing(mortal: "LocalAws") -> None:
    kinesis = mortal.kinesis
    kinesis.create_stream(StreamName="busy", ShardCount=3)
    acknowledged: list[bytes] = []

    def write_until_it_dies() -> None:
        for start in itertools.count(step=50):
            batch = [b"%d" % i + b"." * 2000 for i in range(start, start + 50)]
            entries = [{"Data": data, "PartitionKey": data[:6].decode()} for data in batch]
            try:
                kinesis.put_records(StreamName="busy", Records=entries)  # type: ignore[arg-type]
            except (BotoCoreError, ClientError):
                return
            acknowledged.extend(batch)

    with ThreadPoolExecutor(1) as writer:
        writing = writer.submit(write_until_it_dies)
        deadline = time.monotonic() + 30
        while len(acknowledged) < 1000 and time.monotonic() < deadline:
            time.sleep(0.01)
        mortal.kill()
        writing.result()
    mortal.start()

    found: list[bytes] = []
    for shard in kinesis.list_shards(StreamName="busy")["Shards"]:
        iterator = kinesis.get_shard_iterator(
            StreamName="busy", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        found += payloads(mortal, iterator)
    assert len(acknowledged) >= 1000
    assert set(acknowledged) <= set(found)
    # At most the one request that was never answered may be there besides.
    assert len(found) <= len(acknowledged) + 50


def test_objects_etags_and_conditions_survive(mortal: "LocalAws") -> None:
    s3 = mortal.s3
    body = os.urandom(200_000)
    etag = s3.put_object(
        Bucket=BUCKET, Key="tables/1.arrow", Body=body, ContentType="a/b", Metadata={"x": "y"}
    )["ETag"]
    moved = s3.put_object(Bucket=BUCKET, Key="tables/current.json", Body=b"{}")["ETag"]
    for key in ODD_KEYS:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    s3.put_object(Bucket=BUCKET, Key="gone", Body=b"")
    s3.delete_object(Bucket=BUCKET, Key="gone")
    written = s3.head_object(Bucket=BUCKET, Key="tables/1.arrow")

    mortal.restart_after_kill()

    got = s3.get_object(Bucket=BUCKET, Key="tables/1.arrow", IfMatch=etag)
    assert got["Body"].read() == body
    assert (got["ETag"], got["ContentType"], got["Metadata"]) == (etag, "a/b", {"x": "y"})
    assert got["LastModified"] == written["LastModified"]
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00"'}):
        with pytest.raises(ClientError) as late:
            s3.put_object(Bucket=BUCKET, Key="tables/1.arrow", Body=b"", **condition)  # type: ignore[arg-type]
        assert late.value.response["Error"]["Code"] == "PreconditionFailed"
    s3.put_object(Bucket=BUCKET, Key="tables/current.json", Body=b"{1}", IfMatch=moved)
    s3.put_object(Bucket=BUCKET, Key="gone", Body=b"again", IfNoneMatch="*")
    assert s3.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 3 + len(ODD_KEYS)
    for key in ODD_KEYS:
        assert s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() == key.encode()


def test_leases_and_tables_survive_with_their_last_change(mortal: "LocalAws") -> None:
    dynamodb = mortal.dynamodb
    lease = {"leaseKey": {"S": FIRST}}
    dynamodb.update_item(
        TableName=STREAM,
        Key=lease,
        UpdateExpression="SET leaseCounter = leaseCounter + :one, leaseOwner = :me, #c = :seq",
        ExpressionAttributeNames={"#c": "checkpoint"},
        ExpressionAttributeValues={":one": {"N": "1"}, ":me": {"S": "w1"}, ":seq": {"S": "49"}},
    )
    dynamodb.create_table(
        TableName="with-range",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[
            {"AttributeName": "h", "KeyType": "HASH"},
            {"AttributeName": "r", "KeyType": "RANGE"},
        ],
        AttributeDefinitions=[
            {"AttributeName": "h", "AttributeType": "S"},
            {"AttributeName": "r", "AttributeType": "N"},
        ],
    )
    everything = {
        "h": {"S": "x"},
        "r": {"N": "1"},
        "set": {"SS": ["a", "b"]},
        "map": {"M": {"list": {"L": [{"N": "1.5"}, {"BOOL": True}, {"NULL": True}]}}},
        "bytes": {"B": b"\x00\xff"},
    }
    dynamodb.put_item(TableName="with-range", Item=everything)  # type: ignore[arg-type]
    described = dynamodb.describe_table(TableName=STREAM)["Table"]

    mortal.restart_after_kill()

    item = dynamodb.get_item(TableName=STREAM, Key=lease)["Item"]
    assert (item["leaseCounter"], item["leaseOwner"], item["checkpoint"]) == (
        {"N": "1"},
        {"S": "w1"},
        {"S": "49"},
    )
    with pytest.raises(ClientError, match="ConditionalCheckFailed"):
        dynamodb.put_item(
            TableName=STREAM, Item=lease, ConditionExpression="attribute_not_exists(leaseKey)"
        )
    assert dynamodb.describe_table(TableName=STREAM)["Table"] == described
    owned = dynamodb.query(
        TableName=STREAM,
        IndexName="LeaseOwnerToLeaseKeyIndex",
        KeyConditionExpression="leaseOwner = :me",
        ExpressionAttributeValues={":me": {"S": "w1"}},
    )
    assert [found["leaseKey"] for found in owned["Items"]] == [{"S": FIRST}]
    kept = dynamodb.get_item(TableName="with-range", Key={"h": {"S": "x"}, "r": {"N": "1"}})
    assert kept["Item"] == everything


def test_a_deleted_table_and_stream_stay_deleted(mortal: "LocalAws") -> None:
    mortal.kinesis.create_stream(StreamName="short", ShardCount=1)
    mortal.kinesis.delete_stream(StreamName="short")
    mortal.dynamodb.create_table(
        TableName="short",
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "h", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "h", "AttributeType": "S"}],
    )
    mortal.dynamodb.delete_table(TableName="short")

    mortal.restart_after_kill()

    assert "short" not in mortal.kinesis.list_streams()["StreamNames"]
    assert "short" not in mortal.dynamodb.list_tables()["TableNames"]
