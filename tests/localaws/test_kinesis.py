"""Kinesis through boto3 against a real server: records, resharding, limits, trimming."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from types_boto3_kinesis import KinesisClient
    from types_boto3_kinesis.type_defs import GetRecordsOutputTypeDef, ShardTypeDef

    from tests.localaws.conftest import Launch, LocalAws

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE
_names = itertools.count()


@pytest.fixture
def kinesis(shared: "LocalAws") -> "KinesisClient":
    """The shared server's Kinesis."""
    return shared.kinesis


@pytest.fixture
def stream(kinesis: "KinesisClient") -> Iterator[str]:
    """A stream of one shard, of the test's own."""
    name = f"test-{next(_names)}"
    kinesis.create_stream(StreamName=name, ShardCount=1)
    yield name
    kinesis.delete_stream(StreamName=name)


def put(kinesis: "KinesisClient", stream: str, *payloads: bytes) -> list[str]:
    """Put each payload under itself as partition key; gives the sequence numbers."""
    entries = [{"Data": data, "PartitionKey": data[:64].decode()} for data in payloads]
    answer = kinesis.put_records(StreamName=stream, Records=entries)  # type: ignore[arg-type]
    assert answer["FailedRecordCount"] == 0
    return [record["SequenceNumber"] for record in answer["Records"]]


def shards(kinesis: "KinesisClient", stream: str) -> "dict[str, ShardTypeDef]":
    """All shards, by id."""
    return {s["ShardId"]: s for s in kinesis.list_shards(StreamName=stream)["Shards"]}


def iterator(kinesis: "KinesisClient", stream: str, shard: str, kind: str, **at: object) -> str:
    """A shard iterator."""
    answer = kinesis.get_shard_iterator(
        StreamName=stream,
        ShardId=shard,
        ShardIteratorType=kind,  # type: ignore[arg-type]
        **at,  # type: ignore[arg-type]
    )
    return answer["ShardIterator"]


def read(
    kinesis: "KinesisClient", stream: str, shard: str, kind: str = "TRIM_HORIZON", **at: object
) -> list[bytes]:
    """The payloads of one read."""
    answer = kinesis.get_records(ShardIterator=iterator(kinesis, stream, shard, kind, **at))
    return [record["Data"] for record in answer["Records"]]


