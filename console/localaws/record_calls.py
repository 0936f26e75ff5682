"""The calls that move records: PutRecord, PutRecords, GetShardIterator, GetRecords.

Records pass through as they came: the base64 text that a producer sent is checked, written to the
shard's log and sent to consumers, and is never decoded for keeps.
"""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import defaultdict
from dataclasses import dataclass

import msgspec

from console.localaws import kinesis_errors as errors
from console.localaws.account import Account, Call
from console.localaws.identity import ACCOUNT
from console.localaws.kinesis_api import Entry, GetRecords, GetShardIterator, PutRecord, PutRecords
from console.localaws.sequence import SECOND_US
from console.localaws.shardlog import Chunk
from console.localaws.shards import Shard
from console.localaws.streams import HASH_KEYS, Stream

RECORD_BYTES_MAX = 2**20
REQUEST_BYTES_MAX = 5 * 2**20
READ_BYTES_MAX = 10 * 2**20
BASE64_GROWTH = 4 / 3

Reply = dict[str, object]


@dataclass(slots=True)
class Placed:
    """One record on its way to a shard; `tick` is None when the shard refused it."""

    entry: Entry
    size_bytes: int
    shard: Shard
    tick: int | None


def put_records(call: Call, request: PutRecords) -> Reply:
    """Store up to 500 records; each may be throttled by itself, the rest are stored."""
    stream = call.stream(request)
    sizes = [_size(entry, at) for at, entry in enumerate(request.records, 1)]
    if sum(sizes) > REQUEST_BYTES_MAX:
        raise errors.invalid("Records size exceeds 5 MB limit")
    placed = [
        _place(call, stream, entry, size)
        for entry, size in zip(request.records, sizes, strict=True)
    ]
    _store(stream, placed)
    failed = sum(one.tick is None for one in placed)
    return {"FailedRecordCount": failed, "Records": [_outcome(one, stream) for one in placed]}


def put_record(call: Call, request: PutRecord) -> Reply:
    """Store one record."""
    stream = call.stream(request)
    entry = Entry(request.data, request.partition_key, request.explicit_hash_key)
    placed = _place(call, stream, entry, _size(entry, 1))
    if placed.tick is None:
        raise errors.throttled(placed.shard.id, stream.info.name, ACCOUNT)
    _store(stream, [placed])
    return _outcome(placed, stream)


def get_shard_iterator(call: Call, request: GetShardIterator) -> Reply:
    """A place to read from."""
    stream = call.stream(request)
    shard = stream.shard(request.shard_id)
    return {"ShardIterator": _iterator(stream, shard, _start(shard, request))}


def get_records(call: Call, request: GetRecords) -> Reply:
    """Records after an iterator, and the next one; none when a closed shard has been read."""
    stream, shard, after = _locate(call.account, request.shard_iterator)
    now_s = call.now_us / SECOND_US
    if call.account.limited and not shard.limits.admit_read(now_s):
        raise errors.throttled(shard.id, stream.info.name, ACCOUNT)
    shard.read_to = max(shard.read_to, after)
    after = max(after, stream.horizon(call.now_us))
    chunk = shard.log.read(after, request.limit, int(READ_BYTES_MAX * BASE64_GROWTH))
    if call.account.limited:
        shard.limits.charge_read(int(len(chunk.lines) / BASE64_GROWTH))
    reply: Reply = {
        "Records": msgspec.Raw(b"[" + chunk.lines[:-1].replace(b"\n", b",") + b"]"),
        "MillisBehindLatest": _behind_ms(chunk, call.now_us),
    }
    if shard.is_open or chunk.next_tick is not None:
        reply["NextShardIterator"] = _iterator(stream, shard, chunk.last)
    else:
        # Closed and read to its end: nobody will ask on, so the time itself goes on.
        shard.read_to = call.now_us
        reply["ChildShards"] = [_child(stream.shards[name]) for name in shard.info.children]
    return reply


def hash_range(shard: Shard) -> Reply:
    """The hash keys of a shard."""
    return {"StartingHashKey": shard.info.hash_first, "EndingHashKey": shard.info.hash_last}


