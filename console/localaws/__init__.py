"""The embedded AWS: Kinesis, DynamoDB, S3 and CloudWatch in one process on loopback.

`python -m console.localaws --listen 127.0.0.1:PORT --data DIR` serves them on one port, over
HTTP/1.1 and cleartext HTTP/2 (the KCL demands the latter). Kinesis is our own (`kinesis.py`),
because shards must split, merge, trim and survive a kill as on AWS; DynamoDB, S3 and CloudWatch
are moto's, with disks behind them. Other code needs nothing of this package but `provision.py`.
"""
