"""The calls that list and reshape shards.

A split or merge is done when the call returns.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from itertools import repeat

from console.localaws import kinesis_api as api
from console.localaws import kinesis_errors as errors
from console.localaws.account import Call
from console.localaws.record_calls import Reply, hash_range
from console.localaws.sequence import SECOND_US
from console.localaws.shards import Shard
from console.localaws.streams import SHARDS_MAX, Stream


def list_shards(call: Call, request: api.ListShards) -> Reply:
    """The shards of a stream, as a filter asks."""
    name, after = request.stream_name, request.exclusive_start_shard_id
    if request.next_token is not None:
        name, after = _page_start(request.next_token)
    stream = call.account.find(name, request.stream_arn)
    shards = shards_after(_filtered(stream, request.shard_filter), after)
    page = shards[: request.max_results]
    reply: Reply = {"Shards": [describe_shard(shard) for shard in page]}
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
            return shards_after(shards, chosen.shard_id)
        case "AT_TIMESTAMP" if at is not None:
            return [s for s in shards if s.info.created <= at and _open_at(s, at)]
        case "FROM_TIMESTAMP" if at is not None:
            return [shard for shard in shards if _open_at(shard, at)]
    raise errors.invalid(f"ShardFilter {chosen.type} is unknown or lacks its starting point.")


def _open_at(shard: Shard, tick: int) -> bool:
    return shard.info.closed is None or shard.info.closed >= tick


def _page_start(token: str) -> tuple[str, str]:
    try:
        name, shard_id = urlsafe_b64decode(token).decode().split("/")
    except ValueError:
        raise errors.invalid("Invalid NextToken.") from None
    return name, shard_id


def shards_after(shards: list[Shard], shard_id: str | None) -> list[Shard]:
    """Those whose id is above `shard_id`."""
    return [shard for shard in shards if shard_id is None or shard.id > shard_id]


def describe_shard(shard: Shard) -> Reply:
    """A shard in the words of the API."""
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
