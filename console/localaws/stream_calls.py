"""The calls that make, describe and reshape streams.

Whatever takes minutes on AWS is done when the call returns: a stream is always ACTIVE.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from itertools import repeat

from console.localaws import kinesis_api as api
from console.localaws import kinesis_errors as errors
from console.localaws.account import Call
from console.localaws.record_calls import Reply, hash_range
from console.localaws.sequence import SECOND_US
from console.localaws.streams import SHARDS_MAX, Shard, Stream

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
    shards = _after(list(stream.shards.values()), request.exclusive_start_shard_id)
    page = shards[: request.limit]
    return {
        "StreamDescription": _description(stream)
        | {"Shards": [_shard(shard) for shard in page], "HasMoreShards": len(shards) > len(page)}
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


def list_shards(call: Call, request: api.ListShards) -> Reply:
    """The shards of a stream, as a filter asks."""
    name, after = request.stream_name, request.exclusive_start_shard_id
    if request.next_token is not None:
        name, after = _page_start(request.next_token)
    stream = call.account.find(name, request.stream_arn)
    shards = _after(_filtered(stream, request.shard_filter), after)
    page = shards[: request.max_results]
    reply: Reply = {"Shards": [_shard(shard) for shard in page]}
    if len(shards) > len(page):
        token = f"{stream.info.name}/{page[-1].id}".encode()
        reply["NextToken"] = urlsafe_b64encode(token).decode()
    return reply


def split_shard(call: Call, request: api.SplitShard) -> Reply:
    """Close a shard and open two in its place."""
    stream = call.stream(request)
    shard = stream.shard(request.shard_to_split)
    stream.split(shard, int(request.new_starting_hash_key), call.tick())
    return {}


def merge_shards(call: Call, request: api.MergeShards) -> Reply:
    """Close two neighbours and open one in their place."""
    stream = call.stream(request)
    one, other = stream.shard(request.shard_to_merge), stream.shard(request.adjacent_shard_to_merge)
    stream.merge(one, other, call.tick())
    return {}


def update_shard_count(call: Call, request: api.UpdateShardCount) -> Reply:
    """Split or merge until a stream has so many open shards."""
    stream = call.stream(request)
    before = len(stream.open_shards)
    ticks = (call.tick() for _ in repeat(None, SHARDS_MAX))
    stream.resize(request.target_shard_count, ticks)
    return {
        "StreamName": stream.info.name,
        "StreamARN": stream.arn,
        "CurrentShardCount": before,
        "TargetShardCount": request.target_shard_count,
    }


def change_retention(call: Call, request: api.Retention) -> Reply:
    """Note a retention period; what is kept is decided by the byte cap alone."""
    stream = call.stream(request)
    stream.info.retention_hours = request.retention_period_hours
    stream.save()
    return {}


def enable_monitoring(call: Call, request: api.Monitoring) -> Reply:
    """Note shard-level metrics; none are made."""
    stream = call.stream(request)
    return _monitor(stream, {*stream.info.metrics, *request.shard_level_metrics})


def disable_monitoring(call: Call, request: api.Monitoring) -> Reply:
    """Forget shard-level metrics."""
    stream = call.stream(request)
    gone = set(request.shard_level_metrics)
    return _monitor(stream, set() if "ALL" in gone else set(stream.info.metrics) - gone)


def start_encryption(call: Call, request: api.Encryption) -> Reply:
    """Note a key; nothing is encrypted on this machine."""
    stream = call.stream(request)
    stream.info.key_id = request.key_id
    stream.save()
    return {}


def stop_encryption(call: Call, request: api.Encryption) -> Reply:
    """Forget the key."""
    stream = call.stream(request)
    stream.info.key_id = None
    stream.save()
    return {}


def update_stream_mode(call: Call, request: api.UpdateStreamMode) -> Reply:
    """Note the capacity mode."""
    stream = call.account.find(None, request.stream_arn)
    stream.info.mode = request.stream_mode_details.stream_mode
    stream.save()
    return {}


def add_tags(call: Call, request: api.AddTags) -> Reply:
    """Tag a stream, by name or ARN."""
    return _tag(call.stream(request), request.tags)


def tag_resource(call: Call, request: api.TagResource) -> Reply:
    """Tag a stream, by ARN."""
    return _tag(call.account.find(None, request.resource_arn), request.tags)


def remove_tags(call: Call, request: api.RemoveTags) -> Reply:
    """Remove tags, by name or ARN."""
    return _untag(call.stream(request), request.tag_keys)


def untag_resource(call: Call, request: api.UntagResource) -> Reply:
    """Remove tags, by ARN."""
    return _untag(call.account.find(None, request.resource_arn), request.tag_keys)


def list_tags(call: Call, request: api.RemoveTags) -> Reply:
    """The tags of a stream, by name or ARN."""
    stream = call.stream(request)
    return {"Tags": _tags(stream), "HasMoreTags": False}


def list_tags_of_resource(call: Call, request: api.UntagResource) -> Reply:
    """The tags of a stream, by ARN."""
    return {"Tags": _tags(call.account.find(None, request.resource_arn))}


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


def _shard(shard: Shard) -> Reply:
    numbers = {"StartingSequenceNumber": str(shard.sequence(shard.info.created))}
    if shard.info.closed is not None:
        numbers["EndingSequenceNumber"] = str(shard.sequence(shard.info.closed))
    parents = zip(("ParentShardId", "AdjacentParentShardId"), shard.info.parents, strict=False)
    return {
        "ShardId": shard.id,
        "HashKeyRange": hash_range(shard),
        "SequenceNumberRange": numbers,
        **dict(parents),
    }


def _filtered(stream: Stream, chosen: api.ShardFilter | None) -> list[Shard]:
    """API reference, ShardFilter; the trim horizon is the oldest shard we know."""
    shards = list(stream.shards.values())
    if chosen is None:
        return shards
    at = None if chosen.timestamp is None else int(chosen.timestamp * SECOND_US)
    match chosen.type:
        case "FROM_TRIM_HORIZON":
            return shards
        case "AT_TRIM_HORIZON":
            return [shard for shard in shards if not shard.info.parents]
        case "AT_LATEST":
            return [shard for shard in shards if shard.is_open]
        case "AFTER_SHARD_ID" if chosen.shard_id is not None:
            return _after(shards, chosen.shard_id)
        case "AT_TIMESTAMP" if at is not None:
            return [s for s in shards if s.info.created <= at and _open_at(s, at)]
        case "FROM_TIMESTAMP" if at is not None:
            return [shard for shard in shards if _open_at(shard, at)]
    raise errors.invalid(f"ShardFilter {chosen.type} is unknown or lacks its starting point.")


def _open_at(shard: Shard, tick: int) -> bool:
    return shard.info.closed is None or shard.info.closed >= tick


def _after(shards: list[Shard], shard_id: str | None) -> list[Shard]:
    return [shard for shard in shards if shard_id is None or shard.id > shard_id]


def _page_start(token: str) -> tuple[str, str]:
    try:
        name, shard_id = urlsafe_b64decode(token).decode().split("/")
    except ValueError:
        raise errors.invalid("Invalid NextToken.") from None
    return name, shard_id


def _monitor(stream: Stream, metrics: set[str]) -> Reply:
    before, stream.info.metrics = stream.info.metrics, sorted(metrics)
    stream.save()
    return {
        "StreamName": stream.info.name,
        "StreamARN": stream.arn,
        "CurrentShardLevelMetrics": before,
        "DesiredShardLevelMetrics": stream.info.metrics,
    }


def _tag(stream: Stream, tags: dict[str, str]) -> Reply:
    stream.info.tags |= tags
    stream.save()
    return {}


def _untag(stream: Stream, keys: list[str]) -> Reply:
    for key in keys:
        stream.info.tags.pop(key, None)
    stream.save()
    return {}


def _tags(stream: Stream) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(stream.info.tags.items())]
