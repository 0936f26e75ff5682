"""The Kinesis of the embedded AWS: JSON requests in, JSON answers out, one owner of all streams.

It keeps what popsteer and the KCL rely on and moto does not give: shards that split and merge,
ordinary sequence numbers, records that survive a kill and are trimmed, reads in O(log n), limits
per shard. Only the JSON protocol is spoken; the KCL must run with CBOR switched off.
"""

from collections.abc import Callable
from typing import TypeVar
from uuid import uuid4

import msgspec

from console.localaws import kinesis_api as api
from console.localaws import record_calls, setting_calls, shard_calls, stream_calls
from console.localaws.account import Account, Call
from console.localaws.kinesis_errors import KinesisError
from console.localaws.messages import Request, Response
from console.localaws.record_calls import Reply

TARGET = "Kinesis_20131202."
CONTENT_TYPE = "application/x-amz-json-1.1"

R = TypeVar("R", bound=api.Request)


Operation = Callable[[Call, bytes], bytes]


def _operation(kind: type[R], run: Callable[[Call, R], Reply]) -> Operation:
    """One call of the API: check the body against `kind`, run, encode."""
    decoder = msgspec.json.Decoder(kind)

    def answer(call: Call, body: bytes) -> bytes:
        return msgspec.json.encode(run(call, decoder.decode(body or b"{}")))

    return answer


OPERATIONS: dict[str, Operation] = {
    "CreateStream": _operation(api.CreateStream, stream_calls.create_stream),
    "DeleteStream": _operation(api.Describe, stream_calls.delete_stream),
    "DescribeStream": _operation(api.Describe, stream_calls.describe_stream),
    "DescribeStreamSummary": _operation(api.Describe, stream_calls.describe_stream_summary),
    "ListStreams": _operation(api.ListStreams, stream_calls.list_streams),
    "ListShards": _operation(api.ListShards, shard_calls.list_shards),
    "SplitShard": _operation(api.SplitShard, shard_calls.split_shard),
    "MergeShards": _operation(api.MergeShards, shard_calls.merge_shards),
    "UpdateShardCount": _operation(api.UpdateShardCount, shard_calls.update_shard_count),
    "IncreaseStreamRetentionPeriod": _operation(api.Retention, setting_calls.change_retention),
    "DecreaseStreamRetentionPeriod": _operation(api.Retention, setting_calls.change_retention),
    "EnableEnhancedMonitoring": _operation(api.Monitoring, setting_calls.enable_monitoring),
    "DisableEnhancedMonitoring": _operation(api.Monitoring, setting_calls.disable_monitoring),
    "StartStreamEncryption": _operation(api.Encryption, setting_calls.start_encryption),
    "StopStreamEncryption": _operation(api.Encryption, setting_calls.stop_encryption),
    "UpdateStreamMode": _operation(api.UpdateStreamMode, setting_calls.update_stream_mode),
    "AddTagsToStream": _operation(api.AddTags, setting_calls.add_tags),
    "RemoveTagsFromStream": _operation(api.RemoveTags, setting_calls.remove_tags),
    "ListTagsForStream": _operation(api.RemoveTags, setting_calls.list_tags),
    "TagResource": _operation(api.TagResource, setting_calls.tag_resource),
    "UntagResource": _operation(api.UntagResource, setting_calls.untag_resource),
    "ListTagsForResource": _operation(api.UntagResource, setting_calls.list_tags_of_resource),
    "DescribeLimits": _operation(api.DescribeLimits, stream_calls.describe_limits),
    "GetShardIterator": _operation(api.GetShardIterator, record_calls.get_shard_iterator),
    "GetRecords": _operation(api.GetRecords, record_calls.get_records),
    "PutRecord": _operation(api.PutRecord, record_calls.put_record),
    "PutRecords": _operation(api.PutRecords, record_calls.put_records),
}


class Kinesis:
    """The streams of the account, behind the JSON protocol."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def handle(self, request: Request, now_us: int) -> Response:
        """Answer one request; the caller's errors are answers too."""
        try:
            status, body = 200, self._answer(request, now_us)
        except KinesisError as error:
            status = 400
            body = msgspec.json.encode({"__type": error.code, "message": str(error)})
        headers = [
            ("x-amzn-requestid", str(uuid4())),
            ("content-type", CONTENT_TYPE),
            ("content-length", str(len(body))),
        ]
        return Response(status, body, headers)

    def _answer(self, request: Request, now_us: int) -> bytes:
        name = request.target.removeprefix(TARGET)
        operation = OPERATIONS.get(name)
        if operation is None:
            raise KinesisError("UnknownOperationException", f"{name} is not answered here.")
        if not request.headers.get("content-type", "").startswith(CONTENT_TYPE):
            raise KinesisError(
                "SerializationException",
                f"Only {CONTENT_TYPE} is spoken here: set aws.cborEnabled=false.",
            )
        try:
            return operation(Call(self.account, now_us), request.body)
        except msgspec.ValidationError as error:
            raise KinesisError(
                "ValidationException", f"1 validation error detected: {error}"
            ) from None
        except msgspec.DecodeError as error:
            raise KinesisError("SerializationException", str(error)) from None
