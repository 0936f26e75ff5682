resource "aws_s3_bucket" "popsteer" {
  bucket = var.bucket
}

resource "aws_s3_bucket_public_access_block" "popsteer" {
  bucket                  = aws_s3_bucket.popsteer.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_server_side_encryption_configuration" "popsteer" {
  bucket = aws_s3_bucket.popsteer.id

  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = aws_kms_key.popsteer.arn
    }
  }
}

resource "aws_s3_bucket_versioning" "popsteer" {
  bucket = aws_s3_bucket.popsteer.id

  versioning_configuration {
    status = "Enabled"
  }
}

data "aws_iam_policy_document" "tls_only" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.popsteer.arn, "${aws_s3_bucket.popsteer.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }

    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "popsteer" {
  bucket     = aws_s3_bucket.popsteer.id
  policy     = data.aws_iam_policy_document.tls_only.json
  depends_on = [aws_s3_bucket_public_access_block.popsteer]
}

resource "aws_s3_bucket_lifecycle_configuration" "popsteer" {
  bucket     = aws_s3_bucket.popsteer.id
  depends_on = [aws_s3_bucket_versioning.popsteer]

  rule {
    id     = "partials"
    status = "Enabled"
    filter {
      prefix = "partials/"
    }
    expiration {
      days = var.partials_days
    }
  }

  rule {
    id     = "evidence"
    status = "Enabled"
    filter {
      prefix = "evidence/"
    }
    expiration {
      days = var.evidence_days
    }
  }

  # The POP state is rewritten every two seconds: 43,200 old versions a day.
  rule {
    id     = "old-versions"
    status = "Enabled"
    filter {
      prefix = ""
    }
    expiration {
      expired_object_delete_marker = true
    }
    noncurrent_version_expiration {
      noncurrent_days = 1
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 1
    }
  }
}
