# The KCL keeps leases and checkpoints in a table named like its application, which is the stream.
# It would make the table by itself; made here it is encrypted, can be restored to any second, and
# has its index from the start (adding that later takes the KCL minutes). The two small tables
# beside it (`-WorkerMetricStats`, `-CoordinatorState`) hold nothing worth keeping: the KCL makes
# them, and the role of the aggregator allows exactly that.

resource "aws_dynamodb_table" "leases" {
  for_each     = local.streams
  name         = each.value.name
  billing_mode = "PAY_PER_REQUEST"
  hash_key     = "leaseKey"

  attribute {
    name = "leaseKey"
    type = "S"
  }

  attribute {
    name = "leaseOwner"
    type = "S"
  }

  global_secondary_index {
    name            = "LeaseOwnerToLeaseKeyIndex"
    hash_key        = "leaseOwner"
    range_key       = "leaseKey"
    projection_type = "KEYS_ONLY"
  }

  server_side_encryption {
    enabled     = true
    kms_key_arn = aws_kms_key.popsteer.arn
  }

  point_in_time_recovery {
    enabled = true
  }
}
