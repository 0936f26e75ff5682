# Two streams, so that a backlog of RTT never delays health.

resource "aws_kms_key" "popsteer" {
  description             = "popsteer: records in Kinesis, leases, objects in S3"
  enable_key_rotation     = true
  deletion_window_in_days = 30
}

resource "aws_kms_alias" "popsteer" {
  name          = "alias/${var.bucket}"
  target_key_id = aws_kms_key.popsteer.key_id
}

locals {
  streams = {
    bulk   = { name = var.bulk_stream, shards = var.bulk_shards }
    urgent = { name = var.urgent_stream, shards = var.urgent_shards }
  }
}

resource "aws_kinesis_stream" "stream" {
  for_each         = local.streams
  name             = each.value.name
  shard_count      = each.value.shards > 0 ? each.value.shards : null
  retention_period = var.retention_hours
  encryption_type  = "KMS"
  kms_key_id       = aws_kms_key.popsteer.arn

  stream_mode_details {
    stream_mode = each.value.shards > 0 ? "PROVISIONED" : "ON_DEMAND"
  }
}
