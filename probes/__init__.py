"""Measure, batch, put into Kinesis."""
