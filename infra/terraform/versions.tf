terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.80"
    }
  }
}

# With an endpoint of its own (the embedded AWS) credentials are fixed, so that no profile of the
# machine leaks into it, as popsteer/aws.py does.
provider "aws" {
  region                      = var.region
  access_key                  = var.endpoint == "" ? null : "local"
  secret_key                  = var.endpoint == "" ? null : "local"
  skip_credentials_validation = var.endpoint != ""
  skip_metadata_api_check     = var.endpoint != ""
  skip_requesting_account_id  = var.endpoint != ""
  s3_use_path_style           = var.endpoint != ""

  dynamic "endpoints" {
    for_each = var.endpoint == "" ? [] : [var.endpoint]
    content {
      cloudwatch = endpoints.value
      dynamodb   = endpoints.value
      iam        = endpoints.value
      kinesis    = endpoints.value
      kms        = endpoints.value
      s3         = endpoints.value
      sts        = endpoints.value
    }
  }

  default_tags {
    tags = { application = "popsteer" }
  }
}
