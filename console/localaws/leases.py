"""KCL lease tables, made before the KCL makes them.

A KCL worker that finds its lease table empty waits a random 1 to 30 s before it looks for shards
(Scheduler.shouldInitiateLeaseSync); one that finds leases starts at once. The schema is that of
the KCL's DynamoDBLeaseSerializer, 2.x and 3.x, with the index by which 3.x finds a worker's own.
"""

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from types_boto3_dynamodb import DynamoDBClient
    from types_boto3_dynamodb.type_defs import AttributeValueTypeDef
    from types_boto3_kinesis import KinesisClient
    from types_boto3_kinesis.type_defs import ShardTypeDef

OWNER_INDEX = "LeaseOwnerToLeaseKeyIndex"


def seed_leases(
    kinesis: "KinesisClient", dynamodb: "DynamoDBClient", stream: str, application: str
) -> bool:
    """Make the lease table of `application` with a lease for each first shard of `stream`.

    All leases begin at TRIM_HORIZON. A table that exists is left alone, since the KCL has deleted
    from it the leases of shards that it has done with; says whether there was none.
    """
    if not _create_table(dynamodb, application):
        return False
    # Children of split or merged shards get their leases from the KCL when it has read the parents.
    roots = kinesis.list_shards(StreamName=stream, ShardFilter={"Type": "AT_TRIM_HORIZON"})
    for shard in roots["Shards"]:
        dynamodb.put_item(TableName=application, Item=_lease(shard))
    return True


def _create_table(dynamodb: "DynamoDBClient", name: str) -> bool:
    try:
        dynamodb.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
            AttributeDefinitions=[
                {"AttributeName": "leaseKey", "AttributeType": "S"},
                {"AttributeName": "leaseOwner", "AttributeType": "S"},
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": OWNER_INDEX,
                    "KeySchema": [
                        {"AttributeName": "leaseOwner", "KeyType": "HASH"},
                        {"AttributeName": "leaseKey", "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "KEYS_ONLY"},
                }
            ],
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceInUseException":
            return False
        raise
    dynamodb.get_waiter("table_exists").wait(TableName=name)
    return True


def _lease(shard: "ShardTypeDef") -> "dict[str, AttributeValueTypeDef]":
    return {
        "leaseKey": {"S": shard["ShardId"]},
        "checkpoint": {"S": "TRIM_HORIZON"},
        "checkpointSubSequenceNumber": {"N": "0"},
        "leaseCounter": {"N": "0"},
        "ownerSwitchesSinceCheckpoint": {"N": "0"},
        "startingHashKey": {"S": shard["HashKeyRange"]["StartingHashKey"]},
        "endingHashKey": {"S": shard["HashKeyRange"]["EndingHashKey"]},
    }
