"""The calls that make, describe and delete streams.

Whatever takes minutes on AWS is done when the call returns: a stream is always ACTIVE.
"""

from console.localaws import kinesis_api as api
from console.localaws import kinesis_errors as errors
from console.localaws.account import Call
from console.localaws.record_calls import Reply
from console.localaws.sequence import SECOND_US
from console.localaws.shard_calls import describe_shard, shards_after
from console.localaws.streams import SHARDS_MAX, Stream

ON_DEMAND_SHARDS = 4


def create_stream(call: Call, request: api.CreateStream) -> Reply:
    """Make a stream."""
    mode = request.stream_mode_details.stream_mode if request.stream_mode_details else "PROVISIONED"
    count = request.shard_count or (ON_DEMAND_SHARDS if mode == "ON_DEMAND" else None)
    if count is None:
        raise errors.refused("ShardCount is required for a provisioned stream.")
    stream = call.account.create(request.stream_name, count, call.tick())
    stream.info.mode = mode
    stream.info.tags = request.tags
    stream.save()
    return {}


def delete_stream(call: Call, request: api.Describe) -> Reply:
    """Delete a stream and its records."""
    call.account.delete(call.stream(request))
    return {}


def describe_stream(call: Call, request: api.Describe) -> Reply:
    """A stream with its shards."""
    stream = call.stream(request)
    shards = shards_after(list(stream.shards.values()), request.exclusive_start_shard_id)
    page = shards[: request.limit]
    return {
        "StreamDescription": _description(stream)
        | {
            "Shards": [describe_shard(shard) for shard in page],
            "HasMoreShards": len(shards) > len(page),
        }
    }


def describe_stream_summary(call: Call, request: api.Describe) -> Reply:
    """A stream without its shards."""
    stream = call.stream(request)
    counts: Reply = {"OpenShardCount": len(stream.open_shards), "ConsumerCount": 0}
    return {"StreamDescriptionSummary": _description(stream) | counts}


def list_streams(call: Call, request: api.ListStreams) -> Reply:
    """The names of the streams."""
    after = request.exclusive_start_stream_name or request.next_token or ""
    names = sorted(name for name in call.account.streams if name > after)
    page = names[: request.limit]
    more = len(names) > len(page)
    reply: Reply = {
        "StreamNames": page,
        "StreamSummaries": [_summary(call.account.streams[name]) for name in page],
        "HasMoreStreams": more,
    }
    return reply | ({"NextToken": page[-1]} if more else {})


def describe_limits(call: Call, _request: api.DescribeLimits) -> Reply:
    """What an account may have."""
    count = sum(len(stream.open_shards) for stream in call.account.streams.values())
    return {
        "ShardLimit": SHARDS_MAX,
        "OpenShardCount": count,
        "OnDemandStreamCount": 0,
        "OnDemandStreamCountLimit": 50,
    }


def _summary(stream: Stream) -> Reply:
    return {
        "StreamName": stream.info.name,
        "StreamARN": stream.arn,
        "StreamStatus": "ACTIVE",
        "StreamModeDetails": {"StreamMode": stream.info.mode},
        "StreamCreationTimestamp": stream.info.created // SECOND_US,
    }


def _description(stream: Stream) -> Reply:
    encryption: Reply = {"EncryptionType": "NONE"}
    if stream.info.key_id is not None:
        encryption = {"EncryptionType": "KMS", "KeyId": stream.info.key_id}
    return (
        _summary(stream)
        | encryption
        | {
            "RetentionPeriodHours": stream.info.retention_hours,
            "EnhancedMonitoring": [{"ShardLevelMetrics": stream.info.metrics}],
        }
    )
