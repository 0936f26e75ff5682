"""Who and where the embedded AWS is, whatever a client believes.

There is one region: a client's choice changes neither what it sees nor where it lies on disk, so
that no two settings on one machine can miss each other.
"""

ACCOUNT = "123456789012"
REGION = "us-east-1"
"""S3 treats this one as the default; others would need a location constraint."""
