# One role per process, each with what that process calls and nothing else.

locals {
  objects = aws_s3_bucket.popsteer.arn
  streams_arn = {
    for key, stream in aws_kinesis_stream.stream : key => stream.arn
  }
  lease_tables = flatten([
    for table in aws_dynamodb_table.leases : [
      table.arn, "${table.arn}/index/*", "${table.arn}-WorkerMetricStats", "${table.arn}-CoordinatorState",
    ]
  ])

  # Without it S3 answers 403 instead of 404 where there is no object yet.
  list_bucket = { Effect = "Allow", Action = ["s3:ListBucket"], Resource = [local.objects] }
  encrypt     = { Effect = "Allow", Action = ["kms:GenerateDataKey"], Resource = [aws_kms_key.popsteer.arn] }
  decrypt     = { Effect = "Allow", Action = ["kms:Decrypt"], Resource = [aws_kms_key.popsteer.arn] }
  tell = {
    Effect    = "Allow"
    Action    = ["cloudwatch:PutMetricData"]
    Resource  = ["*"] # CloudWatch knows no resources, only namespaces
    Condition = { StringEquals = { "cloudwatch:namespace" = [var.namespace] } }
  }
  put_records = ["kinesis:PutRecord", "kinesis:PutRecords", "kinesis:ListShards", "kinesis:DescribeStreamSummary"]
  get_records = [
    "kinesis:DescribeStream", "kinesis:DescribeStreamSummary", "kinesis:ListShards",
    "kinesis:GetShardIterator", "kinesis:GetRecords",
  ]

  statements = {
    probe = [
      { Effect = "Allow", Action = local.put_records, Resource = values(local.streams_arn) },
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${local.objects}/plan/*"] },
      local.list_bucket, local.encrypt, local.decrypt, local.tell,
    ]
    aggregate = [
      { Effect = "Allow", Action = local.get_records, Resource = values(local.streams_arn) },
      {
        Effect = "Allow"
        Action = [
          "dynamodb:CreateTable", "dynamodb:DescribeTable", "dynamodb:UpdateTable", "dynamodb:Scan",
          "dynamodb:Query", "dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem",
          "dynamodb:DeleteItem",
        ]
        Resource = local.lease_tables
      },
      { Effect = "Allow", Action = ["s3:GetObject", "s3:PutObject"], Resource = ["${local.objects}/partials/*"] },
      local.list_bucket, local.encrypt, local.decrypt, local.tell,
    ]
    plan = [
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for name in ["partials", "tables", "state", "evidence", "orders", "plan", "routes"] : "${local.objects}/${name}/*"]
      },
      {
        Effect   = "Allow"
        Action   = ["s3:PutObject"]
        Resource = [for name in ["tables", "state", "evidence", "plan"] : "${local.objects}/${name}/*"]
      },
      {
        Effect   = "Allow"
        Action   = ["s3:DeleteObject"] # beyond the newest few hundred
        Resource = [for name in ["tables", "evidence"] : "${local.objects}/${name}/*"]
      },
      local.list_bucket, local.encrypt, local.decrypt, local.tell,
    ]
    serve = [
      { Effect = "Allow", Action = local.put_records, Resource = [local.streams_arn["bulk"]] },
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = [for name in ["tables", "state"] : "${local.objects}/${name}/*"]
      },
      local.list_bucket, local.encrypt, local.decrypt, local.tell,
    ]
    # Also what an operator's commands need: drain, pin, cap and freeze write orders.
    console = [
      { Effect = "Allow", Action = ["s3:GetObject"], Resource = ["${local.objects}/*"] },
      { Effect = "Allow", Action = ["s3:PutObject"], Resource = ["${local.objects}/orders/*"] },
      local.list_bucket, local.encrypt, local.decrypt,
    ]
  }
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = var.trusted_services
    }
  }
}

resource "aws_iam_role" "process" {
  for_each           = local.statements
  name               = "${var.bucket}-${each.key}"
  description        = "popsteer ${each.key}"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "process" {
  for_each = local.statements
  name     = "popsteer-${each.key}"
  role     = aws_iam_role.process[each.key].id
  policy   = jsonencode({ Version = "2012-10-17", Statement = each.value })
}
