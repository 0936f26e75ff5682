"""Kinesis to S3 (the stream half), S3 to table (the planner half)."""