def _size(entry: Entry, place: int) -> int:
    """Bytes that count against the limits: data and partition key.

    Raises:
        KinesisError: no base64, too large, or a hash key beyond 128 bits.
    """
    try:
        # Strict: what passes here needs no escaping in JSON.
        data_bytes = len(binascii.a2b_base64(entry.data, strict_mode=True))
    except ValueError:
        raise errors.KinesisError(
            "SerializationException", f"Data of record {place} is not base64."
        ) from None
    size = data_bytes + len(entry.partition_key.encode())
    if size > RECORD_BYTES_MAX:
        raise errors.refused(
            f"1 validation error detected: Value at 'records.{place}.member.data' failed to "
            "satisfy constraint: Member must have length less than or equal to 1048576"
        )
    if entry.explicit_hash_key is not None and int(entry.explicit_hash_key) >= HASH_KEYS:
        raise errors.invalid(
            f"Invalid ExplicitHashKey. ExplicitHashKey must be in the range: "
            f"[0, 2^128-1]. Specified value was {entry.explicit_hash_key}"
        )
    return size


def _place(call: Call, stream: Stream, entry: Entry, size_bytes: int) -> Placed:
    shard = stream.route(entry.partition_key, entry.explicit_hash_key)
    if stream.full:
        return Placed(entry, size_bytes, shard, None)
    if call.account.limited and not shard.limits.admit_write(size_bytes, call.now_us / SECOND_US):
        return Placed(entry, size_bytes, shard, None)
    return Placed(entry, size_bytes, shard, call.tick())


def _store(stream: Stream, placed: list[Placed]) -> None:
    """Append to each shard at once, then hold the cap."""
    by_shard: dict[str, tuple[list[int], list[bytes]]] = defaultdict(lambda: ([], []))
    for one in placed:
        if one.tick is not None:
            ticks, lines = by_shard[one.shard.id]
            ticks.append(one.tick)
            lines.append(_line(one, one.tick))
    for shard_id, (ticks, lines) in by_shard.items():
        stream.shards[shard_id].log.append(ticks, lines)
    stream.trim()


def _line(one: Placed, tick: int) -> bytes:
    """A record as GetRecords shows it, in one line; see `shardlog.LINE_PREFIX`."""
    return (
        (
            f'{{"SequenceNumber":"{one.shard.sequence(tick)}",'
            f'"ApproximateArrivalTimestamp":{tick // 1000 / 1000:.3f},'
            f'"Data":"{one.entry.data}","PartitionKey":'
        ).encode()
        + msgspec.json.encode(one.entry.partition_key)
        + b"}\n"
    )


def _outcome(one: Placed, stream: Stream) -> Reply:
    if one.tick is None:
        message = errors.throttle_message(one.shard.id, stream.info.name, ACCOUNT)
        return {"ErrorCode": errors.THROTTLED, "ErrorMessage": message}
    return {"SequenceNumber": str(one.shard.sequence(one.tick)), "ShardId": one.shard.id}


def _start(shard: Shard, request: GetShardIterator) -> int:
    """The tick to read after."""
    number, timestamp = request.starting_sequence_number, request.timestamp
    match request.shard_iterator_type:
        case "TRIM_HORIZON":
            return 0
        case "LATEST":
            return shard.tip
        case "AT_SEQUENCE_NUMBER" if number is not None:
            return max(0, shard.position(int(number)) - 1)
        case "AFTER_SEQUENCE_NUMBER" if number is not None:
            return shard.position(int(number))
        case "AT_TIMESTAMP" if timestamp is not None:
            return shard.log.before(max(0, int(timestamp * SECOND_US)))
    raise errors.invalid(
        f"ShardIteratorType {request.shard_iterator_type} is unknown or lacks its starting point."
    )


def _iterator(stream: Stream, shard: Shard, after: int) -> str:
    return urlsafe_b64encode(f"{stream.info.name}/{shard.id}/{after}".encode()).decode()


def _locate(account: Account, iterator: str) -> tuple[Stream, Shard, int]:
    try:
        name, shard_id, after = urlsafe_b64decode(iterator).decode().split("/")
        tick = int(after)
    except ValueError:
        raise errors.invalid("Invalid ShardIterator.") from None
    stream = account.find(name)
    return stream, stream.shard(shard_id), tick


def _behind_ms(chunk: Chunk, now_us: int) -> int:
    return 0 if chunk.next_tick is None else max(0, now_us - chunk.next_tick) // 1000


def _child(shard: Shard) -> Reply:
    return {
        "ShardId": shard.id,
        "ParentShards": shard.info.parents,
        "HashKeyRange": hash_range(shard),
    }
