"""The only place that makes boto3 clients.

An empty endpoint is AWS itself with its usual credentials; any other endpoint (the embedded AWS)
gets fixed credentials, so that no laptop's profile leaks into it. Time-outs are short: a stuck
call must never hold a loop for longer than its period.
"""

from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config as BotoConfig

from popsteer.config import Aws

if TYPE_CHECKING:
    from types_boto3_cloudwatch import CloudWatchClient
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_kinesis import KinesisClient
    from types_boto3_s3 import S3Client

LOCAL_KEY = "local"
CONNECT_TIMEOUT_S = 2
READ_TIMEOUT_S = 10


def environment(aws: Aws) -> dict[str, str]:
    """Environment variables by which a child process (the JVM) reaches the same AWS."""
    variables = {"AWS_REGION": aws.region, "AWS_DEFAULT_REGION": aws.region}
    if aws.endpoint:
        variables |= {
            "AWS_ACCESS_KEY_ID": LOCAL_KEY,
            "AWS_SECRET_ACCESS_KEY": LOCAL_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    return variables


def kinesis(aws: Aws) -> "KinesisClient":
    """A client whose PutRecords is never retried whole: the producer retries each record."""
    client: KinesisClient = _client("kinesis", aws, attempts=1)
    return client


def s3(aws: Aws) -> "S3Client":
    """A client for objects."""
    client: S3Client = _client("s3", aws, attempts=3)
    return client


def dynamodb(aws: Aws) -> "DynamoDBClient":
    """A client for the lease tables."""
    client: DynamoDBClient = _client("dynamodb", aws, attempts=3)
    return client


def cloudwatch(aws: Aws) -> "CloudWatchClient":
    """A client for metrics."""
    client: CloudWatchClient = _client("cloudwatch", aws, attempts=2)
    return client


def _client(name: str, aws: Aws, attempts: int) -> Any:
    local = {}
    if aws.endpoint:
        local = {
            "endpoint_url": aws.endpoint,
            "aws_access_key_id": LOCAL_KEY,
            "aws_secret_access_key": LOCAL_KEY,
        }
    options = BotoConfig(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"total_max_attempts": attempts, "mode": "standard"},
        s3={"addressing_style": "path"} if aws.endpoint else {},
        max_pool_connections=16,
    )
    session = boto3.session.Session(region_name=aws.region)
    return session.client(name, config=options, **local)  # type: ignore[call-overload]
