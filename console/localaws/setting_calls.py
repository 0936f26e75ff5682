"""The calls that change settings of a stream: retention, tags, and what we only note.

Terraform asks for all of them; of monitoring, encryption and mode nothing follows here.
"""

from console.localaws import kinesis_api as api
from console.localaws.account import Call
from console.localaws.record_calls import Reply
from console.localaws.streams import Stream


def change_retention(call: Call, request: api.Retention) -> Reply:
    """Choose how long records are kept, as far as the byte cap allows."""
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
