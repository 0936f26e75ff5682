# Names have the defaults of [aws] in popsteer.toml: change both or neither.

variable "region" {
  description = "Region of streams, tables and bucket; [aws] region."
  type        = string
  default     = "eu-west-1"
}

variable "endpoint" {
  description = "One endpoint for every service; empty is AWS itself. [aws] endpoint."
  type        = string
  default     = ""
}

variable "bucket" {
  description = "Bucket of partials, tables, state, orders and evidence; [aws] bucket. Unique in all of S3."
  type        = string
}

variable "bulk_stream" {
  description = "Stream of RTT and demand; also the name of its lease table. [aws] bulk_stream."
  type        = string
  default     = "popsteer-bulk"
}

variable "urgent_stream" {
  description = "Stream of signals; also the name of its lease table. [aws] urgent_stream."
  type        = string
  default     = "popsteer-urgent"
}

variable "bulk_shards" {
  description = "Shards of the bulk stream, 1 MB/s in and 2 MB/s out each; 0 is on demand."
  type        = number
  default     = 0
}

variable "urgent_shards" {
  description = "Shards of the urgent stream; 0 is on demand. One carries about 600 POPs."
  type        = number
  default     = 1
}

variable "retention_hours" {
  description = "How long records can be read again: the longest outage of all aggregators that loses nothing."
  type        = number
  default     = 24

  validation {
    condition     = var.retention_hours >= 24 && var.retention_hours <= 8760
    error_message = "retention_hours: Kinesis keeps records for 24 to 8760 hours."
  }
}

variable "partials_days" {
  description = "Days that partials (the history of measurements) are kept."
  type        = number
  default     = 30
}

variable "evidence_days" {
  description = "Days that evidence (why a table says what it says) is kept."
  type        = number
  default     = 14
}

variable "namespace" {
  description = "CloudWatch namespace that the processes tell their metrics under; [telemetry] namespace."
  type        = string
  default     = "popsteer"
}

variable "alarm_topics" {
  description = "ARNs of SNS topics that hear of alarms; none by default."
  type        = list(string)
  default     = []
}

variable "trusted_services" {
  description = "Who may take the roles: EC2 by default; ecs-tasks.amazonaws.com for ECS."
  type        = list(string)
  default     = ["ec2.amazonaws.com"]
}
