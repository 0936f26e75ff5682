"""The requests of the Kinesis API that we answer, as types (Kinesis API reference 2013-12-02).

msgspec checks them where they enter: a field that is missing or of the wrong type is the
caller's fault and names its place.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]+$", max_length=128)]
PartitionKey = Annotated[str, Meta(min_length=1, max_length=256)]
HashKey = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,38})$")]
SequenceNumber = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,128})$")]
Count = Annotated[int, Meta(ge=1, le=10_000)]
Hours = Annotated[int, Meta(ge=24, le=8760)]
Tags = dict[str, str]


class Request(Struct, rename="pascal"):
    """Any request."""


class OnStream(Request, kw_only=True):
    """A request about one stream, by name or ARN."""

    stream_name: Name | None = None
    stream_arn: str | None = field(default=None, name="StreamARN")


class OnResource(Request, kw_only=True):
    """A request about one stream, by ARN."""

    resource_arn: str = field(name="ResourceARN")


class StreamMode(Request):
    """Whether a stream's shards are chosen by its owner."""

    stream_mode: str


class CreateStream(Request):
    """CreateStream."""

    stream_name: Name
    shard_count: Annotated[int, Meta(ge=1, le=500)] | None = None
    stream_mode_details: StreamMode | None = None
    tags: Tags = field(default_factory=dict)


class Describe(OnStream, kw_only=True):
    """DescribeStream, DescribeStreamSummary, DeleteStream."""

    limit: Count = 100
    exclusive_start_shard_id: str | None = None


class ListStreams(Request):
    """ListStreams."""

    limit: Count = 100
    exclusive_start_stream_name: str | None = None
    next_token: str | None = None


class ShardFilter(Request):
    """Which shards ListShards lists."""

    type: str
    shard_id: str | None = None
    timestamp: float | None = None


class ListShards(OnStream, kw_only=True):
    """ListShards."""

    next_token: str | None = None
    exclusive_start_shard_id: str | None = None
    max_results: Count = 1000
    shard_filter: ShardFilter | None = None


class SplitShard(OnStream, kw_only=True):
    """SplitShard."""

    shard_to_split: str
    new_starting_hash_key: HashKey


class MergeShards(OnStream, kw_only=True):
    """MergeShards."""

    shard_to_merge: str
    adjacent_shard_to_merge: str


class UpdateShardCount(OnStream, kw_only=True):
    """UpdateShardCount."""

    target_shard_count: Annotated[int, Meta(ge=1, le=500)]


class Retention(OnStream, kw_only=True):
    """IncreaseStreamRetentionPeriod, DecreaseStreamRetentionPeriod."""

    retention_period_hours: Hours


class Monitoring(OnStream, kw_only=True):
    """EnableEnhancedMonitoring, DisableEnhancedMonitoring."""

    shard_level_metrics: list[str]


class Encryption(OnStream, kw_only=True):
    """StartStreamEncryption, StopStreamEncryption."""

    key_id: str


class UpdateStreamMode(Request):
    """UpdateStreamMode."""

    stream_arn: str = field(name="StreamARN")
    stream_mode_details: StreamMode


class AddTags(OnStream, kw_only=True):
    """AddTagsToStream."""

    tags: Tags


class RemoveTags(OnStream, kw_only=True):
    """RemoveTagsFromStream, ListTagsForStream (which gives no keys)."""

    tag_keys: list[str] = field(default_factory=list)


class TagResource(OnResource, kw_only=True):
    """TagResource."""

    tags: Tags


class UntagResource(OnResource, kw_only=True):
    """UntagResource, ListTagsForResource (which gives no keys)."""

    tag_keys: list[str] = field(default_factory=list)


class DescribeLimits(Request):
    """DescribeLimits."""


class GetShardIterator(OnStream, kw_only=True):
    """GetShardIterator."""

    shard_id: str
    shard_iterator_type: str
    starting_sequence_number: SequenceNumber | None = None
    timestamp: float | None = None


class GetRecords(Request):
    """GetRecords."""

    shard_iterator: str
    limit: Count = 10_000


class PutRecord(OnStream, kw_only=True):
    """PutRecord."""

    data: str
    partition_key: PartitionKey
    explicit_hash_key: HashKey | None = None


class Entry(Request):
    """One record of PutRecords."""

    data: str
    partition_key: PartitionKey
    explicit_hash_key: HashKey | None = None


class PutRecords(OnStream, kw_only=True):
    """PutRecords."""

    records: Annotated[list[Entry], Meta(min_length=1, max_length=500)]
