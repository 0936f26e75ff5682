"""All services behind one function: request in, response out, the disk up to date in between.

It runs on one thread, so each request sees and leaves every service whole: a conditional write
cannot be raced, and moto needs no locks.
"""

import sys
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import msgspec

from console.localaws import emulator, kinesis, tables
from console.localaws.account import Account
from console.localaws.emulator import Emulator
from console.localaws.kinesis import Kinesis
from console.localaws.messages import Request, Response
from console.localaws.objects import Objects
from console.localaws.tables import Tables

UPLOADS_MAX = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """What a person may choose."""

    data: Path
    bucket: str
    limited: bool
    """Whether shards throttle as on AWS."""
    stream_bytes_max: int
    partials_age_s_max: float
    clean_period_s: float
    idle_s_max: float
    """Of a connection that nobody uses."""


class Services:
    """Kinesis, DynamoDB, S3, CloudWatch, and whatever else moto knows."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.emulator = Emulator()
        self.account = Account(
            settings.data / "kinesis", settings.stream_bytes_max, limited=settings.limited
        )
        self.kinesis = Kinesis(self.account)
        self.objects = Objects(settings.data / "s3")
        self.tables = Tables(settings.data / "dynamodb", time.monotonic)

    def load(self) -> None:
        """Take up what an earlier process left."""
        self.account.load()
        self.tables.load()
        self.objects.load()

    def handle(self, request: Request) -> Response:
        """Answer any request; a failure of ours is logged and answered with 500."""
        try:
            if request.target.startswith(kinesis.TARGET):
                return self.kinesis.handle(request, time.time_ns() // 1000)
            return self._emulate(request)
        except Exception:  # one bad request must not end the others' service
            traceback.print_exc(file=sys.stderr)
            return _failure()

    def tidy(self) -> None:
        """What is due every half second: large tables, old metrics."""
        self.tables.save()
        emulator.trim_metrics()

    def clean(self) -> None:
        """What is due every minute or so: old records, partials, unfinished uploads."""
        self.account.expire(time.time_ns() // 1000)
        before = datetime.now(UTC) - timedelta(seconds=self.settings.partials_age_s_max)
        self.objects.expire(self.settings.bucket, "partials/", before)
        self.objects.abort_uploads(UPLOADS_MAX)

    def close(self) -> None:
        """Write what is not on disk yet."""
        self.tables.save(at_once=True)

    def _emulate(self, request: Request) -> Response:
        try:
            return self.emulator.handle(request)
        finally:
            if request.target.startswith(tables.TARGET):
                self.tables.note(request)
            elif request.method not in ("GET", "HEAD"):
                self.objects.sync()


def _failure() -> Response:
    body = msgspec.json.encode({"__type": "InternalFailure", "message": "see the log"})
    headers = [("content-type", kinesis.CONTENT_TYPE), ("x-amzn-requestid", str(uuid4()))]
    return Response(500, body, headers)