def fault(call: Callable[..., object], **arguments: object) -> str:
    """The error code that a call ends with."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"]


def test_records_come_back_in_order_with_keys_and_numbers(
    kinesis: "KinesisClient", stream: str
) -> None:
    numbers = put(kinesis, stream, b"one", b"two") + put(kinesis, stream, b"three")

    answer = kinesis.get_records(
        ShardIterator=iterator(kinesis, stream, "shardId-000000000000", "TRIM_HORIZON")
    )

    assert [record["Data"] for record in answer["Records"]] == [b"one", b"two", b"three"]
    assert [record["SequenceNumber"] for record in answer["Records"]] == numbers
    assert [record["PartitionKey"] for record in answer["Records"]] == ["one", "two", "three"]
    assert all(len(number) == 56 for number in numbers)
    assert numbers == sorted(numbers, key=int)
    assert abs(answer["Records"][0]["ApproximateArrivalTimestamp"].timestamp() - time.time()) < 60
    assert answer["MillisBehindLatest"] == 0


def test_every_kind_of_iterator(kinesis: "KinesisClient", stream: str) -> None:
    shard = "shardId-000000000000"
    first, second = put(kinesis, stream, b"a", b"b")
    latest = iterator(kinesis, stream, shard, "LATEST")
    after = {"StartingSequenceNumber": first}
    record = kinesis.get_records(
        ShardIterator=iterator(kinesis, stream, shard, "AFTER_SEQUENCE_NUMBER", **after)
    )["Records"][0]
    put(kinesis, stream, b"c")

    assert read(kinesis, stream, shard) == [b"a", b"b", b"c"]
    assert record["SequenceNumber"] == second
    assert read(kinesis, stream, shard, "AT_SEQUENCE_NUMBER", **after) == [b"a", b"b", b"c"]
    assert [r["Data"] for r in kinesis.get_records(ShardIterator=latest)["Records"]] == [b"c"]
    assert read(kinesis, stream, shard, "AT_TIMESTAMP", Timestamp=0) == [b"a", b"b", b"c"]
    assert read(kinesis, stream, shard, "AT_TIMESTAMP", Timestamp=time.time() + 60) == []


def test_limit_and_the_lag_behind_the_tip(kinesis: "KinesisClient", stream: str) -> None:
    put(kinesis, stream, b"a", b"b", b"c")
    start = iterator(kinesis, stream, "shardId-000000000000", "TRIM_HORIZON")

    first = kinesis.get_records(ShardIterator=start, Limit=2)
    second = kinesis.get_records(ShardIterator=first["NextShardIterator"], Limit=2)

    assert [record["Data"] for record in first["Records"]] == [b"a", b"b"]
    assert [record["Data"] for record in second["Records"]] == [b"c"]
    assert second["MillisBehindLatest"] == 0


def test_a_split_parent_drains_and_then_names_its_children(
    kinesis: "KinesisClient", stream: str
) -> None:
    parent = "shardId-000000000000"
    put(kinesis, stream, b"before-1", b"before-2")
    kinesis.split_shard(StreamName=stream, ShardToSplit=parent, NewStartingHashKey=str(2**127))
    put(kinesis, stream, *(b"after-%d" % i for i in range(20)))

    half = kinesis.get_records(
        ShardIterator=iterator(kinesis, stream, parent, "TRIM_HORIZON"), Limit=1
    )
    rest = kinesis.get_records(ShardIterator=half["NextShardIterator"])

    assert [r["Data"] for r in half["Records"] + rest["Records"]] == [b"before-1", b"before-2"]
    assert "ChildShards" not in set(half)
    assert "NextShardIterator" not in set(rest)
    children = {child["ShardId"]: child for child in rest["ChildShards"]}
    assert children.keys() == {"shardId-000000000001", "shardId-000000000002"}
    assert all(child["ParentShards"] == [parent] for child in children.values())
    found = [data for child in children for data in read(kinesis, stream, child)]
    assert sorted(found) == sorted(b"after-%d" % i for i in range(20))
    known = shards(kinesis, stream)
    assert all(known[child]["ParentShardId"] == parent for child in children)
    ranges = [known[child]["HashKeyRange"] for child in sorted(children)]
    assert ranges[0]["EndingHashKey"] == str(2**127 - 1)
    assert ranges[1]["StartingHashKey"] == str(2**127)
    ended = known[parent]["SequenceNumberRange"]["EndingSequenceNumber"]
    started = [known[child]["SequenceNumberRange"]["StartingSequenceNumber"] for child in children]
    assert all(int(number) > int(ended) for number in started)


def test_merged_parents_drain_into_one_child(kinesis: "KinesisClient", stream: str) -> None:
    kinesis.update_shard_count(StreamName=stream, TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    low, high = "shardId-000000000001", "shardId-000000000002"
    put(kinesis, stream, *(b"before-%d" % i for i in range(20)))
    kinesis.merge_shards(StreamName=stream, ShardToMerge=low, AdjacentShardToMerge=high)
    put(kinesis, stream, b"after")

    ends = [
        kinesis.get_records(ShardIterator=iterator(kinesis, stream, shard, "TRIM_HORIZON"))
        for shard in (low, high)
    ]

    child = "shardId-000000000003"
    assert sum(len(end["Records"]) for end in ends) == 20
    assert all("NextShardIterator" not in end for end in ends)
    assert all([c["ShardId"] for c in end["ChildShards"]] == [child] for end in ends)
    assert ends[0]["ChildShards"][0]["ParentShards"] == [low, high]
    assert read(kinesis, stream, child) == [b"after"]
    known = shards(kinesis, stream)[child]
    assert (known["ParentShardId"], known["AdjacentParentShardId"]) == (low, high)


def test_list_shards_filters_and_pages(kinesis: "KinesisClient", stream: str) -> None:
    kinesis.update_shard_count(StreamName=stream, TargetShardCount=3, ScalingType="UNIFORM_SCALING")

    def listed(**arguments: object) -> list[str]:
        answer = kinesis.list_shards(StreamName=stream, **arguments)  # type: ignore[arg-type]
        return [shard["ShardId"] for shard in answer["Shards"]]

    page = kinesis.list_shards(StreamName=stream, MaxResults=2)
    rest = kinesis.list_shards(NextToken=page["NextToken"])

    assert listed(ShardFilter={"Type": "AT_TRIM_HORIZON"}) == ["shardId-000000000000"]
    assert len(listed(ShardFilter={"Type": "AT_LATEST"})) == 3
    assert listed(ShardFilter={"Type": "FROM_TRIM_HORIZON"}) == listed()
    assert [s["ShardId"] for s in page["Shards"] + rest["Shards"]] == listed()
    assert "NextToken" not in rest
    summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    assert summary["OpenShardCount"] == 3


def test_sizes_beyond_the_limits_of_the_api_are_refused(
    kinesis: "KinesisClient", stream: str
) -> None:
    many = [{"Data": b"", "PartitionKey": "k"}] * 501
    large = [{"Data": b"x" * 900 * KIBIBYTE, "PartitionKey": "k"}] * 6
    just = b"x" * (MEBIBYTE - 1)

    assert fault(kinesis.put_records, StreamName=stream, Records=many) == "ValidationException"
    assert (
        fault(kinesis.put_records, StreamName=stream, Records=large) == "InvalidArgumentException"
    )
    over = {"StreamName": stream, "Data": just + b"x", "PartitionKey": "k"}
    assert fault(kinesis.put_record, **over) == "ValidationException"
    kinesis.put_record(StreamName=stream, Data=just, PartitionKey="k")
    assert read(kinesis, stream, "shardId-000000000000") == [just]


def test_errors_have_the_names_of_the_api(kinesis: "KinesisClient", stream: str) -> None:
    assert (
        fault(kinesis.put_record, StreamName="none", Data=b"", PartitionKey="k")
        == "ResourceNotFoundException"
    )
    assert fault(kinesis.create_stream, StreamName=stream, ShardCount=1) == "ResourceInUseException"
    assert fault(kinesis.get_records, ShardIterator="bogus") == "InvalidArgumentException"
    beyond = {"StreamName": stream, "Data": b"", "PartitionKey": "k"}
    assert (
        fault(kinesis.put_record, **beyond, ExplicitHashKey=str(2**128))
        == "InvalidArgumentException"
    )


def test_what_terraform_asks_of_a_stream(kinesis: "KinesisClient", stream: str) -> None:
    kinesis.increase_stream_retention_period(StreamName=stream, RetentionPeriodHours=48)
    kinesis.add_tags_to_stream(StreamName=stream, Tags={"team": "edge", "x": "y"})
    kinesis.remove_tags_from_stream(StreamName=stream, TagKeys=["x"])
    kinesis.enable_enhanced_monitoring(StreamName=stream, ShardLevelMetrics=["IncomingBytes"])
    kinesis.start_stream_encryption(
        StreamName=stream, EncryptionType="KMS", KeyId="alias/aws/kinesis"
    )

    summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]

    assert summary["RetentionPeriodHours"] == 48
    assert summary["EncryptionType"] == "KMS"
    assert summary["EnhancedMonitoring"] == [{"ShardLevelMetrics": ["IncomingBytes"]}]
    tags = kinesis.list_tags_for_stream(StreamName=stream)["Tags"]
    assert tags == [{"Key": "team", "Value": "edge"}]
    by_arn = kinesis.list_tags_for_resource(ResourceARN=summary["StreamARN"])
    assert by_arn["Tags"] == tags


def test_limits_refuse_single_records_and_fast_readers(launch: "Launch") -> None:
    kinesis = launch("--limits").kinesis
    stream, shard = "popsteer-urgent", "shardId-000000000000"
    entries = [{"Data": b"x" * 900 * KIBIBYTE, "PartitionKey": "k"}] * 2

    answer = kinesis.put_records(StreamName=stream, Records=entries)  # type: ignore[arg-type]
    start = iterator(kinesis, stream, shard, "TRIM_HORIZON")
    codes = []
    for _ in range(8):
        try:
            kinesis.get_records(ShardIterator=start, Limit=1)
        except ClientError as error:
            codes.append(error.response["Error"]["Code"])

    assert answer["FailedRecordCount"] == 1
    assert [record.get("ErrorCode") for record in answer["Records"]] == [
        None,
        "ProvisionedThroughputExceededException",
    ]
    assert codes
    assert set(codes) == {"ProvisionedThroughputExceededException"}


def test_unread_records_outlast_the_cap_on_disk(launch: "Launch") -> None:
    server = launch("--stream-mb", "4", "--bulk-shards", "2")
    kinesis, stream = server.kinesis, "popsteer-bulk"
    first_shard = list(shards(kinesis, stream))
    for start in range(0, 400, 20):
        put(kinesis, stream, *(b"%05d" % i + b"." * 25_000 for i in range(start, start + 20)))

    kept = [int(data[:5]) for shard in first_shard for data in everything(kinesis, stream, shard)]

    assert sorted(kept) == list(range(400))


def everything(kinesis: "KinesisClient", stream: str, shard: str) -> list[bytes]:
    """All payloads of an open shard."""
    answer: GetRecordsOutputTypeDef = kinesis.get_records(
        ShardIterator=iterator(kinesis, stream, shard, "TRIM_HORIZON")
    )
    payloads = [record["Data"] for record in answer["Records"]]
    while answer["MillisBehindLatest"] > 0:
        answer = kinesis.get_records(ShardIterator=answer["NextShardIterator"])
        payloads += [record["Data"] for record in answer["Records"]]
    return payloads
