"""What popsteer needs of an AWS, made where it is absent: streams, bucket, lease tables.

Works against any endpoint and may be repeated at will; nothing that exists is changed. Production
does the same with Terraform (`infra/`).
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, HTTPClientError

from console.localaws.leases import seed_leases

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient
    from types_boto3_s3 import S3Client

BULK_STREAM = "popsteer-bulk"
URGENT_STREAM = "popsteer-urgent"

PATIENCE_S = 120.0
"""A busy machine may answer one call slower than a client waits; the whole is tried again."""
PAUSE_S = 0.2


def with_patience(make: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
    """Do what may be repeated, until the endpoint has answered all of it.

    Raises:
        botocore.exceptions.HTTPClientError: no answer for so long.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            return make()
        except HTTPClientError:
            if time.monotonic() > deadline_s:
                raise
        time.sleep(PAUSE_S)


def provision(
    kinesis: "KinesisClient",
    dynamodb: "DynamoDBClient",
    s3: "S3Client",
    *,
    shard_counts: Mapping[str, int],
    bucket: str,
) -> None:
    """Make each stream with its number of shards, its lease table of the same name, the bucket.

    The bucket is last: who finds it finds everything.

    Raises:
        botocore.exceptions.ClientError: the account refuses.
    """
    for stream, shard_count in shard_counts.items():
        make_stream(kinesis, stream, shard_count)
        seed_leases(kinesis, dynamodb, stream, stream)
    make_bucket(s3, bucket)


def make_stream(kinesis: "KinesisClient", name: str, shard_count: int) -> bool:
    """Make a stream and wait until it takes records; says whether there was none."""
    try:
        kinesis.create_stream(StreamName=name, ShardCount=shard_count)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceInUseException":
            return False
        raise
    kinesis.get_waiter("stream_exists").wait(StreamName=name)
    return True


def make_bucket(s3: "S3Client", name: str) -> bool:
    """Make a bucket in the client's region; says whether there was none."""
    region = s3.meta.region_name
    try:
        if region == "us-east-1":
            # This region is the default, and S3 refuses it when it is named.
            s3.create_bucket(Bucket=name)
        else:
            s3.create_bucket(
                Bucket=name,
                CreateBucketConfiguration={"LocationConstraint": region},  # type: ignore[typeddict-item]
            )
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            return False
        raise
    return True
