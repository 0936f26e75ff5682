output "streams" {
  description = "ARN of each stream."
  value       = local.streams_arn
}

output "bucket" {
  description = "Name of the bucket."
  value       = aws_s3_bucket.popsteer.id
}

output "roles" {
  description = "ARN of the role of each process."
  value       = { for process, role in aws_iam_role.process : process => role.arn }
}
